"""The bus's port: takes connections, reads the head of each one's request, and hands it on or refuses it.

A connection is handed on once, to the WebSocket transport with a canonical head or to the HTTP application as
it came; nothing of this module runs for it afterwards. Every refusal is answered here: with a status, a JSON
body, a counter and a line in the log. `upgrade` judges, `request_head` parses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from arqonbus.bus.failed_logins import MAX_DELAY, FailedLogins, LineBudget
from arqonbus.bus.node import Node
from arqonbus.bus.other_end import other_end
from arqonbus.bus.pending import PendingConnections
from arqonbus.bus.proxy_header import read_proxy_header
from arqonbus.bus.request_head import BadRequest, HeadReader, RequestHead
from arqonbus.bus.server_tls import ReloadableTls, Sweeper
from arqonbus.bus.upgrade import Accepted, Refused, Request, canonical_head, refused
from arqonbus.config.network import ENDPOINT
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.ids import new_ulid
from arqonbus.shield.proxies import TrustedProxies, plain_address

ACCEPT_BATCH = 64  # connections that are taken at once, before others get their turn
ACCEPT_PAUSE = 0.1  # seconds, when this process has no file descriptor left
MAX_PENDING = 4096  # connections whose request is awaited at one time
MAX_PENDING_PER_ADDRESS = 1024  # trusted proxies are not counted: they stand for many
LINGER_SECONDS = 2.0  # in which a refused client may read its answer and close
LINGER_BYTES = 256 * 1024  # that it may still send
TLS_SHUTDOWN_SECONDS = 5.0

# Makes the WebSocket protocol of a connection that was accepted; it is then given a canonical head.
UpgradeProtocols = Callable[[Accepted], asyncio.BaseProtocol]
# Makes the HTTP protocol of a connection whose request is for another path than the bus's. It is then given
# the request as it came, and may read further ones.
HttpApplication = Callable[[Request], asyncio.BaseProtocol]

logger = logging.getLogger(__name__)


class Front:
    """Everything that connects to one listening socket, until it is handed on."""

    def __init__(
        self,
        node: Node,
        bound: socket.socket,
        tls: ReloadableTls | None,
        upgrade: UpgradeProtocols,
        application: HttpApplication | None = None,
    ) -> None:
        """Take what connects to `bound` from now on. Without an application only the endpoint is served."""
        settings = node.settings.server
        self.node, self.upgrade, self.application = node, upgrade, application
        self.timeout = settings.handshake_timeout
        self.proxy_protocol = settings.proxy_protocol
        self.trusted = TrustedProxies(settings.trusted_proxies)
        self.pending = PendingConnections(min(MAX_PENDING, settings.max_connections), MAX_PENDING_PER_ADDRESS)
        self.failed_logins = FailedLogins()
        self.tls: dict[str, Any] = {}
        self._sweeper: Sweeper | None = None
        if tls is not None:
            self.tls = {
                "ssl": tls.context,
                "ssl_handshake_timeout": self.timeout,
                "ssl_shutdown_timeout": TLS_SHUTDOWN_SECONDS,
            }
            self._sweeper = Sweeper()
        self._bound = bound
        self._loop = asyncio.get_running_loop()
        self._lines = LineBudget(self._loop.time())
        bound.setblocking(False)
        self._loop.add_reader(bound, self._accept)

    def close(self) -> None:
        """Take no further connections, and end those that were not handed on."""
        if self._bound.fileno() >= 0:
            self._loop.remove_reader(self._bound)
            self._bound.close()
        self.pending.end_all()

    def await_request(self, connection: _PendingConnection, address: str) -> None:
        """Count the connection among those that wait, by its address unless many share it."""
        self.pending.add(connection, None if self.trusted.trusts(address) else address)

    def back_off(self, refusal: Refused, address: str) -> tuple[Refused, float]:
        """The refusal to answer with, and the seconds to hold it back: more if its address keeps failing."""
        per_minute = self.node.settings.limits.failed_logins_per_minute
        if refusal.status != HTTPStatus.UNAUTHORIZED or not per_minute or self.trusted.trusts(address):
            return refusal, 0
        seconds = self.failed_logins.hold(address, per_minute, self._loop.time())
        if seconds is None:
            text = "too many tokens of this address were refused; send a valid one"
            return refused(BusError(Code.RATE_LIMITED, text, retry_after_ms=round(MAX_DELAY * 1000))), 0
        return refusal, seconds

    def refuse(self, refusal: Refused, address: str) -> None:
        """Count a refusal and log it."""
        self.node.counters.connections_refused[refusal.code] += 1
        extra: dict[str, object] = {
            "code": refusal.code,
            "status": int(refusal.status),
            "address": address,
            "reason": refusal.reason,
        }
        self._log("connection refused", address, extra)

    def give_up(self, reason: str, address: str, error: BaseException | None = None) -> None:
        """Count a connection that ended before it had a request to answer, and log it."""
        self.node.counters.connections_unopened[reason] += 1
        extra: dict[str, object] = {"address": address, "reason": _text(reason, error)}
        self._log("a connection was not opened", address, extra)

    def _log(self, message: str, address: str, extra: dict[str, object]) -> None:
        """Log what a client did, at most so often as its lines fit the budget."""
        suppressed = self._lines.spend(address, self._loop.time())
        if suppressed is not None:
            logger.info(message, extra={**extra, "suppressed": suppressed} if suppressed else extra)

    def _accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                connection, address = self._bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("a connection was not taken", extra={"reason": error.strerror})
                self._loop.remove_reader(self._bound)
                self._loop.call_later(ACCEPT_PAUSE, self._accept_again)
                return
            connection.setblocking(False)
            if self._sweeper is not None:
                self._sweeper.count(len(self.node.clients))
            _PendingConnection(self, connection, address[0])

    def _accept_again(self) -> None:
        if self._bound.fileno() >= 0:
            self._loop.add_reader(self._bound, self._accept)


class _PendingConnection(asyncio.Protocol):
    """One connection until it is handed on, or refused and gone."""

    def __init__(self, front: Front, connection: socket.socket, address: str) -> None:
        self._front = front
        self._address = plain_address(address)  # of the socket, or as proxies name it
        self._named: str | None = None
        self._reader = HeadReader()
        self._transport: asyncio.Transport | None = None
        self._answers_head = False  # the method is HEAD
        self._settled = False  # refused, given up or handed on
        self._held: Refused | None = None  # an answer that is given later
        self._discarded = 0
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(front.timeout, self._on_timeout)
        self._opening = loop.create_task(self._open(connection))
        front.await_request(self, self._address)

    # -- before there is a request

    async def _open(self, connection: socket.socket) -> None:
        """Read the header of a TCP proxy and finish the handshake of TLS, where there are such."""
        front = self._front
        step = "proxy"
        try:
            if front.proxy_protocol and front.trusted.trusts(self._address):
                self._named = await read_proxy_header(connection)
                if self._named is not None:
                    self._address = plain_address(self._named)
                    front.pending.remove(self)
                    front.await_request(self, self._address)
            step = "tls"
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: self, connection, **front.tls)
        except (OSError, ValueError) as error:
            connection.close()
            self._give_up("left" if isinstance(error, ConnectionError) else step, error)
        except asyncio.CancelledError:
            connection.close()
            raise

    def give_way(self) -> None:
        """See Awaited."""
        if self._held is not None:
            self._respond(self._held, linger=False)
        elif not self._settled and self._reader.started:
            error = BusError(
                Code.TOO_MANY_CONNECTIONS, "too many connections wait with an unfinished request"
            )
            self._refuse(refused(error), linger=False)
        else:
            self._give_up("crowded")
            self._end()

    def _on_timeout(self) -> None:
        if not self._settled and self._reader.started:
            seconds = f"{self._front.timeout:g}"
            error = BusError(Code.TIMEOUT, f"the request was not complete in {seconds} s; send it at once")
            self._refuse(refused(error))
        else:
            self._give_up("timeout")
            self._end()

    def _end(self) -> None:
        self._opening.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _settle(self) -> None:
        self._settled = True
        self._timer.cancel()

    def _give_up(self, reason: str, error: BaseException | None = None) -> None:
        self._front.pending.remove(self)
        if not self._settled:
            self._settle()
            self._front.give_up(reason, self._address, error)

    # -- from asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._settled:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self._end()
            return
        try:
            head = self._reader.feed(data)
            judged = None if head is None else self._judge(head)
        except BadRequest as error:
            judged = refused(error)
        except Exception:
            # The client receives an id, the log the reason: exception text never leaves the node.
            incident = new_ulid()
            logger.exception("a request could not be judged", extra={"incident": incident})
            judged = refused(BusError(Code.INTERNAL_ERROR, f"the bus failed; incident {incident}"))
        if isinstance(judged, Refused):
            refusal, seconds = self._front.back_off(judged, self._address)
            self._refuse(refusal, after=seconds)
        elif judged is not None:
            self._hand_on(*judged)

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._release()
        self._give_up("left", error)

    # -- the request

    def _judge(self, head: RequestHead) -> Refused | tuple[asyncio.BaseProtocol, bytes]:
        """A refusal, or the protocol that the connection is handed on to and the head that it is given."""
        front, transport = self._front, self._transport
        assert transport is not None
        self._answers_head = head.method == "HEAD"
        where = other_end(transport, self._named)
        request = Request(head.target, head.headers, *where, head.method, head.version)
        if front.application is not None and head.target.partition("?")[0] != ENDPOINT:
            return front.application(request), head.raw
        self._address = front.node.handshake.address(request)
        decision = front.node.decide(request)
        if isinstance(decision, Refused):
            return decision
        return front.upgrade(decision), canonical_head(request)

    def _hand_on(self, protocol: asyncio.BaseProtocol, head: bytes) -> None:
        transport, self._transport = self._transport, None
        assert transport is not None
        self._front.pending.remove(self)
        self._settle()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        _feed(protocol, head + self._reader.rest)

    def _refuse(self, refusal: Refused, *, linger: bool = True, after: float = 0) -> None:
        """Count the refusal and answer with it, at once or so many seconds later."""
        self._settle()
        self._front.refuse(refusal, self._address)
        if after:
            self._held = refusal
            self._timer = asyncio.get_running_loop().call_later(after, self._respond, refusal)
        else:
            self._respond(refusal, linger=linger)

    def _respond(self, refusal: Refused, *, linger: bool = True) -> None:
        """Answer and close, but not before the client had time to read the answer.

        What a client still sends is read and thrown away: a socket that is closed with bytes unread resets
        the connection, and the answer is lost on its way.
        """
        transport = self._transport
        assert transport is not None
        self._release()
        transport.write(response(refusal, body=not self._answers_head))
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._on_timeout)
        with contextlib.suppress(OSError):
            if linger and transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()

    def _release(self) -> None:
        if self._held is not None:
            self._held = None
            self._front.failed_logins.release(self._address)


def response(refusal: Refused, *, body: bool = True) -> bytes:
    """The bytes of a refusal; `body` False: as an answer to HEAD."""
    fields = [
        *refusal.headers,
        ("Date", formatdate(usegmt=True)),
        ("Content-Length", str(len(refusal.body))),
        ("Connection", "close"),
    ]
    lines = [f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in fields]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head + refusal.body if body else head


def _feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    if isinstance(protocol, asyncio.BufferedProtocol):
        while data:
            buffer = memoryview(protocol.get_buffer(len(data))).cast("B")
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]
    else:
        assert isinstance(protocol, asyncio.Protocol)
        protocol.data_received(data)


def _text(reason: str, error: BaseException | None) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{reason}: {error.reason or 'the handshake failed'}"
    return f"{reason}: {error}" if error else reason


__all__ = ["Front", "HttpApplication", "UpgradeProtocols", "response"]
