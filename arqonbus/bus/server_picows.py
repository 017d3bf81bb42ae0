"""The fast server adapter: picows reads frames, the node's shared frames go straight to the socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from picows import (
    WSAutoPingStrategy,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # the stub leaves it out

from arqonbus.bus.fragments import LEAST_FRAME_BYTES, BrokenMessage, FragmentedMessage, missing_bytes
from arqonbus.bus.frames import Close, close_answer
from arqonbus.bus.node import Node
from arqonbus.bus.peer import Peer
from arqonbus.bus.upgrade import Accepted

READ_BUFFER = 4096  # bytes per connection at first; it grows with the frames that come
TURN_BYTES = 2**15  # read from one socket before the others have their turn
SHORT_TURN_BYTES = 2**11  # the same for who sends many short frames, each of which is work
MANY_SHORT = 64  # fragments and control frames in one turn
CLOSE_TIMEOUT = 5.0
ABNORMAL = 1006


class _PicowsConnection(WSListener):
    """One connection, as picows calls it and as the peer writes to it."""

    def __init__(self, node: Node, accepted: Accepted) -> None:
        super().__init__()
        self._node = node
        self._accepted: Accepted | None = accepted
        self._peer: Peer | None = None
        self._transport: WSTransport | None = None
        self._write: Any = None
        self._protocol: Any = None
        self._inbox: list[bytes | str] = []
        self._message = FragmentedMessage(node.settings.protocol.max_frame_bytes)
        self._has_short = False  # fragments or control frames came in this turn
        self._missing = 0  # bytes that they count for beyond their own
        self._ping: bytes | None = None  # the newest that is not answered
        self._close_code = ABNORMAL

    # -- from picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        under = transport.underlying_transport
        # Blocked as soon as anything waits. Not 0: asyncio's TLS takes a full and an empty buffer to be the
        # same then, calls a socket blocked to which everything was written, and never says that it is free.
        under.set_write_buffer_limits(high=1)
        self._write, self._protocol = under.write, under.get_protocol()
        accepted, self._accepted = self._accepted, None
        assert accepted is not None
        self._peer = self._node.connect(accepted, self, accepted.address)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        peer = self._peer
        if peer is None:
            return
        kind = frame.msg_type
        inbox = self._inbox
        reserved = frame.rsv1 or frame.rsv2 or frame.rsv3
        if kind == WSMsgType.BINARY and frame.fin and not self._message.started and not reserved:
            inbox.append(frame.get_payload_as_bytes())
            if not frame.last_in_buffer:  # what came together is handled together
                return
            self._inbox = []
            self._node.receive(peer, inbox)
            return
        if inbox:
            self._inbox = []
            self._node.receive(peer, inbox)
        if peer.closing and kind != WSMsgType.CLOSE:
            return
        if reserved:
            peer.close(Close.PROTOCOL, "no extension was negotiated")
        elif kind == WSMsgType.CLOSE:
            self._on_close(frame)
        elif kind == WSMsgType.PING or kind == WSMsgType.PONG:
            payload = frame.get_payload_as_bytes()
            self._missing += missing_bytes(len(payload))
            self._has_short = True
            if kind == WSMsgType.PING:
                self._ping = payload
        else:
            self._on_data(peer, kind, frame)
        if self._has_short and frame.last_in_buffer:
            self._end_of_turn(peer, transport)

    def _end_of_turn(self, peer: Peer, transport: WSTransport) -> None:
        """Count the short frames that came together, and answer their newest ping (5.5.3).

        Who does not read its pongs gets no more of them.
        """
        missing, ping = self._missing, self._ping
        self._missing, self._ping, self._has_short = 0, None, False
        many = missing > MANY_SHORT * LEAST_FRAME_BYTES
        self._protocol.turn_bytes = SHORT_TURN_BYTES if many else TURN_BYTES
        self._node.receive_short(peer, missing)
        if ping is not None and not peer.closing and not peer.blocked:
            transport.send_pong(ping)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
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
        self._node.counters.bytes_out += len(frames)
        self._write(frames)

    def buffered(self) -> int:
        assert self._transport is not None
        return int(self._transport.underlying_transport.get_write_buffer_size())

    def ping(self) -> None:
        assert self._transport is not None
        self._transport.send_ping()

    def close(self, code: int, reason: str) -> None:
        assert self._transport is not None
        self._close_code = code
        self._transport.send_close(code, reason.encode()[:123])  # type: ignore[arg-type]
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.disconnect, False)

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.disconnect(False)

    # -- the rarer frames

    def _on_close(self, frame: WSFrame) -> None:
        assert self._transport is not None
        assert self._peer is not None
        if not self._peer.closing:
            answer = close_answer(frame.get_payload_as_bytes())
            self._close_code = answer or Close.NORMAL
            self._peer.closing = True
            self._transport.send_close(answer or Close.NORMAL)  # type: ignore[arg-type]
        self._transport.disconnect()

    def _on_data(self, peer: Peer, kind: WSMsgType, frame: WSFrame) -> None:
        message, payload = self._message, frame.get_payload_as_bytes()
        first = kind != WSMsgType.CONTINUATION
        if not (first and frame.fin):
            self._missing += missing_bytes(len(payload))
            self._has_short = True
        try:
            whole = message.add(payload, first=first, text=kind == WSMsgType.TEXT, last=bool(frame.fin))
        except BrokenMessage as error:
            peer.close(error.code, str(error))
            return
        if whole is not None:
            self._node.receive_whole(peer, whole, text=message.text)


class _TurnTaking(WSProtocol):  # type: ignore[misc]  # the stub leaves it out
    """Takes a bounded number of bytes from the socket at one time, whatever waits there."""

    turn_bytes = TURN_BYTES

    def get_buffer(self, size: int) -> memoryview:
        return super().get_buffer(size)[: self.turn_bytes]  # type: ignore[no-any-return]


def protocols(node: Node) -> Callable[[Accepted], asyncio.BaseProtocol]:
    """Make the protocol of an accepted connection. It reads a canonical head and judges nothing."""
    settings = node.settings
    logger = logging.getLogger("picows.server")

    def protocol(accepted: Accepted) -> asyncio.BaseProtocol:
        names = [("Sec-WebSocket-Protocol", accepted.subprotocol)] if accepted.subprotocol else []
        response = WSUpgradeResponse.create_101_response(names)

        def on_request(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
            return WSUpgradeResponseWithListener(response, _PicowsConnection(node, accepted))

        # Made here and not by ws_create_server, which reads and refuses requests by rules of its own.
        return _TurnTaking(
            None,  # host and port: of clients
            None,  # path: of clients
            False,  # is_client_side
            on_request,
            logger,
            True,  # disconnect_on_exception
            None,  # websocket_handshake_timeout: the head is whole
            False,  # enable_auto_ping
            20,  # auto_ping_idle_timeout
            20,  # auto_ping_reply_timeout
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # enable_auto_pong: it would answer pings whose reserved bits are set
            settings.protocol.max_frame_bytes,
            None,  # extra_headers: of clients
            READ_BUFFER,
        )

    return protocol


__all__ = ["protocols"]
