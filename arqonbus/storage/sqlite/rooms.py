"""Appends to the rooms of an SQLite log, inside a transaction that the caller opens and commits.

Runs on the writer's thread and uses only the given connection. Its state of a room in memory must equal the
file after the commit: after a rollback, call `forget`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import KEEP_NOTHING, Appended, Batch, Durability, Retention, RoomKey
from arqonbus.storage.recent_ids import RecentIds, Rotations

_TRIM_STEP = 256  # deleted together; `first` hides these rows at once
_MOST_HELD = 50_000  # rooms in memory; above it all are dropped and read again when used
_NO_DUPLICATES: frozenset[int] = frozenset()

_ROOM = "SELECT number, epoch, first, last, time_us FROM rooms WHERE tenant = ? AND room = ?"
_NEW_ROOM = "INSERT INTO rooms (tenant, room) VALUES (?, ?)"
_SAVE_ROOM = "UPDATE rooms SET epoch = ?, first = ?, last = ?, time_us = ? WHERE number = ?"
_FLOOR = "SELECT min(sequence) FROM entries WHERE number = ?"
_RECENT = """
SELECT id, sequence FROM ids WHERE number = ?1 AND time_us >= ?2
UNION ALL SELECT id, sequence FROM entries WHERE number = ?1 AND sequence > ?3 AND time_us >= ?2
"""
_NEW_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)"
_NEW_ID = "INSERT INTO ids VALUES (?, ?, ?, ?)"
_TIME = "SELECT time_us FROM entries WHERE number = ? AND sequence = ?"
_FIRST_YOUNG = """
SELECT sequence FROM entries WHERE number = ? AND sequence >= ? AND time_us >= ? ORDER BY sequence LIMIT 1
"""
_KEEP_IDS = """
INSERT OR IGNORE INTO ids SELECT number, sequence, time_us, id FROM entries
WHERE number = ? AND sequence < ? AND sequence > ? AND time_us >= ?
"""
_DELETE_ENTRIES = "DELETE FROM entries WHERE number = ? AND sequence < ?"
_DELETE_OLD_IDS = """
DELETE FROM ids WHERE number = ?1 AND sequence < ifnull(
    (SELECT min(sequence) FROM ids WHERE number = ?1 AND sequence > ?2 AND time_us >= ?3), 1 << 62)
