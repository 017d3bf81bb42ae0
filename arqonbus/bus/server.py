"""Opens the bus's port with one of the two server adapters behind it.

`picows` is the fast one. `websockets` is the reference implementation of the same `Transport`: the sessions
and their tests run on both, so that neither library's habits become ours.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from arqonbus.bus.node import Node
from arqonbus.bus.proxy_header import read_proxy_header
from arqonbus.bus.server_tls import ReloadableTls, reloadable_tls
from arqonbus.config.network import Server as ServerSettings
from arqonbus.shield.proxies import TrustedProxies

BACKLOG = 4096
MAX_OPENING = 4096  # connections whose PROXY header is awaited at one time
SWEEP_AFTER = 256  # connections, at least
ACCEPT_PAUSE = 0.1  # seconds, when this process has no file descriptor left

# A protocol for one connection, whose other end is at that address if a proxy said so.
MakeProtocol = Callable[[str | None], asyncio.BaseProtocol]

logger = logging.getLogger(__name__)


class Listening(Protocol):
    """An open port."""

    def close(self) -> None:
        """Take no further connections."""


class OpenPort:
    """The bus's port, and its certificates."""

    def __init__(self, server: Listening, tls: ReloadableTls | None) -> None:
        self._server = server
        self._tls = tls

    def close(self) -> None:
        """See Listening.close."""
        self._server.close()

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
    context = tls.context if tls else None
    # Imported here: only the chosen library is loaded.
    if settings.transport == "picows":
        from arqonbus.bus.server_picows import protocols
    else:
        from arqonbus.bus.server_websockets import protocols
    make = protocols(node)
    if tls is not None:
        make = _Sweeping(make, node)
    if settings.proxy_protocol:
        return OpenPort(_BehindProxy(settings, bound, context, make), tls)
    loop = asyncio.get_running_loop()
    return OpenPort(
        await loop.create_server(lambda: make(None), sock=bound, ssl=context, backlog=BACKLOG), tls
    )


class _Sweeping:
    """Makes protocols, and frees what connections with TLS leave behind: each a cycle that holds 70 KB.

    The collector itself would look for them after thousands of connections, for they are few objects.
    """

    def __init__(self, make: MakeProtocol, node: Node) -> None:
        self._make, self._node = make, node
        self._opened = 0

    def __call__(self, named: str | None) -> asyncio.BaseProtocol:
        self._opened += 1
        # A look takes longer the more there are, so it comes more seldom.
        if self._opened > max(SWEEP_AFTER, len(self._node.clients) // 4):
            self._opened = 0
            gc.collect()
        return self._make(named)


class _BehindProxy:
    """A port on which trusted proxies say first who is behind them. Others are served as they are."""

    def __init__(
        self, settings: ServerSettings, bound: socket.socket, tls: ssl.SSLContext | None, make: MakeProtocol
    ) -> None:
        self._trusted = TrustedProxies(settings.trusted_proxies)
        self._timeout = settings.handshake_timeout
        self._bound, self._tls, self._make = bound, tls, make
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        bound.setblocking(False)
        self._accepting = self._loop.create_task(self._accept(), name="accept behind a proxy")

    def close(self) -> None:
        """See Listening.close."""
        self._accepting.cancel()
        for task in self._opening:
            task.cancel()
        self._bound.close()

    async def _accept(self) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(self._bound)
            except OSError as error:
                logger.warning("a connection was not taken", extra={"reason": error.strerror})
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            if len(self._opening) >= MAX_OPENING:
                connection.close()
                continue
            task = self._loop.create_task(self._open(connection, address[0]))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket, address: str) -> None:
        named = None
        try:
            async with asyncio.timeout(self._timeout):
                if self._trusted.trusts(address):
                    named = await read_proxy_header(connection)
                await self._loop.connect_accepted_socket(lambda: self._make(named), connection, ssl=self._tls)
        except (OSError, ValueError, TimeoutError) as error:
            logger.info("a connection was not opened", extra={"address": address, "reason": str(error)})
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise


def take_port(host: str, port: int, section: str) -> socket.socket:
    """A socket that listens there. Raises PortTaken with a sentence: the profile's section, and what to do.

    It listens at once, because several sockets can be bound to a port that nobody listens on yet.
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


__all__ = ["BACKLOG", "Listening", "OpenPort", "PortTaken", "listen", "take_port"]
