"""Consumer groups in an SQLite log: two tables, changed on the writer's thread, so that each call is atomic.

The connection is used only within the writer's transactions. Nothing is kept in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from arqonbus.storage.ports import (
    FROM_BEGIN,
    FROM_END,
    MAX_PENDING,
    Entry,
    GroupJob,
    GroupKey,
    GroupRead,
    GroupState,
    Head,
    NoSuchGroupError,
    PendingJob,
    RoomKey,
    TooManyGroupsError,
    is_own,
    most_groups,
)

T = TypeVar("T")

_CHUNK = 100
_GROUP = """
SELECT number, epoch, given, pending, missed, most FROM groups WHERE tenant = ? AND room = ? AND name = ?
"""
_NAMES = "SELECT name FROM groups WHERE tenant = ? AND room = ? ORDER BY name"
_ADD = "INSERT INTO groups (tenant, room, name, epoch, given, most) VALUES (?, ?, ?, ?, ?, ?)"
_SAVE = "UPDATE groups SET epoch = ?, given = ?, pending = ?, missed = ? WHERE number = ?"
_DELETE = "DELETE FROM groups WHERE tenant = ? AND room = ? AND name = ? RETURNING number"
_HEAD = "SELECT number, epoch, first, last FROM rooms WHERE tenant = ? AND room = ?"
_ENTRY = "SELECT sequence, time_us, id, channel, data FROM entries WHERE number = ? AND sequence"
_ENTRY_AT = f"{_ENTRY} = ?"
_ENTRIES = f"{_ENTRY} BETWEEN ? AND ? ORDER BY sequence LIMIT ?"
_JOB = "SELECT sequence, consumer, deliveries, delivered_us, due_us, reason FROM jobs WHERE number = ? AND"
_DUE = f"{_JOB} due_us <= ? ORDER BY due_us, sequence LIMIT ?"
_NEXT_DUE = "SELECT min(due_us) FROM jobs WHERE number = ?"
_PENDING = f"{_JOB} (due_us, sequence) > (?, ?) ORDER BY due_us, sequence LIMIT ?"
_ONE = f"{_JOB} sequence = ?"
_HOLD = "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)"
_DROP = "DELETE FROM jobs WHERE number = ? AND sequence = ?"
_DROP_ALL = "DELETE FROM jobs WHERE number = ?"
_DELAYED = "SELECT count(*) FROM jobs WHERE number = ? AND consumer = ''"


class TransactionRunner(Protocol):
    """Runs work in the next transaction; the result is available after its commit."""

    def submit(self, work: Callable[[], T]) -> Awaitable[T]: ...


class _Group:
    """The rows of a group and its room, within one call.

    `renewed`: the room's epoch changed since the last call.
    """

    def __init__(self, row: tuple[Any, ...], room_number: int, head: Head) -> None:
        self.number, self.epoch, self.given, self.pending, self.missed, self.most = row
        self.missed_before = self.missed
        self.room_number = room_number
        self.head = head
        self.renewed = bool(head.epoch) and head.epoch != self.epoch
        if self.renewed:
            self.epoch, self.given = head.epoch, 0
            self.missed += self.pending
            self.pending = 0


class _Order(NamedTuple):
    """Delivery parameters of one read: consumer, lease, size limit."""

    consumer: str
    now_us: int
    due_us: int
    max_bytes: int


class SqliteGroups:
    """ConsumerGroups of one SQLite log."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        writer: TransactionRunner,
        create_room: Callable[[RoomKey], bool],
        clock_us: Callable[[], int],
    ) -> None:
        """`create_room`: creates a missing room within the transaction."""
        self._execute = connection.execute
        self._execute_many = connection.executemany
        self._submit = writer.submit
        self._create_room = create_room
        self._clock_us = clock_us

    async def ensure(self, group: GroupKey, start: int, max_deliveries: int) -> bool:
        """See ConsumerGroups.ensure."""
        return await self._submit(partial(self._ensure, group, start, max_deliveries))

    async def read(
        self, group: GroupKey, consumer: str, limit: int, lease_us: int, max_bytes: int
    ) -> GroupRead:
        """See ConsumerGroups.read."""
        return await self._submit(partial(self._read, group, consumer, limit, lease_us, max_bytes))

    async def ack(self, group: GroupKey, epoch: str, sequences: Sequence[int]) -> int:
        """See ConsumerGroups.ack."""
        return await self._submit(partial(self._ack, group, epoch, sequences))

    async def nack(
        self, group: GroupKey, epoch: str, consumer: str, sequence: int, delay_us: int, reason: str
    ) -> int:
        """See ConsumerGroups.nack."""
        return await self._submit(partial(self._nack, group, epoch, consumer, sequence, delay_us, reason))

    async def extend(
        self, group: GroupKey, epoch: str, consumer: str, sequences: Sequence[int], lease_us: int
    ) -> Sequence[int]:
        """See ConsumerGroups.extend."""
        return await self._submit(partial(self._extend, group, epoch, consumer, sequences, lease_us))

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
        return await self._submit(partial(self._claim, group, epoch, consumer, sequences, idle_us, lease_us))

    async def pending(self, group: GroupKey, after: tuple[int, int], limit: int) -> Sequence[PendingJob]:
        """See ConsumerGroups.pending."""
        return await self._submit(partial(self._pending, group, after, limit))

    async def state(self, group: GroupKey) -> GroupState:
        """See ConsumerGroups.state."""
        return await self._submit(partial(self._state, group))

    async def delete(self, group: GroupKey) -> bool:
        """See ConsumerGroups.delete."""
        return await self._submit(partial(self._delete, group))

    async def of_room(self, room: RoomKey) -> Sequence[GroupState]:
        """See ConsumerGroups.of_room."""
        return await self._submit(
            lambda: [self._state(GroupKey(room, name)) for (name,) in self._execute(_NAMES, room).fetchall()]
        )

    # -- on the writer's thread. Errors are raised before anything is changed, so that only this caller fails.

    def _ensure(self, group: GroupKey, start: int, max_deliveries: int) -> bool:
        if self._execute(_GROUP, _names(group)).fetchone() is not None:
            return False
        own = is_own(group)
        names = self._execute(_NAMES, group.room).fetchall()
        if sum(is_own(GroupKey(group.room, name)) is own for (name,) in names) >= most_groups(group):
            raise TooManyGroupsError(
                f"The room has {most_groups(group)} consumer groups, which is the limit."
            )
        self._create_room(group.room)
        head = self._head(group.room)[1]
        given = min(start, head.last)
        if start == FROM_BEGIN:
            given = head.first - 1
        elif start == FROM_END:
            given = head.last
        self._execute(_ADD, (*_names(group), head.epoch, given, max_deliveries))
        return True

    def _read(self, key: GroupKey, consumer: str, limit: int, lease_us: int, max_bytes: int) -> GroupRead:
        group = self._enter(key)
        if not group.head.epoch:
            return GroupRead("", [], 0, group.most)
        before = (group.given, group.pending, group.missed)
        now = self._clock_us()
        order = _Order(consumer, now, now + lease_us, max_bytes)
        pending = group.pending
        jobs: list[GroupJob] = []
        size = 0
        if pending and limit > 0:
            due = [
                PendingJob._make(row) for row in self._execute(_DUE, (group.number, now, limit)).fetchall()
            ]
            size = self._hand_out_again(group, due, order, jobs)
        count = min(limit - len(jobs), MAX_PENDING - pending)
        if group.given < group.head.last:
            jobs += self._hand_out_new(group, order, count, size)
        if (group.given, group.pending, group.missed) != before:
            self._save(group)
        due_in_us = 0
        if not jobs and group.pending:
            due_us = self._execute(_NEXT_DUE, (group.number,)).fetchone()[0]
            due_in_us = max(due_us - now, 1)
        return GroupRead(group.epoch, jobs, group.missed - group.missed_before, group.most, due_in_us)

    def _claim(
        self, key: GroupKey, epoch: str, consumer: str, sequences: Sequence[int], idle_us: int, lease_us: int
    ) -> GroupRead:
        group = self._enter(key)
        jobs: list[GroupJob] = []
        if epoch == group.epoch and group.head.epoch:
            now = self._clock_us()
            held = [self._job(group.number, sequence) for sequence in dict.fromkeys(sequences)]
            idle = [job for job in held if job is not None and now - job.delivered_us >= idle_us]
            self._hand_out_again(group, idle, _Order(consumer, now, now + lease_us, 1 << 62), jobs)
            self._save(group)
        return GroupRead(group.epoch, jobs, group.missed - group.missed_before, group.most)

    def _hand_out_again(
        self, group: _Group, due: Iterable[PendingJob], order: _Order, jobs: list[GroupJob]
    ) -> int:
        """Append redelivered jobs to `jobs`; returns the bytes of their data.

        Trimmed entries count as missed.
        """
        size = 0
        rows = []
        gone = []
        for job in due:
            if size > order.max_bytes:
                break
            found = None
            if job.sequence >= group.head.first:
                found = self._execute(_ENTRY_AT, (group.room_number, job.sequence)).fetchone()
            if found is None:
                gone.append((group.number, job.sequence))
                continue
            entry = Entry._make(found)
            size += len(entry.data)
            jobs.append(GroupJob(entry, job.deliveries + 1, job.consumer, job.reason))
            rows.append(_row(group, job.sequence, order, job.deliveries + 1))
        self._execute_many(_HOLD, rows)
        self._execute_many(_DROP, gone)
        group.pending -= len(gone)
        group.missed += len(gone)
        return size

    def _hand_out_new(self, group: _Group, order: _Order, count: int, size: int) -> list[GroupJob]:
        head = group.head
        rows = []
        jobs: list[GroupJob] = []
        while len(jobs) < count and size <= order.max_bytes:
            asked = min(_CHUNK, count - len(jobs))
            low = max(group.given + 1, head.first)
            found = self._execute(_ENTRIES, (group.room_number, low, head.last, asked)).fetchall()
            for row in found:
                if size > order.max_bytes:
                    break
                entry = Entry._make(row)
                group.missed += entry.sequence - group.given - 1
                group.given = entry.sequence
                size += len(entry.data)
                jobs.append(GroupJob(entry, 1, "", ""))
                rows.append(_row(group, entry.sequence, order, 1))
            else:
                if len(found) < asked:
                    group.missed += head.last - group.given
                    group.given = head.last
                    break
        self._execute_many(_HOLD, rows)
        group.pending += len(rows)
        return jobs

    def _ack(self, key: GroupKey, epoch: str, sequences: Sequence[int]) -> int:
        group = self._load(key)
        if group.renewed or epoch != group.epoch:
            return 0
        done = self._execute_many(_DROP, [(group.number, sequence) for sequence in sequences]).rowcount
        done = max(done, 0)
        if done:
            group.pending -= done
            self._save(group)
        return done

    def _nack(
        self, key: GroupKey, epoch: str, consumer: str, sequence: int, delay_us: int, reason: str
    ) -> int:
        group = self._load(key)
        job = self._held(group, epoch, consumer, sequence)
        if job is None:
            return 0
        due_us = self._clock_us() + delay_us
        self._execute(_HOLD, (group.number, sequence, "", job.deliveries, job.delivered_us, due_us, reason))
        return job.deliveries

    def _extend(
        self, key: GroupKey, epoch: str, consumer: str, sequences: Sequence[int], lease_us: int
    ) -> list[int]:
        group = self._load(key)
        due_us = self._clock_us() + lease_us
        found = [self._held(group, epoch, consumer, sequence) for sequence in dict.fromkeys(sequences)]
        held = [job for job in found if job is not None]
        rows = [(group.number, *job._replace(due_us=due_us)) for job in held]
        self._execute_many(_HOLD, rows)
        return [job.sequence for job in held]

    def _pending(self, key: GroupKey, after: tuple[int, int], limit: int) -> list[PendingJob]:
        group = self._load(key)
        if group.renewed:
            return []
        rows = self._execute(_PENDING, (group.number, *after, max(limit, 0)))
        return [PendingJob._make(row) for row in rows.fetchall()]

    def _state(self, key: GroupKey) -> GroupState:
        group = self._load(key)
        delayed = 0 if group.renewed else self._execute(_DELAYED, (group.number,)).fetchone()[0]
        head = group.head
        lag = max(head.last - max(group.given, head.first - 1), 0) if head.epoch else 0
        return GroupState(
            key.name,
            group.epoch,
            group.given,
            lag,
            group.pending - delayed,
            delayed,
            group.missed,
            group.most,
        )

    def _delete(self, key: GroupKey) -> bool:
        row = self._execute(_DELETE, _names(key)).fetchone()
        if row is None:
            return False
        self._execute(_DROP_ALL, row)
        return True

    # -- rows

    def _head(self, room: RoomKey) -> tuple[int, Head]:
        row = self._execute(_HEAD, room).fetchone()
        if row is None or not row[1]:
            return 0, Head("", 0, 0)
        return row[0], Head(*row[1:])

    def _load(self, key: GroupKey) -> _Group:
        row = self._execute(_GROUP, _names(key)).fetchone()
        if row is None:
            raise NoSuchGroupError("There is no such consumer group.")
        return _Group(row, *self._head(key.room))

    def _enter(self, key: GroupKey) -> _Group:
        """The group. If the room has a new epoch, jobs of the old one are dropped."""
        group = self._load(key)
        if group.renewed:
            self._execute(_DROP_ALL, (group.number,))
            self._save(group)
        return group

    def _save(self, group: _Group) -> None:
        self._execute(_SAVE, (group.epoch, group.given, group.pending, group.missed, group.number))

    def _job(self, number: int, sequence: int) -> PendingJob | None:
        row = self._execute(_ONE, (number, sequence)).fetchone()
        return None if row is None else PendingJob._make(row)

    def _held(self, group: _Group, epoch: str, consumer: str, sequence: int) -> PendingJob | None:
        """The job, if the consumer holds it."""
        if group.renewed or epoch != group.epoch:
            return None
        job = self._job(group.number, sequence)
        return job if job is not None and job.consumer == consumer else None


def _names(group: GroupKey) -> tuple[str, str, str]:
    return (*group.room, group.name)


def _row(group: _Group, sequence: int, order: _Order, deliveries: int) -> tuple[object, ...]:
    return (group.number, sequence, order.consumer, deliveries, order.now_us, order.due_us, "")


__all__ = ["SqliteGroups"]
