"""The event log in this process's memory: for tests, for rooms that need no history, and for degraded mode.

It uses nothing outside the process and never waits: append returns its outcome at once. Everything is lost
when the process ends; the reported durability is `memory`.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, repeat
from operator import attrgetter, itemgetter

from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.local_presence import LocalPresence
from arqonbus.storage.ports import (
    KEEP_NOTHING,
    MAX_IDS,
    Appended,
    Batch,
    Durability,
    Entry,
    Head,
    LogListener,
    Outcome,
    Page,
    RoomKey,
    RoomMember,
    RoomPage,
    StorageError,
)
from arqonbus.storage.recent_ids import RecentIds, Rotations

_EMPTY_HEAD = Head("", 0, 0)
_NO_DUPLICATES: frozenset[int] = frozenset()
_entry_of = partial(tuple.__new__, Entry)  # a third of the cost of calling Entry, and called per message
_appended_of = partial(tuple.__new__, Appended)
_id_of = itemgetter(0)
_time_of = attrgetter("time_us")


class _MemoryRoom:
    __slots__ = ("epoch", "ids", "last", "log", "time_us")

    def __init__(self) -> None:
        self.epoch = new_ulid()
        self.last = 0
        self.time_us = 0
        self.log: deque[Entry] = deque()
        self.ids = RecentIds()

    def head(self) -> Head:
        return Head(self.epoch, self.log[0].sequence if self.log else self.last + 1, self.last)


def _clock_us() -> int:
    return time.time_ns() // 1000


class MemoryLog:
    """EventLog of one process.

    An id is remembered for at least `dedup_seconds`, but at most `dedup_max` ids per room.
    """

    name = "memory"
    shared = False
    durability = Durability.MEMORY
    groups = None  # acks of workers must not be lost with the process

    def __init__(
        self,
        *,
        dedup_seconds: float = 120.0,
        dedup_max: int = MAX_IDS,
        clock_us: Callable[[], int] = _clock_us,
    ) -> None:
        self._clock_us = clock_us
        self._generation_max = max(dedup_max // 2, 1)
        self._rotations = Rotations(int(dedup_seconds * 1_000_000))
        self._rooms: dict[RoomKey, _MemoryRoom] = {}
        self._names: dict[str, list[str]] = {}
        self._presence = LocalPresence()

    async def open(self, listener: LogListener) -> None:
        """Do nothing: there is no connection and no other node, so the listener is never called."""

    async def close(self) -> None:
        """Do nothing: entries stay readable as long as the object exists."""

    def append(self, batches: Sequence[Batch]) -> Sequence[Outcome]:
        """See EventLog.append. The outcome is known at once."""
        now = self._clock_us()
        if now >= self._rotations.next_us:
            self._rotations.run(now)
        rooms = self._rooms
        outcomes: list[Outcome] = []
        for batch in batches:
            key = batch.room
            room = rooms.get(key)
            if room is None:
                room = rooms[key] = _MemoryRoom()
                self._list(key)
            outcomes.append(self._append(room, batch, now))
        return outcomes

    def _append(self, room: _MemoryRoom, batch: Batch, now: int) -> Appended:
        _, items, (most, max_age_us), _ = batch
        if now > room.time_us:
            room.time_us = now
        else:  # the clock was set back; time within a room never decreases
            now = room.time_us
        ids = room.ids
        if not ids.waiting:
            self._rotations.plan(ids, now)
        elif len(ids.young) >= self._generation_max:
            ids.rotate()
        young, old, log = ids.young, ids.old, room.log
        count = len(items)
        first = room.last + 1
        sequences: Sequence[int]
        if count == 1 and (name := items[0][0]) not in young and name not in old:
            duplicates = _NO_DUPLICATES
            sequences = (first,)
            room.last = young[name] = first
            if most != KEEP_NOTHING:
                log.append(_entry_of((first, now, *items[0])))
        elif count > 1 and _all_new(names := tuple(map(_id_of, items)), young, old):
            duplicates = _NO_DUPLICATES
            sequences = range(first, first + count)
            room.last += count
            young.update(zip(names, sequences, strict=True))
            if most != KEEP_NOTHING:
                _, channels, data = zip(*items, strict=True)
                log.extend(map(_entry_of, zip(sequences, repeat(now), names, channels, data)))
        else:
            sequences, duplicates = self._append_some(room, batch, now)
        if log and (max_age_us or (most and len(log) > most)):
            _trim(log, most, max_age_us, now)
        return _appended_of((room.epoch, now, sequences, duplicates, Durability.MEMORY))

    @staticmethod
    def _append_some(room: _MemoryRoom, batch: Batch, now: int) -> tuple[Sequence[int], frozenset[int]]:
        young, old = room.ids.young, room.ids.old
        keep = batch.retention.max_messages != KEEP_NOTHING
        sequences: list[int] = []
        duplicates: set[int] = set()
        for index, item in enumerate(batch.items):
            known = young.get(item.id) or old.get(item.id)
            if known:
                duplicates.add(index)
                sequences.append(known)
                continue
            room.last += 1
            young[item.id] = room.last
            sequences.append(room.last)
            if keep:
                room.log.append(Entry(room.last, now, item.id, item.channel, item.data))
        return sequences, frozenset(duplicates)

    def begin(self, room: RoomKey, epoch: str, last: int, ids: RecentIds | None = None) -> None:
        """Begin a room that continues another log: in this epoch, after sequence `last`, with these known
        ids.
        """
        held = self._rooms[room] = _MemoryRoom()
        held.epoch, held.last = epoch, last
        if ids is not None:
            held.ids = ids
        self._list(room)

    def recent_ids(self, room: RoomKey) -> RecentIds:
        """The ids that the room remembers."""
        return self._rooms[room].ids

    def entries(self, room: RoomKey) -> Sequence[Entry]:
        """All held entries of a room, oldest first."""
        held = self._rooms.get(room)
        return () if held is None else tuple(held.log)

    async def head(self, room: RoomKey) -> Head:
        """See EventLog.head."""
        held = self._rooms.get(room)
        return held.head() if held is not None else _EMPTY_HEAD

    async def read(self, room: RoomKey, after: int, until: int, limit: int) -> Page:
        """See EventLog.read."""
        held = self._rooms.get(room)
        if held is None:
            return Page(_EMPTY_HEAD, ())
        head = held.head()
        begin = max(after + 1, head.first)
        end = min(until, head.last) if until else head.last
        return Page(head, _slice(held, begin, min(end, begin + limit - 1)))

    async def read_back(self, room: RoomKey, before: int, limit: int) -> Page:
        """See EventLog.read_back."""
        held = self._rooms.get(room)
        if held is None:
            return Page(_EMPTY_HEAD, ())
        head = held.head()
        end = min(before - 1, head.last) if before else head.last
        entries = _slice(held, max(end - limit + 1, head.first), end)
        entries.reverse()
        return Page(head, entries)

    async def seek(self, room: RoomKey, time_us: int) -> int:
        """See EventLog.seek."""
        held = self._rooms.get(room)
        if held is None:
            return 1
        return held.head().first + bisect_left(held.log, time_us, key=_time_of)

    async def create_room(self, room: RoomKey) -> bool:
        """See EventLog.create_room."""
        self._rooms.setdefault(room, _MemoryRoom())
        return self._list(room)

    def _list(self, room: RoomKey) -> bool:
        names = self._names.setdefault(room.tenant, [])
        index = bisect_left(names, room.room)
        if index < len(names) and names[index] == room.room:
            return False
        insort(names, room.room)
        return True

    async def delete_room(self, room: RoomKey) -> bool:
        """See EventLog.delete_room."""
        self._rooms.pop(room, None)
        names = self._names.get(room.tenant, [])
        index = bisect_left(names, room.room)
        if index == len(names) or names[index] != room.room:
            return False
        del names[index]
        if not names:
            del self._names[room.tenant]
        return True

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """See EventLog.rooms."""
        names = self._names.get(tenant, [])
        begin = bisect_right(names, after)
        end = begin + max(limit, 0)
        return RoomPage(names[begin:end], end < len(names))

    async def tenants_of(self, room: str, after: str, limit: int) -> Sequence[str]:
        """See EventLog.tenants_of. Every name is indexed."""
        found = sorted({key.tenant for key in self._rooms if key.room == room and key.tenant > after})
        return found[: max(limit, 0)]

    async def follow(self, room: RoomKey) -> Head:
        """Return the head. No other node can append, so the listener is never called."""
        return await self.head(room)

    async def unfollow(self, room: RoomKey) -> None:
        """Do nothing."""

    async def signal(self, room: RoomKey, data: bytes) -> None:
        """Do nothing: there is no other node."""

    async def direct(self, node: str, data: bytes) -> bool:
        """Return False: there is no other node."""
        return False

    async def enter(self, room: RoomKey, member: RoomMember) -> None:
        """See EventLog.enter."""
        self._presence.enter(room, member)

    async def leave(self, room: RoomKey, client: str) -> None:
        """See EventLog.leave."""
        self._presence.leave(room, client)

    async def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """See EventLog.present."""
        return self._presence.present(room, limit)

    async def probe(self) -> float:
        """Append, read back and delete one value in a separate log."""
        began = time.perf_counter()
        log: deque[bytes] = deque()
        log.append(b"probe")
        if log.popleft() != b"probe":
            raise StorageError("The memory log did not give back what was put in; this process is unsound.")
        return time.perf_counter() - began


def _all_new(names: Sequence[str], young: dict[str, int], old: dict[str, int]) -> bool:
    return (
        young.keys().isdisjoint(names)
        and (not old or old.keys().isdisjoint(names))
        and len(set(names)) == len(names)
    )


def _trim(log: deque[Entry], most: int, max_age_us: int, now: int) -> None:
    if most == KEEP_NOTHING:
        log.clear()
    elif most:
        for _ in range(len(log) - most):
            log.popleft()
    if max_age_us:
        oldest = now - max_age_us
        while log and log[0][1] < oldest:
            log.popleft()


def _slice(room: _MemoryRoom, begin: int, end: int) -> list[Entry]:
    """Entries begin..end, both included and both held. Walks from the nearer end."""
    log = room.log
    if not log or begin > end:
        return []
    first = log[0].sequence
    count = end - begin + 1
    from_end = room.last - end
    if from_end < begin - first:
        entries = list(islice(reversed(log), from_end, from_end + count))
        entries.reverse()
        return entries
    return list(islice(log, begin - first, begin - first + count))


__all__ = ["MemoryLog"]
