"""Events of episodes as a producer makes them, and a log to put them into."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from arqonbus.continuum.events import ROOM, encode_event
from arqonbus.protocol.envelope import JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.ids import born_ms, new_ulid
from arqonbus.storage.ports import Batch, Item, LogListener, Retention, RoomKey, StorageError
from arqonbus.storage.projection import Event
from arqonbus.storage.valkey.log import ValkeyLog

FOREVER = Retention(0, 0)


def event(tenant: str = "demo", agent: str = "agent", episode: str = "", **fields: Any) -> Event:
    """A valid event of a new episode, unless the fields say otherwise."""
    id = fields.pop("event", "") or new_ulid()
    given = Event(
        tenant,
        agent,
        id,
        datetime.fromtimestamp(born_ms(id) / 1000, UTC),
        episode or new_ulid(),
        "episode.created",
        datetime.now(UTC),
        1,
        f"sqlite://memory/{id}",
        ("one", "two"),
        {"number": 1},
    )
    return given._replace(**fields)


def item(payload: bytes, id: str = "") -> Item:
    """What the log keeps of a message with this payload."""
    id = id or new_ulid()
    envelope = Envelope(id=id, kind=MESSAGE, room=ROOM, time_us=1, content_type=JSON_CONTENT, payload=payload)
    return Item(id, "", envelope.SerializeToString())


class Publisher:
    """Puts events into the room of their tenant, as a bus does with what it was sent."""

    def __init__(self, log: ValkeyLog) -> None:
        self.log = log

    async def publish(self, events: Iterable[Event]) -> None:
        """Append them. Raises StorageError."""
        by_tenant: dict[str, list[Item]] = {}
        for each in events:
            by_tenant.setdefault(each.tenant, []).append(item(encode_event(each)))
        for tenant, items in by_tenant.items():
            await self.put(tenant, items)

    async def put(self, tenant: str, items: Sequence[Item]) -> None:
        """Append what may be no events."""
        (outcome,) = await self.log.append([Batch(RoomKey(tenant, ROOM), items, FOREVER)])
        if isinstance(outcome, StorageError):
            raise outcome


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[Publisher]:
    """A publisher on a Valkey, for the time of a with block."""
    log = ValkeyLog([url], node_id="publisher", indexed_rooms=frozenset({ROOM}))
    await log.open(LogListener())
    try:
        yield Publisher(log)
    finally:
        await log.close()


__all__ = ["FOREVER", "Publisher", "event", "item", "publishing"]
