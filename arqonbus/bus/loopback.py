"""A client within the process: what it publishes goes the way of what a socket brings, by the same gates.

It speaks protobuf frames with the node and tells of each message what the bus answered. Nothing is delivered
to it, since it joins no room.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from arqonbus.bus.direct import client_id
from arqonbus.bus.node import Node
from arqonbus.bus.peer import Peer
from arqonbus.bus.upgrade import Accepted
from arqonbus.bus.wire import PROTOBUF
from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.shield.tokens import Identity


class LoopbackClosed(Exception):
    """The bus closed the connection; what was not answered may or may not have been stored."""


class Loopback:
    """A connection without a socket. `prefix` begins the client id: no client's id begins with a word."""

    def __init__(self, node: Node, identity: Identity, prefix: str) -> None:
        self._node = node
        self._waiting: dict[str, asyncio.Future[Envelope]] = {}
        self.closed = False
        accepted = Accepted(identity, PROTOBUF, None)
        self._peer: Peer = node.connect(accepted, self, "", client=f"{prefix}.{client_id(node.name)}")
        self._peer.skew.due = math.inf  # it passes on what others made, whenever that was

    async def publish(self, envelopes: Sequence[Envelope], seconds: float) -> Sequence[Envelope]:
        """The answers of the bus, in order. The ids are all different.

        Raises LoopbackClosed, or TimeoutError when the answers do not come in time.
        """
        if self.closed or self._peer.closing:
            raise LoopbackClosed
        loop = asyncio.get_running_loop()
        answers = [self._waiting.setdefault(envelope.id, loop.create_future()) for envelope in envelopes]
        try:
            self._node.receive(self._peer, (wire_protobuf.frame_of(envelopes),))
            async with asyncio.timeout(seconds):
                return [await answer for answer in answers]
        finally:
            for envelope in envelopes:
                self._waiting.pop(envelope.id, None)

    def end(self) -> None:
        """Disconnect."""
        if not self.closed:
            self.closed = True
            self._node.disconnected(self._peer, 1000)
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LoopbackClosed())

    def may(self, action: str, room: str) -> bool:
        """True if the identity or the room's rule grants the action."""
        return self._peer.session.may(action, room)  # type: ignore[arg-type]

    # -- what a peer asks of its transport

    def write(self, frames: bytes) -> None:
        for payload in _payloads(frames):
            for envelope, _ in wire_protobuf.decode(payload):
                waiting = self._waiting.get(envelope.reply_to)
                if waiting is not None and not waiting.done():
                    waiting.set_result(envelope)

    def buffered(self) -> int:
        return 0

    def ping(self) -> None:
        self._peer.last_seen = self._peer.last_envelope = asyncio.get_running_loop().time()

    def close(self, code: int, reason: str) -> None:
        asyncio.get_running_loop().call_soon(self.end)

    def abort(self) -> None:
        self.end()


def _payloads(frames: bytes) -> list[bytes]:
    """The payloads of a server's frames: unmasked and whole."""
    found: list[bytes] = []
    at = 0
    while at < len(frames):
        size = frames[at + 1]
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(frames[at : at + width])
            at += width
        found.append(frames[at : at + size])
        at += size
    return found


__all__ = ["Loopback", "LoopbackClosed"]
