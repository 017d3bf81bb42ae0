"""Consumer groups that are available for some rooms or at some times only. No group logic.

A guard refuses the call, with the reason, before the groups are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from arqonbus.storage.ports import (
    ConsumerGroups,
    GroupKey,
    GroupRead,
    GroupState,
    PendingJob,
    RoomKey,
)


class GuardedGroups:
    """ConsumerGroups behind a guard, which raises NotCapableError for a room without groups."""

    def __init__(self, groups: ConsumerGroups, guard: Callable[[RoomKey], None]) -> None:
        self._groups = groups
        self._guard = guard

    async def ensure(self, group: GroupKey, start: int, max_deliveries: int) -> bool:
        """See ConsumerGroups.ensure."""
        self._guard(group.room)
        return await self._groups.ensure(group, start, max_deliveries)

    async def read(
        self, group: GroupKey, consumer: str, limit: int, lease_us: int, max_bytes: int
    ) -> GroupRead:
        """See ConsumerGroups.read."""
        self._guard(group.room)
        return await self._groups.read(group, consumer, limit, lease_us, max_bytes)

    async def ack(self, group: GroupKey, epoch: str, sequences: Sequence[int]) -> int:
        """See ConsumerGroups.ack."""
        self._guard(group.room)
        return await self._groups.ack(group, epoch, sequences)

    async def nack(
        self, group: GroupKey, epoch: str, consumer: str, sequence: int, delay_us: int, reason: str
    ) -> int:
        """See ConsumerGroups.nack."""
        self._guard(group.room)
        return await self._groups.nack(group, epoch, consumer, sequence, delay_us, reason)

    async def extend(
        self, group: GroupKey, epoch: str, consumer: str, sequences: Sequence[int], lease_us: int
    ) -> Sequence[int]:
        """See ConsumerGroups.extend."""
        self._guard(group.room)
        return await self._groups.extend(group, epoch, consumer, sequences, lease_us)

    async def claim(
        self,
        group: GroupKey,
        epoch: str,
        consumer: str,
        sequences: Sequence[int],
        idle_us: int,
        lease_us: int,
    ) -> GroupRead:
        """See ConsumerGroups.claim."""
        self._guard(group.room)
        return await self._groups.claim(group, epoch, consumer, sequences, idle_us, lease_us)

    async def pending(self, group: GroupKey, after: tuple[int, int], limit: int) -> Sequence[PendingJob]:
        """See ConsumerGroups.pending."""
        self._guard(group.room)
        return await self._groups.pending(group, after, limit)

    async def state(self, group: GroupKey) -> GroupState:
        """See ConsumerGroups.state."""
        self._guard(group.room)
        return await self._groups.state(group)

    async def delete(self, group: GroupKey) -> bool:
        """See ConsumerGroups.delete."""
        self._guard(group.room)
        return await self._groups.delete(group)

    async def of_room(self, room: RoomKey) -> Sequence[GroupState]:
        """See ConsumerGroups.of_room."""
        self._guard(room)
        return await self._groups.of_room(room)


__all__ = ["GuardedGroups"]
