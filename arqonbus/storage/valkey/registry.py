"""The tenants' lists of rooms, and the index of tenants by room for the indexed room names.

A process enters a room when it first writes to it. The list is in the tenant's slot, the log in the room's,
so that they cannot change atomically. The cache holds the epoch under which a room was entered: another epoch
means that the room was deleted in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from arqonbus.storage.ports import RoomKey, RoomPage, StorageError
from arqonbus.storage.valkey.engine import ValkeyEngine
from arqonbus.storage.valkey.keys import Slotted, tenant_rooms, tenants_with

_MOST_CACHED = 100_000

logger = logging.getLogger(__name__)


class RoomRegistry:
    """Rooms by tenant and, for the `indexed` names, tenants by room, in ascending order."""

    def __init__(self, engine: ValkeyEngine, indexed: frozenset[str]) -> None:
        self._engine = engine
        self._indexed = indexed
        self._entered: dict[RoomKey, str] = {}
        self._owed: dict[RoomKey, str] = {}
        self._task: asyncio.Task[None] | None = None

    def announce(self, room: RoomKey) -> None:
        """Enter the room before an append is sent, so that no room with acknowledged messages is unlisted.

        Best effort: `on_stored` enters it again once its epoch is known, and logs failures.
        """
        if room in self._entered or room in self._owed:
            return
        for key, slot, member in self._lists(room):
            if self._engine.is_up(slot):
                self._engine.link(slot).send([("ZADD", key, 0, member)], lambda _: None)

    def on_stored(self, room: RoomKey, epoch: str) -> None:
        """Enter the room after a successful append, unless it was entered under this epoch."""
        if self._entered.get(room) != epoch:
            self._owed[room] = epoch
            self._pay()

    def on_change(self) -> None:
        """Clear the cache and retry failed entries, because the engine came back or changed."""
        self._entered.clear()
        self._pay()

    async def settled(self) -> None:
        """Wait until all outstanding entries were tried."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def create(self, room: RoomKey) -> bool:
        """Enter the room. False if it was listed."""
        replies = [
            await self._engine.call(slot, "ZADD", key, 0, member) for key, slot, member in self._lists(room)
        ]
        return bool(replies[0])

    async def delete(self, room: RoomKey) -> bool:
        """Remove the room from the list. False if it was not listed."""
        await self.settled()
        self._entered.pop(room, None)
        self._owed.pop(room, None)
        replies = [
            await self._engine.call(slot, "ZREM", key, member) for key, slot, member in self._lists(room)
        ]
        return bool(replies[0])

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """A page of the tenant's rooms."""
        limit = max(limit, 0)
        names = await self._members(tenant_rooms(tenant), after, limit + 1)
        return RoomPage(names[:limit], len(names) > limit)

    async def tenants(self, room: str, after: str, limit: int) -> Sequence[str]:
        """Tenants that have a room of an indexed name."""
        if room not in self._indexed:
            raise ValueError(f"The log does not index the rooms named {room!r}.")
        return await self._members(tenants_with(room), after, max(limit, 0))

    async def _members(self, sorted_set: Slotted, after: str, limit: int) -> Sequence[str]:
        await self.settled()
        key, slot = sorted_set
        low = f"({after}" if after else "-"
        found = await self._engine.call(slot, "ZRANGE", key, low, "+", "BYLEX", "LIMIT", 0, limit)
        return [name.decode() for name in found]

    def _lists(self, room: RoomKey) -> Sequence[tuple[str, int, str]]:
        """Key, slot and member of the lists that contain the room; the tenant's list is the first."""
        lists = [(*tenant_rooms(room.tenant), room.room)]
        if room.room in self._indexed:
            lists.append((*tenants_with(room.room), room.tenant))
        return lists

    def _pay(self) -> None:
        if self._owed and self._task is None:
            self._task = asyncio.create_task(self._enter_owed(), name="valkey room list")
            self._task.add_done_callback(self._on_paid)

    def _on_paid(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, StorageError):
                raise error
            logger.warning(
                "%d rooms are not listed yet; retrying with the next append: %s", len(self._owed), error
            )

    async def _enter_owed(self) -> None:
        while self._owed:
            owed = dict(self._owed)
            members: dict[tuple[str, int], list[str]] = {}
            for room in owed:
                for key, slot, member in self._lists(room):
                    members.setdefault((key, slot), []).append(member)
            for (key, slot), names in members.items():
                for begin in range(0, len(names), 500):
                    pairs = [part for name in names[begin : begin + 500] for part in (0, name)]
                    await self._engine.call(slot, "ZADD", key, *pairs)
            if len(self._entered) > _MOST_CACHED:
                self._entered.clear()
            for room, epoch in owed.items():
                self._entered[room] = epoch
                if self._owed.get(room) == epoch:
                    del self._owed[room]


__all__ = ["RoomRegistry"]
