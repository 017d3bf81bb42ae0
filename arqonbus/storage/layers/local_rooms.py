"""Rooms with durability `memory`: held in this process only, beside an engine.

Such a room never uses the engine: it is as fast as memory, is lost when the process ends, and is separate on
each node. All other rooms use the engine unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from arqonbus.storage.layers.guarded_groups import GuardedGroups
from arqonbus.storage.layers.room_reads import RoomReads
from arqonbus.storage.memory.log import MemoryLog
from arqonbus.storage.ports import (
    Batch,
    ConsumerGroups,
    Durability,
    EventLog,
    Head,
    LogListener,
    NotCapableError,
    Outcome,
    RoomKey,
    RoomMember,
    RoomPage,
)


class LocalRooms(RoomReads):
    """EventLog with the rooms that are `is_local` in `memory`, and all others in `engine`."""

    def __init__(self, engine: EventLog, memory: MemoryLog, is_local: Callable[[RoomKey], bool]) -> None:
        self._engine = engine
        self._memory = memory
        self._is_local = is_local

    @property
    def name(self) -> str:
        """See EventLog.name: that of the engine."""
        return self._engine.name

    @property
    def shared(self) -> bool:
        """See EventLog.shared: of the rooms in the engine."""
        return self._engine.shared

    @property
    def durability(self) -> Durability:
        """See EventLog.durability: of the rooms in the engine."""
        return self._engine.durability

    @property
    def groups(self) -> ConsumerGroups | None:
        """See EventLog.groups. Rooms in memory have none."""
        groups = self._engine.groups
        return None if groups is None else GuardedGroups(groups, self._refuse_local)

    def _refuse_local(self, room: RoomKey) -> None:
        if self._is_local(room):
            raise NotCapableError("this room is held in memory only, and such rooms have no consumer groups")

    async def open(self, listener: LogListener) -> None:
        """See EventLog.open."""
        await self._engine.open(listener)

    async def close(self) -> None:
        """See EventLog.close."""
        await self._engine.close()

    def append(self, batches: Sequence[Batch]) -> Sequence[Outcome] | Awaitable[Sequence[Outcome]]:
        """See EventLog.append. The engine still gets one call per tick."""
        local = [index for index, batch in enumerate(batches) if self._is_local(batch.room)]
        if not local:
            return self._engine.append(batches)
        held = dict(zip(local, self._memory.append([batches[index] for index in local]), strict=True))
        if len(local) == len(batches):
            return list(held.values())
        others = self._engine.append([batch for index, batch in enumerate(batches) if index not in held])
        if isinstance(others, Awaitable):
            return _merged_later(held, others, len(batches))
        return _merged(held, others, len(batches))

    def _of(self, room: RoomKey) -> EventLog:
        return self._memory if self._is_local(room) else self._engine

    async def create_room(self, room: RoomKey) -> bool:
        """See EventLog.create_room."""
        return await self._of(room).create_room(room)

    async def delete_room(self, room: RoomKey) -> bool:
        """See EventLog.delete_room."""
        return await self._of(room).delete_room(room)

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """See EventLog.rooms: of the engine and of this process."""
        pages = [await log.rooms(tenant, after, limit) for log in (self._engine, self._memory)]
        names = sorted({name for page in pages for name in page.rooms})
        cut = names[: max(limit, 0)]
        return RoomPage(cut, len(cut) < len(names) or any(page.more for page in pages))

    async def tenants_of(self, room: str, after: str, limit: int) -> Sequence[str]:
        """See EventLog.tenants_of."""
        asked = [await log.tenants_of(room, after, limit) for log in (self._engine, self._memory)]
        return sorted({tenant for tenants in asked for tenant in tenants})[: max(limit, 0)]

    async def follow(self, room: RoomKey) -> Head:
        """See EventLog.follow."""
        return await self._of(room).follow(room)

    async def unfollow(self, room: RoomKey) -> None:
        """See EventLog.unfollow."""
        await self._of(room).unfollow(room)

    async def signal(self, room: RoomKey, data: bytes) -> None:
        """See EventLog.signal."""
        await self._of(room).signal(room, data)

    async def direct(self, node: str, data: bytes) -> bool:
        """See EventLog.direct."""
        return await self._engine.direct(node, data)

    async def enter(self, room: RoomKey, member: RoomMember) -> None:
        """See EventLog.enter."""
        await self._of(room).enter(room, member)

    async def leave(self, room: RoomKey, client: str) -> None:
        """See EventLog.leave."""
        await self._of(room).leave(room, client)

    async def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """See EventLog.present."""
        return await self._of(room).present(room, limit)

    async def probe(self) -> float:
        """See EventLog.probe: of the engine."""
        return await self._engine.probe()


def _merged(held: dict[int, Outcome], others: Sequence[Outcome], count: int) -> Sequence[Outcome]:
    rest = iter(others)
    return [held[index] if index in held else next(rest) for index in range(count)]


async def _merged_later(
    held: dict[int, Outcome], others: Awaitable[Sequence[Outcome]], count: int
) -> Sequence[Outcome]:
    return _merged(held, await others, count)


__all__ = ["LocalRooms"]
