"""Messages of one room in order, across reconnects: without loss and without repetition, or with an error."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Literal, Protocol

from arqonbus.client.errors import ClientError, MessagesLost
from arqonbus.client.message import Message
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.envelope import Envelope

MAX_MESSAGES = 10_000
MAX_BYTES = 16 * 2**20

OnLost = Callable[[MessagesLost], Any]
Policy = Literal["pause", "drop_oldest", "raise"]


class Owner(Protocol):
    """The interface that a subscription uses of the client."""

    def loss(self, callback: OnLost, loss: MessagesLost) -> None:
        """Call the program's callback."""

    def demand_changed(self, subscription: Subscription) -> None:
        """It was paused, resumed or failed."""

    async def release(self, subscription: Subscription) -> None:
        """It was closed by the program."""


class Subscription:
    """Iterate over it. Leaving the `async with` block, or `close`, ends it.

    `position` is the last message that the program was given, or, with `manual_ack`, the last that it
    confirmed. When messages are lost, iteration raises MessagesLost; with `on_lost` the callback is called
    instead and the iteration continues.

    >>> async with await client.subscribe("news") as news:
    ...     acks = await client.publish_many("news", ["one", "two"])
    ...     async for message in news:
    ...         print(message.json())
    ...         if message.id == acks[-1].id:
    ...             break
    one
    two
    """

    def __init__(
        self,
        owner: Owner,
        room: str,
        *,
        channel: str = "",
        since: Position | None = None,
        presence: bool = False,
        on_lost: OnLost | None = None,
        policy: Policy = "pause",
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
        manual_ack: bool = False,
    ) -> None:
        if policy not in ("pause", "drop_oldest", "raise"):
            raise ValueError(f"policy {policy!r} is not one of pause, drop_oldest, raise")
        if max_messages < 1 or max_bytes < 1:
            raise ValueError("max_messages and max_bytes must be at least 1")
        self.room = room
        self.channel = channel
        self.presence = presence
        self.position = since
        self.dropped = 0  # messages that the policy drop_oldest dropped
        self.paused = False  # the buffer is full, and nothing is taken until it is half empty
        self.live = False  # joined: what comes is delivered
        self.catching_up = False  # its missed messages are being read from the room's history
        self.buffered: Position | None = since  # the last message that was taken from the bus
        self._owner = owner
        self._on_lost = on_lost
        self._policy = policy
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._manual_ack = manual_ack
        self._buffer: deque[tuple[Message, int]] = deque()
        self._bytes = 0
        self._dropping = False  # within one run of drops
        self._some = asyncio.Event()  # something waits, or it is over
        self._half_empty = asyncio.Event()
        self._half_empty.set()
        self._over = False
        self._error: ClientError | None = None

    def __repr__(self) -> str:
        place = f"{self.room}/{self.channel}" if self.channel else self.room
        return f"<Subscription {place} {len(self._buffer)} waiting>"

    # -- for the program

    @property
    def pending(self) -> int:
        """Messages that wait to be read."""
        return len(self._buffer)

    def confirm(self, message: Message) -> None:
        """With `manual_ack`: the message is done, and everything before it.

        >>> async with await client.subscribe("news", manual_ack=True) as news:
        ...     ack = await client.publish("news", 1)
        ...     message = await anext(news)
        ...     before = news.position
        ...     news.confirm(message)
        ...     news.position.sequence - before.sequence
        1
        """
        self.position = Position(message.epoch, message.sequence)

    async def close(self) -> None:
        """Leave the room; the iteration ends."""
        self.finish(None)
        self._buffer.clear()
        self._bytes = 0
        await self._owner.release(self)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        buffer = self._buffer
        while not buffer:
            if self._over:
                if self._error is None:
                    raise StopAsyncIteration
                raise self._error.with_traceback(None)
            self._some.clear()
            await self._some.wait()
        message, size = buffer.popleft()
        self._bytes -= size
        if not self._manual_ack:
            envelope = message.envelope
            self.position = Position(envelope.epoch, envelope.sequence)
        if not self._half_empty.is_set() and self._is_half_empty():
            self._half_empty.set()
            if self.paused:
                self.paused = False
                self._owner.demand_changed(self)
        return message

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- for the client

    @property
    def over(self) -> bool:
        """Nothing more is taken."""
        return self._over

    @property
    def takes(self) -> bool:
        """True if it wants messages from the room now."""
        return not (self.paused or self.catching_up or self._over)

    def joined(self, result: dict[str, Any]) -> None:
        """The bus answered a join that covers this subscription; it is live from now on."""
        place = result["position"]
        position = Position(place["epoch"], int(place["sequence"]))
        if self.buffered is None:
            self._start(position)
        elif result.get("recovered") is False and self.buffered != position:
            self._start(position)
            self.lost("the bus cannot prove what was published while the client was disconnected")
        self.live = not self._over

    def start_over(self, reason: str) -> None:
        """Accept the loss and continue with the next message."""
        self.buffered = None
        self.lost(reason)

    def attach(self, position: Position) -> None:
        """Take part in a membership that stands at this position, from now on."""
        self._start(position)
        self.live = True

    def _start(self, position: Position) -> None:
        self.buffered = position
        if not self._buffer:
            self.position = position

    def take(self, envelope: Envelope, size: int) -> None:
        """Deliver a message of the room's history, or pass over one of another channel."""
        if not self.channel or envelope.channel == self.channel:
            self.deliver(envelope, size)
        elif not self.paused:
            self.buffered = Position(envelope.epoch, envelope.sequence)

    def deliver(self, envelope: Envelope, size: int) -> None:
        """Buffer a message that is newer than the last one. Never waits."""
        sequence = envelope.sequence
        last = self.buffered
        if last is not None and sequence <= last[1] and envelope.epoch == last[0]:
            return
        if self.paused or self._over:
            return
        if len(self._buffer) >= self._max_messages or self._bytes + size > self._max_bytes:
            if not self._make_room(size):
                return
        else:
            self._dropping = False
        self.buffered = Position(envelope.epoch, sequence)
        self._buffer.append((Message(envelope), size))
        self._bytes += size
        if not self._some.is_set():
            self._some.set()

    def _make_room(self, size: int) -> bool:
        """Apply the policy to a full buffer. Whether the message is taken."""
        if not self._buffer:
            return True  # one message that is larger than the whole buffer
        if self._policy == "pause":
            self.paused = True
            self.live = False
            self._half_empty.clear()
            self._owner.demand_changed(self)
            return False
        if self._policy == "raise":
            self.fail(
                MessagesLost(self.room, f"{len(self._buffer)} messages waited and were not read in time")
            )
            return False
        while self._buffer and (
            len(self._buffer) >= self._max_messages or self._bytes + size > self._max_bytes
        ):
            _, dropped = self._buffer.popleft()
            self._bytes -= dropped
            self.dropped += 1
        if not self._dropping:
            self._dropping = True
            if self._on_lost is not None:
                reason = "the oldest messages were dropped, because they were not read in time"
                self._owner.loss(self._on_lost, MessagesLost(self.room, reason))
        return True

    async def half_empty(self) -> int:
        """Wait until the buffer is at most half full, or it is over; how many messages it has room for."""
        while not (self._is_half_empty() or self._over):
            self._half_empty.clear()
            await self._half_empty.wait()
        return max(1, self._max_messages - len(self._buffer))

    def _is_half_empty(self) -> bool:
        return len(self._buffer) * 2 <= self._max_messages and self._bytes * 2 <= self._max_bytes

    def lost(self, reason: str) -> None:
        """Messages are gone."""
        loss = MessagesLost(self.room, reason)
        if self._on_lost is not None:
            self._owner.loss(self._on_lost, loss)
        else:
            self.fail(loss)

    def fail(self, error: ClientError) -> None:
        """End the iteration with an error, behind what is buffered."""
        if self.finish(error):
            self._owner.demand_changed(self)

    def finish(self, error: ClientError | None) -> bool:
        """End the iteration behind what is buffered. False if it was over before."""
        if self._over:
            return False
        self._over = True
        self._error = error
        self.live = False
        self.paused = False
        self._some.set()
        self._half_empty.set()
        return True


__all__ = ["MAX_BYTES", "MAX_MESSAGES", "OnLost", "Policy", "Subscription"]
