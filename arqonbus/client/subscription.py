"""Messages of one room, in order, across reconnects: without loss and without repeats, or it says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any

from arqonbus.client.errors import ClientError, MessagesLost
from arqonbus.client.message import Message
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.envelope import Envelope

MAX_WAITING = 10_000  # messages; then the client stops reading and the bus applies its policy

OnLost = Callable[[MessagesLost], None]


class Subscription:
    """Iterate over it. Leaving the `async with` block, or `close`, ends it.

    When messages are lost, iteration raises MessagesLost; with `on_lost` the callback is told instead and
    the iteration goes on.
    """

    def __init__(
        self,
        room: str,
        channel: str,
        since: Position | None,
        presence: bool,
        on_lost: OnLost | None,
        end: Callable[[Subscription], Awaitable[None]],
    ) -> None:
        self.room = room
        self.channel = channel
        self.presence = presence
        self.position = since
        self._on_lost = on_lost
        self._end = end
        self._waiting: asyncio.Queue[Message | ClientError | None] = asyncio.Queue(MAX_WAITING)
        self._ended = False

    def join_arguments(self) -> dict[str, Any]:
        """Arguments of op.rooms.join that continue where this subscription is."""
        arguments: dict[str, Any] = {"room": self.room}
        if self.channel:
            arguments["channel"] = self.channel
        if self.presence:
            arguments["presence"] = True
        if self.position is not None:
            arguments["since"] = {"epoch": self.position.epoch, "sequence": self.position.sequence}
        return arguments

    def joined(self, result: dict[str, Any]) -> None:
        """The bus answered a join."""
        if result.get("recovered") is False:
            self.lost("the bus cannot prove what was published while the client was away")
        position = result["position"]
        if self.position is None or not result.get("recovered"):
            self.position = Position(position["epoch"], int(position["sequence"]))

    def lost(self, reason: str) -> None:
        """Messages are gone."""
        loss = MessagesLost(self.room, reason)
        if self._on_lost is not None:
            self._on_lost(loss)
        else:
            self.fail(loss)

    def fail(self, error: ClientError) -> None:
        """End the iteration with an error, behind what already waits."""
        if not self._ended:
            self._ended = True
            self._force(error)

    def wants(self, envelope: Envelope) -> bool:
        return envelope.room == self.room and (not self.channel or envelope.channel == self.channel)

    async def deliver(self, envelope: Envelope) -> None:
        """Queue a message that is newer than the position; wait while the reader is behind."""
        position = self.position
        if (
            position is not None
            and envelope.epoch == position.epoch
            and envelope.sequence <= position.sequence
        ):
            return
        self.position = Position(envelope.epoch, envelope.sequence)
        if not self._ended:
            await self._waiting.put(Message(envelope))

    async def close(self) -> None:
        """Leave the room; the iteration ends."""
        if not self._ended:
            self._ended = True
            self._force(None)
        await self._end(self)

    def _force(self, last: ClientError | None) -> None:
        if self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait(last)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        item = await self._waiting.get()
        if isinstance(item, Message):
            return item
        self._waiting.put_nowait(item)  # a later call ends in the same way
        if item is None:
            raise StopAsyncIteration
        raise item

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


__all__ = ["OnLost", "Subscription"]
