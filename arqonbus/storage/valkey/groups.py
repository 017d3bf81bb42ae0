"""Consumer groups in Valkey: each call is one function of the library (groups.lua), so it is atomic.

No state is kept here. Group calls are as durable as the engine's persistence: an engine that lost its last
writes redelivers jobs, which at-least-once delivery allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import (
    MAX_GROUPS,
    MAX_PENDING,
    Entry,
    GroupJob,
    GroupKey,
    GroupRead,
    GroupState,
    NoSuchGroupError,
    PendingJob,
    RoomKey,
    StorageError,
    TooManyGroupsError,
    most_groups,
)
from arqonbus.storage.valkey.engine import ValkeyEngine, storage_error
from arqonbus.storage.valkey.keys import group_keys, room_groups
from arqonbus.storage.valkey.link import Command, ReplyError
from arqonbus.storage.valkey.registry import RoomRegistry


class ValkeyGroups:
    """ConsumerGroups in Valkey."""

    def __init__(self, engine: ValkeyEngine, registry: RoomRegistry) -> None:
        self._engine = engine
        self._registry = registry

    async def ensure(self, group: GroupKey, start: int, max_deliveries: int) -> bool:
        """See ConsumerGroups.ensure."""
        keys = group_keys(group)
        self._registry.announce(group.room)
        arguments = (new_ulid(), start, max_deliveries, group.name, most_groups(group))
        names = (keys.meta, keys.groups, keys.log, keys.state)
        made, epoch = await self._call(keys.slot, "ensure", names, arguments)
        self._registry.on_stored(group.room, epoch.decode())
        return bool(made)

    async def read(
        self, group: GroupKey, consumer: str, limit: int, lease_us: int, max_bytes: int
    ) -> GroupRead:
        """See ConsumerGroups.read."""
        keys = group_keys(group)
        names = (keys.log, keys.meta, keys.state, keys.due, keys.held)
        arguments = (consumer, max(limit, 0), lease_us, max_bytes, MAX_PENDING)
        return _group_read(await self._call(keys.slot, "read", names, arguments))

    async def ack(self, group: GroupKey, epoch: str, sequences: Sequence[int]) -> int:
        """See ConsumerGroups.ack."""
        keys = group_keys(group)
        names = (keys.state, keys.due, keys.held)
        return int(await self._call(keys.slot, "ack", names, (epoch, *map(_member, sequences))))

    async def nack(
        self, group: GroupKey, epoch: str, consumer: str, sequence: int, delay_us: int, reason: str
    ) -> int:
        """See ConsumerGroups.nack."""
        keys = group_keys(group)
        names = (keys.state, keys.due, keys.held)
        arguments = (epoch, consumer, _member(sequence), delay_us, reason)
        return int(await self._call(keys.slot, "nack", names, arguments))

    async def extend(
        self, group: GroupKey, epoch: str, consumer: str, sequences: Sequence[int], lease_us: int
    ) -> Sequence[int]:
        """See ConsumerGroups.extend."""
        keys = group_keys(group)
        names = (keys.state, keys.due, keys.held)
        arguments: list[int | str] = [epoch, consumer, lease_us, *_members(sequences)]
        return [int(member) for member in await self._call(keys.slot, "extend", names, arguments)]

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
        keys = group_keys(group)
        names = (keys.log, keys.meta, keys.state, keys.due, keys.held)
        arguments: list[int | str] = [epoch, consumer, idle_us, lease_us, *_members(sequences)]
        return _group_read(await self._call(keys.slot, "claim", names, arguments))

    async def pending(self, group: GroupKey, after: tuple[int, int], limit: int) -> Sequence[PendingJob]:
        """See ConsumerGroups.pending."""
        keys = group_keys(group)
        names = (keys.meta, keys.state, keys.due, keys.held)
        arguments = (after[0], _member(after[1]), max(limit, 0))
        flat = await self._call(keys.slot, "pending", names, arguments)
        return [_pending_job(*found) for found in zip(flat[::3], flat[1::3], flat[2::3], strict=True)]

    async def state(self, group: GroupKey) -> GroupState:
        """See ConsumerGroups.state."""
        keys = group_keys(group)
        names = (keys.log, keys.meta, keys.state, keys.due)
        return _group_state(group.name, await self._call(keys.slot, "state", names, ()))

    async def delete(self, group: GroupKey) -> bool:
        """See ConsumerGroups.delete."""
        keys = group_keys(group)
        names = (keys.groups, keys.state, keys.due, keys.held)
        return bool(await self._call(keys.slot, "delete", names, (group.name,)))

    async def of_room(self, room: RoomKey) -> Sequence[GroupState]:
        """See ConsumerGroups.of_room. The states are read one after the other."""
        groups = room_groups(room)
        found = await self._engine.call(groups.slot, "ZRANGE", groups.key, "-", "+", "BYLEX")
        names = [name.decode() for name in found]
        if not names:
            return []
        asked: list[Command] = []
        for name in names:
            keys = group_keys(GroupKey(room, name))
            parts = (keys.log, keys.meta, keys.state, keys.due)
            asked.append(("FCALL", "arqonbus_group_state", len(parts), *parts))
        states = []
        for name, reply in zip(names, await self._engine.flight(groups.slot, asked), strict=True):
            if not isinstance(reply, Exception):
                states.append(_group_state(name, reply))
            elif not isinstance(failure := _failure(reply), NoSuchGroupError):  # deleted meanwhile
                raise failure
        return states

    async def _call(
        self, slot: int, function: str, keys: Sequence[str], arguments: Sequence[int | str]
    ) -> Any:
        command = ("FCALL", "arqonbus_group_" + function, len(keys), *keys, *arguments)
        (reply,) = await self._engine.flight(slot, [command])
        if isinstance(reply, Exception):
            raise _failure(reply)
        return reply


def _failure(reply: Exception) -> StorageError:
    if isinstance(reply, ReplyError) and reply.code == "NOGROUP":
        return NoSuchGroupError("There is no such consumer group.")
    if isinstance(reply, ReplyError) and reply.code == "TOOMANYGROUPS":
        return TooManyGroupsError(f"The room has {MAX_GROUPS} consumer groups, which is the limit.")
    return storage_error(reply)


def _member(sequence: int) -> str:
    return f"{sequence:016d}"


def _members(sequences: Sequence[int]) -> list[str]:
    """Members of the sequences, without duplicates."""
    return [_member(sequence) for sequence in dict.fromkeys(sequences)]


def _entry(reply: Any) -> Entry:
    entry_id, (_, time_us, _, message_id, _, channel, _, data) = reply
    return Entry(int(entry_id.partition(b"-")[0]), int(time_us), message_id.decode(), channel.decode(), data)


def _group_read(reply: Any) -> GroupRead:
    epoch, missed, max_deliveries, again, fresh, due_in_us = reply
    jobs = [
        GroupJob(_entry(entry), deliveries, consumer.decode(), reason.decode())
        for entry, deliveries, consumer, reason in again
    ]
    jobs += [GroupJob(_entry(entry), 1, "", "") for entry in fresh]
    return GroupRead(epoch.decode(), jobs, missed, max_deliveries, due_in_us)


def _pending_job(member: bytes, due_us: int, value: bytes) -> PendingJob:
    deliveries, delivered_us, consumer, reason = value.split(b":", 3)
    return PendingJob(
        int(member), consumer.decode(), int(deliveries), int(delivered_us), due_us, reason.decode()
    )


def _group_state(name: str, reply: Any) -> GroupState:
    epoch, *numbers = reply
    return GroupState(name, epoch.decode(), *numbers)


__all__ = ["ValkeyGroups"]
