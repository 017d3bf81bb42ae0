"""Producers and consumers of a run: the SDK, and a record of everything it reported."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from arqonbus.client import Client, Disconnected, MessagesLost, Rejected
from arqonbus.client.link import WireName
from arqonbus.client.subscription import Subscription
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import Durability
from tests.faults.checker import Consumer, Event, Held, Joined, Published, Seen, Told

PAYLOAD = b"." * 64


class Producer:
    """One client with `window` publishes outstanding, each repeated by the SDK under its own id."""

    def __init__(self, name: str, client: Client, rooms: Sequence[str], window: int, seed: int) -> None:
        self.name = name
        self.published: list[Published] = []
        self.acks: list[float] = []  # when, in seconds
        self._client = client
        self._rooms = rooms
        self._random = random.Random(seed)
        self._window = window
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Publish until `stop`, and until what is outstanding has an outcome."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._window):
                group.create_task(self._publish_on())

    def stop(self) -> None:
        self._stopping.set()

    async def _publish_on(self) -> None:
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            room, id_, began = self._random.choice(self._rooms), new_ulid(), clock()
            try:
                ack = await self._client.publish(room, PAYLOAD, message_id=id_)
            except Rejected:
                self.published.append(Published(self.name, room, id_, began, clock(), "refused"))
            except Disconnected:
                self.published.append(Published(self.name, room, id_, began, clock(), "unknown"))
            else:
                ended = clock()
                self.acks.append(ended)
                level = Durability[ack.durability.upper()] if ack.durability else None
                self.published.append(
                    Published(self.name, room, id_, began, ended, "acked", ack.epoch, ack.sequence, level)
                )


class Watcher:
    """One subscription and its record. What the SDK was told by the bus stands where it was told."""

    def __init__(self, name: str, room: str) -> None:
        self.name = name
        self.room = room
        self.seen: list[Seen] = []
        self._words: list[tuple[int, Event]] = []  # how many messages came before it, and the word
        self._subscription: Subscription | None = None

    async def begin(self, client: Client) -> None:
        """Subscribe."""
        subscription = await client.subscribe(self.room, on_lost=self._on_lost)
        self._subscription = subscription
        assert subscription.position is not None
        self._words.append((0, Joined(None, subscription.position, None)))
        joined = subscription.joined

        def on_joined(result: dict[str, Any]) -> None:
            since, place = subscription.position, result["position"]
            position = Position(place["epoch"], int(place["sequence"]))
            self._word(Joined(since, position, result.get("recovered")))
            joined(result)

        subscription.joined = on_joined  # type: ignore[method-assign]

    async def run(self) -> None:
        """Take messages until the subscription ends."""
        assert self._subscription is not None
        async for message in self._subscription:
            self.seen.append(Seen(message.epoch, message.sequence, message.id))

    def _on_lost(self, loss: MessagesLost) -> None:
        self._word(Told(loss.reason))

    def _word(self, word: Event) -> None:
        assert self._subscription is not None
        self._words.append((len(self.seen) + self._subscription.pending, word))

    @property
    def position(self) -> Position:
        """How far it got."""
        assert self._subscription is not None
        assert self._subscription.position is not None
        return self._subscription.position

    def recoveries(self) -> int:
        """How often `recovered: true` was said to it."""
        return sum(isinstance(word, Joined) and word.recovered is True for _, word in self._words)

    def record(self) -> Consumer:
        """All of it, in order."""
        events: list[Event] = []
        at = 0
        for before, word in self._words:
            events += self.seen[at:before]
            events.append(word)
            at = before
        return Consumer(self.name, self.room, [*events, *self.seen[at:]])


async def held(client: Client, room: str) -> Held:
    """The whole room as the bus reads it out, oldest first."""
    entries: list[tuple[int, str]] = []
    cursor: str | None = None
    while True:
        arguments: dict[str, Any] = {"room": room, "limit": 1000}
        if cursor is not None:
            arguments["cursor"] = cursor
        page = await client.command("op.history.replay", arguments, again=True)
        entries += [(int(message["sequence"]), message["id"]) for message in page["messages"]]
        cursor = page.get("cursor")
        if cursor is None:
            return Held(page["epoch"], entries)


def wire_of(number: int) -> WireName:
    """Both wire formats in turn."""
    return "json" if number % 2 else "protobuf"


__all__ = ["Producer", "Watcher", "held", "wire_of"]
