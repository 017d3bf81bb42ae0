"""Opens the bus's port with one of the two server adapters behind it.

`picows` is the fast one. `websockets` is the reference implementation of the same `Transport`: the sessions
and their tests run on both, so that neither library's habits become ours.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Protocol

from arqonbus.bus.node import Node
from arqonbus.config.network import Server as ServerSettings

BACKLOG = 4096


class Listening(Protocol):
    """An open port."""

    def close(self) -> None:
        """Take no further connections."""


class PortTaken(Exception):
    """The address cannot be bound; the text is a sentence for the operator."""


async def listen(node: Node) -> Listening:
    """Open the port of the profile. Raises PortTaken."""
    settings = node.settings.server
    bound = bind(settings.host, settings.port, "server")
    tls = tls_context(settings)
    # Imported here: only the chosen library is loaded.
    if settings.transport == "picows":
        from arqonbus.bus import server_picows

        return await server_picows.serve(node, bound, tls, BACKLOG)
    from arqonbus.bus import server_websockets

    return await server_websockets.serve(node, bound, tls, BACKLOG)


def bind(host: str, port: int, section: str) -> socket.socket:
    """A bound socket. Raises PortTaken with a sentence that names the profile's section and what to do."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise PortTaken(
            f"{section}.host {host!r} is no address of this machine ({error.strerror})"
        ) from error
    bound = socket.socket(family, kind, number)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} on {host} is taken, perhaps by another bus; stop it or set {section}.port"
            ) from error
        raise PortTaken(f"port {port} on {host} cannot be opened: {error.strerror}") from error
    return bound


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the profile's certificate; None where the profile names none."""
    tls = settings.tls
    if tls.cert_file is None or tls.key_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


__all__ = ["BACKLOG", "Listening", "PortTaken", "bind", "listen", "tls_context"]
