"""The fast server adapter: picows reads frames, the node's shared frames go straight to the socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
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

from arqonbus.bus.frames import Close, close_answer
from arqonbus.bus.node import Node
from arqonbus.bus.other_end import other_end
from arqonbus.bus.peer import Peer
from arqonbus.bus.upgrade import Accepted, Refused, Request

READ_BUFFER = 4096  # bytes per connection at first; it grows with the frames that come
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
        self._inbox: list[bytes | str] = []
        self._fragments: list[bytes] = []
        self._fragment_type = WSMsgType.BINARY
        self._close_code = ABNORMAL

    # -- from picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        under = transport.underlying_transport
        # Blocked as soon as anything waits. Not 0: asyncio's TLS takes a full and an empty buffer to be the
        # same then, calls a socket blocked to which everything was written, and never says that it is free.
        under.set_write_buffer_limits(high=1)
        self._write = under.write
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
        if kind == WSMsgType.BINARY and frame.fin and not self._fragments and not reserved:
            inbox.append(frame.get_payload_as_bytes())
            if not frame.last_in_buffer:  # what came together is handled together
                return
            self._inbox = []
            self._node.receive(peer, inbox)
            return
        if inbox:
            self._inbox = []
            self._node.receive(peer, inbox)
        if reserved:
            peer.close(Close.PROTOCOL, "no extension was negotiated")
        elif kind == WSMsgType.PONG:
            peer.last_seen = asyncio.get_running_loop().time()
        elif kind == WSMsgType.PING:
            # Who does not read its pongs gets no more of them: the newest ping is what counts.
            if not peer.closing and not peer.blocked:
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            self._on_close(frame)
        else:
            self._on_data(peer, kind, frame)

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
        if (kind == WSMsgType.CONTINUATION) is not bool(self._fragments):
            peer.close(Close.PROTOCOL, "fragments are out of order")
            return
        if kind != WSMsgType.CONTINUATION:
            self._fragment_type = kind
        self._fragments.append(frame.get_payload_as_bytes())
        if sum(map(len, self._fragments)) > self._node.settings.protocol.max_frame_bytes:
            peer.close(Close.TOO_BIG, "the message is larger than max_frame_bytes")
        elif frame.fin:
            message, self._fragments = b"".join(self._fragments), []
            self._node.receive_whole(peer, message, text=self._fragment_type == WSMsgType.TEXT)


def protocols(node: Node) -> Callable[[str | None], asyncio.BaseProtocol]:
    """What makes the protocol of one connection; `named`: where a proxy says that its other end is."""
    settings = node.settings
    logger = logging.getLogger("picows.server")

    def protocol(named: str | None) -> asyncio.BaseProtocol:
        # Made here and not by ws_create_server: a decision needs the address and the certificate, and what
        # picows shows of a request holds neither.
        def on_request(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
            return _answer(node, _request_of(request, made.transport.underlying_transport, named))

        made = WSProtocol(
            None,  # host and port: of clients
            None,  # path: of clients
            False,  # is_client_side
            on_request,
            logger,
            True,  # disconnect_on_exception
            settings.server.handshake_timeout,
            False,  # enable_auto_ping
            20,  # auto_ping_idle_timeout
            20,  # auto_ping_reply_timeout
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # enable_auto_pong: it would answer pings whose reserved bits are set
            settings.protocol.max_frame_bytes,
            None,  # extra_headers: of clients
            READ_BUFFER,
        )
        return made  # type: ignore[no-any-return]

    return protocol


def _answer(node: Node, request: Request) -> WSUpgradeResponseWithListener:
    decision = node.decide(request)
    if isinstance(decision, Refused):
        response = WSUpgradeResponse.create_error_response(
            decision.status, decision.body, list(decision.headers)
        )
        return WSUpgradeResponseWithListener(response, None)
    names = [("Sec-WebSocket-Protocol", decision.subprotocol)] if decision.subprotocol else []
    response = WSUpgradeResponse.create_101_response(names)
    return WSUpgradeResponseWithListener(response, _PicowsConnection(node, decision))


def _request_of(request: WSUpgradeRequest, transport: asyncio.BaseTransport, named: str | None) -> Request:
    headers: dict[str, Sequence[str]] = {}
    for name in request.headers:
        headers[name.lower()] = request.headers.getall(name)
    return Request(request.path.decode("latin-1"), headers, *other_end(transport, named))


__all__ = ["protocols"]
