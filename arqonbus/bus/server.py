"""Opens the bus's port: the front, with one of the two server adapters behind it.

`picows` is the fast one. `websockets` is the reference implementation of the same `Transport`: the sessions
and their tests run on both, so that neither library's habits become ours.
"""

from __future__ import annotations

import errno
import socket
import ssl

from arqonbus.bus.front import Front
from arqonbus.bus.node import Node
from arqonbus.bus.server_tls import ReloadableTls, reloadable_tls
from arqonbus.config.network import Server as ServerSettings

BACKLOG = 4096


class OpenPort:
    """The bus's port, and its certificates."""

    def __init__(self, front: Front, tls: ReloadableTls | None) -> None:
        self._front = front
        self._tls = tls

    def close(self) -> None:
        """Take no further connections."""
        self._front.close()

    def reload(self, settings: ServerSettings) -> None:
        """Read the certificates again, for new connections. Raises ValueError with a sentence."""
        if self._tls is None:
            return
        try:
            self._tls.reload(settings.tls)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"the files of server.tls cannot be used: {error.strerror or error}") from error


class PortTaken(Exception):
    """The address cannot be bound; the text is a sentence for the operator."""


async def listen(node: Node) -> OpenPort:
    """Open the port of the profile. Raises PortTaken."""
    settings = node.settings.server
    bound = take_port(settings.host, settings.port, "server")
    tls = reloadable_tls(settings.tls)
    # Imported here: only the chosen library is loaded.
    if settings.transport == "picows":
        from arqonbus.bus.server_picows import protocols
    else:
        from arqonbus.bus.server_websockets import protocols
    return OpenPort(Front(node, bound, tls, protocols(node)), tls)


def take_port(host: str, port: int, section: str) -> socket.socket:
    """A socket that listens there. Raises PortTaken with a sentence: the profile's section, and what to do.

    It listens at once, because several sockets can be bound to a port before one listens.
    """
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
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} on {host} is taken, perhaps by another bus; stop it or set {section}.port"
            ) from error
        raise PortTaken(f"port {port} on {host} cannot be opened: {error.strerror}") from error
    return bound


__all__ = ["BACKLOG", "OpenPort", "PortTaken", "listen", "take_port"]
