"""The reference server adapter: the I/O-free protocol of websockets behind an asyncio socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as HttpRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from arqonbus.bus.fragments import BrokenMessage, FragmentedMessage, missing_bytes
from arqonbus.bus.node import Node
from arqonbus.bus.peer import Peer
from arqonbus.bus.upgrade import Accepted

CLOSE_TIMEOUT = 5.0
ABNORMAL = 1006
TURN_BYTES = 2**13  # read from one socket before the others have their turn
MAX_PONGS = 2**20  # bytes of answers to pings, beside the client's budget, that may wait for it


class _WebsocketsConnection(asyncio.BufferedProtocol):
    """One connection, as asyncio calls it and as the peer writes to it."""

    def __init__(self, node: Node, accepted: Accepted) -> None:
        self._node = node
        self._accepted = accepted
        self._protocol = ServerProtocol(max_size=node.settings.protocol.max_frame_bytes)
        self._transport: asyncio.Transport
        self._peer: Peer | None = None
        self._read = memoryview(b"")  # what a read fills; nothing between reads
        self._has_short = False  # fragments or control frames came in this turn
        self._missing = 0  # bytes that they count for beyond their own
        self._message = FragmentedMessage(node.settings.protocol.max_frame_bytes)
        self._close_code = ABNORMAL

    # -- from asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1)  # not 0, see server_picows

    def get_buffer(self, size: int) -> memoryview:
        self._read = memoryview(bytearray(TURN_BYTES))  # asyncio's TLS fills it slice by slice
        return self._read

    def buffer_updated(self, size: int) -> None:
        data, self._read = bytes(self._read[:size]), memoryview(b"")
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, HttpRequest):
                self._upgrade(event)
            elif self._peer is not None and isinstance(event, Frame):
                self._on_frame(self._peer, event)
        if self._has_short and self._peer is not None:
            missing, self._missing, self._has_short = self._missing, 0, False
            self._node.receive_short(self._peer, missing)
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
        """Answer the canonical head, which was judged before."""
        response = self._protocol.accept(request)
        if self._accepted.subprotocol:
            response.headers["Sec-WebSocket-Protocol"] = self._accepted.subprotocol
        self._protocol.send_response(response)
        self._send_pending()
        self._peer = self._node.connect(self._accepted, self, self._accepted.address)

    # -- frames

    def _on_frame(self, peer: Peer, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode in (Opcode.PING, Opcode.PONG):
            self._missing += missing_bytes(len(frame.data))
            self._has_short = True
        elif opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            message, payload = self._message, bytes(frame.data)
            first = opcode is not Opcode.CONT
            if not (first and frame.fin):
                self._missing += missing_bytes(len(payload))
                self._has_short = True
            try:
                whole = message.add(payload, first=first, text=opcode is Opcode.TEXT, last=frame.fin)
            except BrokenMessage as error:
                peer.close(error.code, str(error))
                return
            if whole is not None:
                self._node.receive_whole(peer, whole, text=message.text)

    def _send_pending(self) -> None:
        data = self._protocol.data_to_send()
        if sent := b"".join(data):
            self._transport.write(sent)
        if b"" in data and not self._transport.is_closing():  # the protocol says that it was all
            self._transport.close()


def protocols(node: Node) -> Callable[[Accepted], asyncio.BaseProtocol]:
    """Make the protocol of an accepted connection. It reads a canonical head and judges nothing."""
    return lambda accepted: _WebsocketsConnection(node, accepted)


__all__ = ["protocols"]
