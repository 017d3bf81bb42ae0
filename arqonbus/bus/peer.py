"""One connected client on this node: its session, its send queue and the socket behind them.

The socket is any `Transport`; the peer decides when to write and when to give up. It holds no thread, no
task and no timer of its own, so that an idle connection costs little.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol

from arqonbus.bus.frames import Close
from arqonbus.bus.sendqueue import Overflow, SendQueue, gap_facts
from arqonbus.bus.session import Session
from arqonbus.bus.skew import SkewWatch
from arqonbus.protocol import replies
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import RoomKey

logger = logging.getLogger(__name__)


class Transport(Protocol):
    """The interface of a server adapter for one connection. No call blocks or raises."""

    def write(self, frames: bytes) -> None:
        """Send complete frames."""

    def buffered(self) -> int:
        """Bytes that the socket has not taken yet."""

    def ping(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, then end the connection when it is answered or after some seconds."""

    def abort(self) -> None:
        """End the connection now."""


class Peer:
    """The node's view of one client. `marked`: it waits for the next flush."""

    __slots__ = (
        "_waiters",
        "address",
        "backlog",
        "blocked",
        "check_slot",
        "closed",
        "closing",
        "last_envelope",
        "last_seen",
        "later",
        "marked",
        "pinged_at",
        "queue",
        "rooms",
        "session",
        "skew",
        "transport",
        "warned_of_expiry",
    )

    def __init__(
        self, session: Session, queue: SendQueue, transport: Transport, address: str, now: float
    ) -> None:
        self.session = session
        self.queue = queue
        self.transport = transport
        self.address = address
        self.last_seen = now  # any frame, pongs included
        self.last_envelope = now
        self.marked = False
        self.blocked = False
        self.closing = False
        self.closed = False
        self.pinged_at = 0.0
        self.skew = SkewWatch()
        self.warned_of_expiry = False
        self.check_slot = 0  # of the upkeep wheel
        self.backlog: deque[Envelope] | None = None  # commands that wait, while one is being run
        self.later: set[asyncio.Task[None]] | None = None  # commands whose answer waits for something
        self.rooms: dict[RoomKey, set[str]] = {}  # channels joined
        self._waiters: list[asyncio.Future[None]] = []  # until what was granted has been sent

    @property
    def client(self) -> str:
        return self.session.client

    def answer(self, envelope: Envelope) -> None:
        """Queue one envelope for this client alone."""
        self.queue.answer(self.queue.wire.encode(envelope))

    def flush(self) -> None:
        """Write what waits, or judge the queue by its budget while the socket is blocked."""
        self.marked = False
        if self.closing:
            return
        if self.blocked:
            try:
                self.queue.fit(self.transport.buffered())
            except Overflow:
                who = self.session.identity
                facts = {"tenant": who.tenant, "subject": who.subject, "address": self.address}
                logger.info("a client reads too slowly and is closed", extra={"client": self.client, **facts})
                self.close(Close.SLOW_CONSUMER, "the client reads too slowly; connect again and resume")
            return
        data, gaps = self.queue.take()
        if gaps:
            wire = self.queue.wire
            signals = [wire.encode(replies.signal("gap", gap_facts(gap), gap.room.room)) for gap in gaps]
            data = wire.join(signals) + data
        if data:
            self.transport.write(data)
        if not self.blocked:
            self.queue.granted = 0
            self._wake()

    async def room_for_recovery(self) -> None:
        """Wait until the socket has taken the recoveries before, or the connection is closing.

        A recovery comes on top of the send budget. A client that does not read gets one, and not the next.
        """
        while self.queue.granted > self.queue.budget and not self.closing:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def ended(self) -> None:
        """The connection is gone."""
        self.closed = self.closing = True
        self._wake()

    def close(self, code: Close, reason: str) -> None:
        """Send what is queued if the socket takes it, then a close frame. Later calls do nothing."""
        if not self.closing:
            if not self.blocked:
                self.flush()
            self.closing = True
            self._wake()
            self.transport.close(code, reason)


__all__ = ["Peer", "Transport"]
