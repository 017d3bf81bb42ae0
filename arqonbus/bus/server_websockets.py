"""The reference server adapter: the I/O-free protocol of websockets behind an asyncio socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from arqonbus.bus.node import Node
from arqonbus.bus.other_end import other_end
from arqonbus.bus.peer import Peer
from arqonbus.bus.upgrade import Refused, Request

CLOSE_TIMEOUT = 5.0
ABNORMAL = 1006
MAX_PONGS = 2**20  # bytes of answers to pings, beside the client's budget, that may wait for it


class _WebsocketsConnection(asyncio.Protocol):
    """One connection, as asyncio calls it and as the peer writes to it."""

    def __init__(self, node: Node, named: str | None) -> None:
        """`named`: where a proxy says that the other end is."""
        self._node = node
        self._named = named
        self._protocol = ServerProtocol(max_size=node.settings.protocol.max_frame_bytes)
        self._transport: asyncio.Transport
        self._peer: Peer | None = None
        self._fragments: list[bytes] = []
        self._fragment_type = Opcode.BINARY
        self._close_code = ABNORMAL
        self._answered = False
        self._handshake_timer: asyncio.TimerHandle

    # -- from asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1)  # not 0, see server_picows
        self._handshake_timer = asyncio.get_running_loop().call_later(
            self._node.settings.server.handshake_timeout, transport.abort
        )

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, HttpRequest):
                # One request is all that a connection has; what is behind it was no frame and ended it.
                if not self._answered and not self._protocol.eof_sent:
                    self._answered = True
                    self._upgrade(event)
            elif self._peer is not None and isinstance(event, Frame):
                self._on_frame(self._peer, event)
        failure = self._protocol.close_expected()
        self._send_pending()
        if self._peer is not None and self.buffered() > MAX_PONGS + self._peer.queue.budget:
            self._transport.abort()  # it sends pings and reads nothing
            return
        if failure and self._protocol.state in (State.CLOSING, State.CLOSED) and self._peer is not None:
            self._peer.closing = True
            if self._close_code == ABNORMAL and self._protocol.close_rcvd is not None:
                self._close_code = int(self._protocol.close_rcvd.code)
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._send_pending()

    def connection_lost(self, error: Exception | None) -> None:
        self._handshake_timer.cancel()
        if self._peer is not None:
            self._node.disconnected(self._peer, self._close_code)

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._node.writable(self._peer, writable=False)

    def resume_writing(self) -> None:
        if self._peer is not None:
            self._node.writable(self._peer, writable=True)

    # -- what a peer asks of its transport

    def write(self, frames: bytes) -> None:
        if not self._transport.is_closing():
            self._node.counters.bytes_out += len(frames)
            self._transport.write(frames)

    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    def ping(self) -> None:
        self._protocol.send_ping(b"")
        self._send_pending()

    def close(self, code: int, reason: str) -> None:
        if self._protocol.state is State.OPEN:
            self._close_code = code
            self._protocol.send_close(code, reason.encode()[:123].decode(errors="ignore"))
            self._send_pending()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)

    def abort(self) -> None:
        self._transport.abort()

    # -- the handshake

    def _upgrade(self, request: HttpRequest) -> None:
        decision = self._node.decide(_request_of(request, self._transport, self._named))
        if isinstance(decision, Refused):
            headers = Headers([*decision.headers, ("Content-Length", str(len(decision.body)))])
            headers["Connection"] = "close"
            response = Response(decision.status, decision.status.phrase, headers, decision.body)
            self._protocol.send_response(response)
            self._send_pending()
            return
        response = self._protocol.accept(request)
        if response.status_code == 101 and decision.subprotocol:
            response.headers["Sec-WebSocket-Protocol"] = decision.subprotocol
        self._protocol.send_response(response)
        self._send_pending()
        if self._protocol.state is State.OPEN:
            self._handshake_timer.cancel()
            self._peer = self._node.connect(decision, self, decision.address)

    # -- frames

    def _on_frame(self, peer: Peer, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.PONG:
            peer.last_seen = asyncio.get_running_loop().time()
        elif opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if opcode is not Opcode.CONT:
                self._fragment_type = opcode
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                message, self._fragments = b"".join(self._fragments), []
                self._node.receive_whole(peer, message, text=self._fragment_type is Opcode.TEXT)

    def _send_pending(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            elif not self._transport.is_closing():
                self._transport.close()


def protocols(node: Node) -> Callable[[str | None], asyncio.BaseProtocol]:
    """What makes the protocol of one connection; `named`: where a proxy says that its other end is."""
    return lambda named: _WebsocketsConnection(node, named)


def _request_of(request: HttpRequest, transport: asyncio.BaseTransport, named: str | None) -> Request:
    headers: dict[str, Sequence[str]] = {}
    for name, _ in request.headers.raw_items():
        headers[name.lower()] = request.headers.get_all(name)
    return Request(request.path, headers, *other_end(transport, named))


__all__ = ["protocols"]
