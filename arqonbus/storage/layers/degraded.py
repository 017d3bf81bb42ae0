"""Mode degraded: continue in memory while the engine is unreachable, then hand the messages over to it.

While the engine is unreachable, messages to rooms that may degrade are kept in memory, in a separate epoch,
and acknowledged with durability `memory`. When the engine is back, each of these rooms begins a new epoch
there and gets the kept messages in order; each id is stored once. A client that resumes from a position of
the time in between gets `recovered: false`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from arqonbus.protocol.ids import ulid_after
from arqonbus.storage.layers.guarded_groups import GuardedGroups
from arqonbus.storage.layers.room_reads import RoomReads
from arqonbus.storage.memory.log import MemoryLog
from arqonbus.storage.ports import (
    Appended,
    Batch,
    ConsumerGroups,
    Durability,
    Entry,
    EventLog,
    Head,
    Item,
    LogListener,
    NotCapableError,
    Outcome,
    RoomKey,
    RoomMember,
    RoomPage,
    StorageError,
)
from arqonbus.storage.recent_ids import RecentIds, Rotations

RETRY_SECONDS = 0.5
AT_ONCE = 500  # messages of one room per call of the handover
MOST_HEADS = 100_000  # rooms whose last position is remembered
MOST_IDS = 50_000  # remembered ids of one room

Given = Sequence[Outcome] | Awaitable[Sequence[Outcome]]

logger = logging.getLogger(__name__)


class RenewableLog(EventLog, Protocol):
    """An engine that can begin a new epoch of a room."""

    async def begin_epoch(self, room: RoomKey, after: str) -> Head:
        """Continue the room in an epoch greater than `after` and its current one. Returns the new head."""


class _Held:
    """A room held in memory. `former`: its last known position in the engine."""

    __slots__ = ("epoch", "former", "handed", "last_batch", "moved")

    def __init__(self, epoch: str, former: int) -> None:
        self.epoch = epoch
        self.former = former
        self.handed = former  # handed over up to here
        self.moved = ""  # its new epoch in the engine
        self.last_batch: Batch | None = None


class DegradedLog(RoomReads, LogListener):
    """EventLog of an engine, and of memory while the engine is unreachable."""

    def __init__(
        self,
        make: Callable[[], RenewableLog],
        *,
        may_degrade: Callable[[RoomKey], bool],
        max_bytes: int,
        dedup_seconds: float = 120.0,
    ) -> None:
        """`make`: returns the engine, not opened.

        `may_degrade`: rooms that continue in memory; others are refused. `max_bytes`: limit for all messages
        kept in memory.
        """
        self._make = make
        self._engine = make()
        self._may_degrade = may_degrade
        self._max_bytes = max_bytes
        self._dedup_seconds = dedup_seconds
        self._memory = MemoryLog(dedup_seconds=dedup_seconds)
        self._presence = MemoryLog()  # always holds this node's clients
        self._listener: LogListener
        self._rooms: dict[RoomKey, _Held] = {}
        self._heads: dict[RoomKey, tuple[str, int]] = {}
        self._ids: dict[RoomKey, RecentIds] = {}
        self._rotations = Rotations(int(dedup_seconds * 1_000_000))
        self._absent: dict[tuple[RoomKey, str], RoomMember] = {}  # clients missing in the engine
        self._followed: dict[RoomKey, None] = {}  # since the engine became unreachable
        self._bytes = 0
        self._opened = False
        self._under_way: set[asyncio.Task[Sequence[Outcome]]] = set()
        self._order = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self.away = False  # the engine is unreachable
        self.since = 0.0  # Unix seconds; 0 if not degraded
        self.handed_over = 0  # messages, since the start

    @property
    def degraded(self) -> bool:
        """True if the engine is unreachable or lacks rooms that are in memory."""
        return self.away or bool(self._rooms)

    @property
    def name(self) -> str:
        """See EventLog.name: that of the engine."""
        return self._engine.name

    @property
    def shared(self) -> bool:
        """See EventLog.shared."""
        return self._engine.shared

    @property
    def durability(self) -> Durability:
        """See EventLog.durability: what an append reaches now."""
        return Durability.MEMORY if self.away else self._engine.durability

    @property
    def groups(self) -> ConsumerGroups | None:
        """See EventLog.groups. Refused for rooms that are in memory, and while the engine is unreachable."""
        groups = self._engine.groups
        return None if groups is None else GuardedGroups(groups, self._refuse_held)

    def _refuse_held(self, room: RoomKey) -> None:
        if self.away or room in self._rooms:
            raise NotCapableError("the storage engine is unreachable, and consumer groups need it")

    # -- life

    async def open(self, listener: LogListener) -> None:
        """See EventLog.open. If the engine is unreachable, start degraded and keep retrying."""
        self._listener = listener
        try:
            await self._engine.open(self)
            self._opened = True
        except StorageError as failure:
            self._go_on_without(failure)

    async def close(self) -> None:
        """See EventLog.close. Messages that only memory holds are lost; their number is logged."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        kept = sum(self._kept(held, room) for room, held in self._rooms.items())
        if kept:
            logger.error("messages held only in memory are lost", extra={"messages": kept})
        if self._opened:
            await self._engine.close()

    def _kept(self, held: _Held, room: RoomKey) -> int:
        entries = self._memory.entries(room)
        return sum(entry.sequence > held.handed for entry in entries)

    def _go_on_without(self, failure: StorageError) -> None:
        self.away = True
        if not self.since:
            self.since = time.time()
            logger.error(
                "the storage engine is unreachable: continuing in memory", extra={"reason": str(failure)}
            )
            self._listener.on_degraded(True)
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._wait_for_engine(), name="wait for the engine")

    async def _wait_for_engine(self) -> None:
        while self.degraded:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                if self._opened:
                    await self._engine.probe()
                else:
                    self._engine = self._make()
                    await self._engine.open(self)
                    self._opened = True
                self.away = False  # from here on, rooms that are not in memory use the engine again
                await self._hand_over()
            except StorageError:
                self.away = True
        seconds, self.since = round(time.time() - self.since, 1), 0.0
        logger.warning("the storage engine is back and has everything", extra={"seconds": seconds})
        self._listener.on_degraded(False)

    # -- messages

    def append(self, batches: Sequence[Batch]) -> Given:
        """See EventLog.append."""
        if self.degraded:
            return self._append_now(batches)
        given = self._engine.append(batches)
        task = asyncio.ensure_future(self._append_there(batches, given))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _append_there(self, batches: Sequence[Batch], given: Given) -> Sequence[Outcome]:
        outcomes = await _given(given)
        return [self._settled(batch, outcome) for batch, outcome in zip(batches, outcomes, strict=True)]

    def _settled(self, batch: Batch, outcome: Outcome) -> Outcome:
        """Keep a refused batch in memory, if its room may degrade.

        The engine may have stored it nevertheless.
        """
        if isinstance(outcome, Appended):
            if outcome.sequences:
                self._saw(batch.room, outcome.epoch, outcome.sequences[-1])
                self._remember(batch, outcome)
            return outcome
        if not self._may_degrade(batch.room):
            return outcome
        self._go_on_without(outcome)
        return self._keep(batch)

    async def _append_now(self, batches: Sequence[Batch]) -> Sequence[Outcome]:
        """Append after all earlier appends to the engine have ended, with or without success."""
        async with self._order:
            if self._under_way:
                await asyncio.wait(list(self._under_way))
            here = [self._is_here(batch.room) for batch in batches]
            there = [batch for batch, is_here in zip(batches, here, strict=True) if not is_here]
            kept = [
                self._keep(batch) if is_here else None for batch, is_here in zip(batches, here, strict=True)
            ]
            others = iter(await _given(self._engine.append(there)) if there else ())
            return [
                self._settled(batch, next(others)) if outcome is None else outcome
                for batch, outcome in zip(batches, kept, strict=True)
            ]

    def _is_here(self, room: RoomKey) -> bool:
        return room in self._rooms or (self.away and self._may_degrade(room))

    def _keep(self, batch: Batch) -> Outcome:
        size = sum(len(item.data) for item in batch.items)
        if self._bytes + size > self._max_bytes:
            return StorageError(
                "The storage engine is unreachable, and memory is full (storage.degraded_max_bytes)."
            )
        held = self._begin(batch.room)
        held.last_batch = batch
        self._bytes += size
        [outcome] = self._memory.append([batch._replace(durability=None)])
        return outcome

    def _begin(self, room: RoomKey) -> _Held:
        """The room in memory. It continues after the last known sequence."""
        held = self._rooms.get(room)
        if held is None:
            epoch, last = self._heads.get(room, ("", 0))
            held = self._rooms[room] = _Held(ulid_after(epoch), last)
            self._memory.begin(room, held.epoch, last, self._ids.pop(room, None))
        return held

    def _remember(self, batch: Batch, stored: Appended) -> None:
        """Remember the ids that the engine stored, for retries if it fails before the publishers get their
        acks.
        """
        if stored.time_us >= self._rotations.next_us:
            self._rotations.run(stored.time_us)
        ids = self._ids.get(batch.room)
        if ids is None:
            if len(self._ids) >= MOST_HEADS:
                self._ids.clear()
            ids = self._ids[batch.room] = RecentIds()
        if not ids.waiting:
            self._rotations.plan(ids, stored.time_us)
        elif len(ids.young) >= MOST_IDS:
            ids.rotate()
        ids.young.update(zip([item.id for item in batch.items], stored.sequences, strict=True))

    def _saw(self, room: RoomKey, epoch: str, last: int) -> None:
        if len(self._heads) >= MOST_HEADS and room not in self._heads:
            self._heads.clear()
        if (epoch, last) > self._heads.get(room, ("", 0)):
            self._heads[room] = (epoch, last)

    # -- the way back

    async def _hand_over(self) -> None:
        """Hand everything in memory over to the engine.

        Raises StorageError if it becomes unreachable again.
        """
        for (room, client), member in list(self._absent.items()):
            await self._engine.enter(room, member)
            self._absent.pop((room, client), None)
        for room in list(self._followed):
            head = await self._engine.follow(room)
            self._followed.pop(room, None)
            if room not in self._rooms:
                self._saw(room, head.epoch, head.last)
        while self._rooms:
            room = next(iter(self._rooms))
            await self._hand_over_room(room, self._rooms[room])
        self._memory = MemoryLog(dedup_seconds=self._dedup_seconds)
        self._bytes = 0

    async def _hand_over_room(self, room: RoomKey, held: _Held) -> None:
        if not held.moved:
            head = await self._engine.begin_epoch(room, held.epoch)
            held.moved, base = head.epoch, head.last
            held.former = min(held.former, base) if room in self._heads else base
        while entries := [e for e in self._memory.entries(room) if e.sequence > held.handed][:AT_ONCE]:
            assert held.last_batch is not None
            items = [Item(entry.id, entry.channel, entry.data) for entry in entries]
            [outcome] = await _given(self._engine.append([held.last_batch._replace(items=items)]))
            if isinstance(outcome, StorageError):
                raise outcome
            held.handed = entries[-1].sequence
            self.handed_over += len(entries)
        # No await from here on: the next append goes to the engine, after what was handed over.
        del self._rooms[room]
        known = [entry.id for entry in self._memory.entries(room)]
        self._ids[room] = self._memory.recent_ids(room)
        self._heads.pop(room, None)
        self._listener.on_moved(room, held.moved, held.former, known)
        logger.info("a room is in the engine again", extra={"room": room.room, "messages": len(known)})

    def _of(self, room: RoomKey) -> EventLog:
        """The log to read the room from. A room in memory is read from there only."""
        return self._memory if self._is_here(room) else self._engine

    # -- rooms

    async def create_room(self, room: RoomKey) -> bool:
        """See EventLog.create_room. True while the engine is unreachable, even if the room exists there."""
        if self._is_here(room):
            self._begin(room)
            return True
        try:
            return await self._engine.create_room(room)
        except StorageError as failure:
            if not self._may_degrade(room):
                raise
            self._go_on_without(failure)
            self._begin(room)
            return True

    async def delete_room(self, room: RoomKey) -> bool:
        """See EventLog.delete_room. Refused while the room is in memory: the engine may hold more of it."""
        if self._is_here(room):
            raise StorageError("The storage engine is unreachable; delete the room when it is back.")
        self._heads.pop(room, None)
        return await self._engine.delete_room(room)

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """See EventLog.rooms. While the engine is unreachable, only the rooms in memory."""
        return await (self._memory if self.away else self._engine).rooms(tenant, after, limit)

    async def tenants_of(self, room: str, after: str, limit: int) -> Sequence[str]:
        """See EventLog.tenants_of."""
        return await (self._memory if self.away else self._engine).tenants_of(room, after, limit)

    async def follow(self, room: RoomKey) -> Head:
        """See EventLog.follow. While the engine is unreachable, no entries of other nodes arrive."""
        if not self._is_here(room):
            try:
                head = await self._engine.follow(room)
            except StorageError as failure:
                if not self._may_degrade(room):
                    raise
                self._go_on_without(failure)
            else:
                self._saw(room, head.epoch, head.last)
                return head
        self._followed[room] = None
        self._begin(room)
        return await self._memory.head(room)

    async def unfollow(self, room: RoomKey) -> None:
        """See EventLog.unfollow."""
        self._followed.pop(room, None)
        with contextlib.suppress(StorageError) if self.away else contextlib.nullcontext():
            await self._engine.unfollow(room)

    async def signal(self, room: RoomKey, data: bytes) -> None:
        """See EventLog.signal. Dropped while the engine is unreachable."""
        if not self.away:
            await self._engine.signal(room, data)

    async def direct(self, node: str, data: bytes) -> bool:
        """See EventLog.direct."""
        return False if self.away else await self._engine.direct(node, data)

    async def enter(self, room: RoomKey, member: RoomMember) -> None:
        """See EventLog.enter. While the engine is unreachable, other nodes do not see the client."""
        await self._presence.enter(room, member)
        if self.away:
            self._absent[room, member.client] = member
        else:
            await self._engine.enter(room, member)

    async def leave(self, room: RoomKey, client: str) -> None:
        """See EventLog.leave."""
        await self._presence.leave(room, client)
        if self._absent.pop((room, client), None) is None and not self.away:
            await self._engine.leave(room, client)

    async def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """See EventLog.present. While the engine is unreachable, only the clients of this node."""
        return await (self._presence if self.away else self._engine).present(room, limit)

    async def probe(self) -> float:
        """See EventLog.probe: of the engine."""
        if not self._opened:
            raise StorageError("The storage engine has not answered since the start.")
        return await self._engine.probe()

    # -- events from the engine

    def on_entries(self, room: RoomKey, epoch: str, entries: Sequence[Entry]) -> None:
        """See LogListener. Entries of a room in memory are dropped here and read after its handover."""
        if room not in self._rooms:
            if entries:
                self._saw(room, epoch, entries[-1].sequence)
            self._listener.on_entries(room, epoch, entries)

    def on_signal(self, room: RoomKey, data: bytes) -> None:
        """See LogListener."""
        self._listener.on_signal(room, data)

    def on_direct(self, data: bytes) -> None:
        """See LogListener."""
        self._listener.on_direct(data)

    def on_resync(self, rooms: Sequence[RoomKey]) -> None:
        """See LogListener."""
        self._listener.on_resync([room for room in rooms if room not in self._rooms])


async def _given(outcomes: Given) -> Sequence[Outcome]:
    return await outcomes if isinstance(outcomes, Awaitable) else outcomes


__all__ = ["DegradedLog", "RenewableLog"]