"""

EntryRow = tuple[int, int, int, str, str, bytes]


class _SqliteRoom:
    """A room as in the file, plus its recent ids. `floor` is the lowest row not yet deleted."""

    __slots__ = (
        "epoch",
        "first",
        "floor",
        "ids",
        "kept_ids",
        "last",
        "number",
        "oldest_us",
        "stored",
        "time_us",
    )

    def __init__(self, number: int, epoch: str, first: int, last: int, time_us: int) -> None:
        self.number = number
        self.epoch = epoch
        self.first = first
        self.last = last
        self.time_us = time_us
        self.floor = first
        self.oldest_us = 0  # lower bound of the times of held entries; 0: unknown
        self.stored = True  # there may be rows in `entries`
        self.kept_ids = 0  # rows added to `ids` since the last sweep
        self.ids = RecentIds()


def _clock_us() -> int:
    return time.time_ns() // 1000


class SqliteRooms:
    """Appends batches in the caller's transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        durability: Durability,
        dedup_seconds: float,
        dedup_max: int,
        clock_us: Callable[[], int] | None,
    ) -> None:
        self._connection = connection
        self._durability = durability
        self._window_us = int(dedup_seconds * 1_000_000)
        self._generation_max = max(dedup_max // 2, 1)
        self._clock_us = clock_us or _clock_us
        self._held: dict[RoomKey, _SqliteRoom] = {}
        self._rotations = Rotations(self._window_us)

    def forget(self) -> None:
        """Drop all state in memory; each room is read again from the file when used."""
        self._held.clear()
        self._rotations = Rotations(self._window_us)

    def forget_room(self, key: RoomKey) -> None:
        """Drop one room after its deletion."""
        self._held.pop(key, None)

    def append(self, batches: Sequence[Batch]) -> list[Appended]:
        """Store the batches in order.

        Raises sqlite3.Error; the caller must roll back and call `forget` then.
        """
        now = self._clock_us()
        if len(self._held) > _MOST_HELD:
            self.forget()
        if now >= self._rotations.next_us:
            self._rotations.run(now)
        rows: list[EntryRow] = []
        touched: dict[_SqliteRoom, Retention] = {}
        outcomes = []
        for batch in batches:
            room = self._held.get(batch.room) or self._load(batch.room, now)
            outcomes.append(self._append(room, batch, now, rows))
            touched[room] = batch.retention
        if rows:
            self._connection.executemany(_NEW_ENTRY, rows)
        for room, retention in touched.items():
            self._trim(room, retention)
        self._connection.executemany(
            _SAVE_ROOM, [(room.epoch, room.first, room.last, room.time_us, room.number) for room in touched]
        )
        return outcomes

    def _load(self, key: RoomKey, now: int) -> _SqliteRoom:
        execute = self._connection.execute
        row = execute(_ROOM, key).fetchone()
        if row is None:
            number = execute(_NEW_ROOM, key).lastrowid
            assert number is not None
            room = _SqliteRoom(number, "", 1, 0, 0)
            room.stored = False
        else:
            room = _SqliteRoom(*row)
            room.floor = execute(_FLOOR, (room.number,)).fetchone()[0] or room.first
            newest = room.last - self._generation_max
            recent = execute(_RECENT, (room.number, now - self._window_us, newest))
            room.ids.young = dict(recent.fetchall())
        room.epoch = room.epoch or new_ulid()
        self._held[key] = room
        return room

    def _append(self, room: _SqliteRoom, batch: Batch, now: int, rows: list[EntryRow]) -> Appended:
        now = room.time_us = max(now, room.time_us)
        ids = room.ids
        if not ids.waiting:
            self._rotations.plan(ids, now)
        elif len(ids.young) >= self._generation_max:
            ids.rotate()
        young, old, number, last = ids.young, ids.old, room.number, room.last
        fresh: list[EntryRow] = []
        sequences: list[int] = []
        duplicates: list[int] = []
        for index, (message_id, channel, data) in enumerate(batch.items):
            known = young.get(message_id) or old.get(message_id)
            if known:
                duplicates.append(index)
                sequences.append(known)
                continue
            last += 1
            young[message_id] = last
            sequences.append(last)
            fresh.append((number, last, now, message_id, channel, data))
        room.last = last
        if batch.retention.max_messages == KEEP_NOTHING:
            self._connection.executemany(_NEW_ID, [row[:4] for row in fresh])
            room.kept_ids += len(fresh)
            room.first = last + 1
        else:
            rows += fresh
            room.stored = room.stored or bool(fresh)
        marks = frozenset(duplicates) if duplicates else _NO_DUPLICATES
        return Appended(room.epoch, now, sequences, marks, batch.durability or self._durability)

    def _trim(self, room: _SqliteRoom, retention: Retention) -> None:
        most, max_age_us = retention
        if most == KEEP_NOTHING:
            room.first = room.last + 1
        elif most:
            room.first = max(room.first, room.last - most + 1)
        if max_age_us:
            self._trim_by_age(room, room.time_us - max_age_us)
        if not room.stored:
            room.floor = room.first
        elif most == KEEP_NOTHING or room.first - room.floor >= _TRIM_STEP:
            self._delete(room)
        if room.kept_ids >= _TRIM_STEP:
            self._sweep_ids(room)

    def _trim_by_age(self, room: _SqliteRoom, cutoff_us: int) -> None:
        if room.oldest_us >= cutoff_us or room.first > room.last:
            return
        execute = self._connection.execute
        found = execute(_FIRST_YOUNG, (room.number, room.first, cutoff_us)).fetchone()
        room.first = found[0] if found else room.last + 1
        row = execute(_TIME, (room.number, room.first)).fetchone()
        room.oldest_us = row[0] if row else room.time_us

    def _delete(self, room: _SqliteRoom) -> None:
        """Delete the rows below `first`, but keep their ids for the dedup window."""
        since = room.time_us - self._window_us
        newest = room.last - self._generation_max
        moved = self._connection.execute(_KEEP_IDS, (room.number, room.first, newest, since)).rowcount
        self._connection.execute(_DELETE_ENTRIES, (room.number, room.first))
        room.floor = room.first
        room.stored = room.first <= room.last
        room.kept_ids += max(moved, 0)

    def _sweep_ids(self, room: _SqliteRoom) -> None:
        newest = room.last - self._generation_max
        since = room.time_us - self._window_us
        self._connection.execute(_DELETE_OLD_IDS, (room.number, newest, since))
        room.kept_ids = 0


__all__ = ["SqliteRooms"]
