"""The event log in one SQLite file: the embedded default, for a bus without servers.

The file belongs to one process. Writes go through one thread with group commit, reads through a second,
read-only connection; both see only committed state. Uses the file, its -wal, -shm, .lock and .seal, nothing
else.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TypeVar

from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.local_presence import LocalPresence
from arqonbus.storage.ports import (
    MAX_IDS,
    Appended,
    Batch,
    ConsumerGroups,
    Durability,
    Entry,
    Head,
    LogListener,
    Outcome,
    Page,
    Retention,
    RoomKey,
    RoomMember,
    RoomPage,
    StorageError,
)
from arqonbus.storage.sqlite.checkpoint import write_checkpoint
from arqonbus.storage.sqlite.groups import SqliteGroups
from arqonbus.storage.sqlite.rooms import SqliteRooms
from arqonbus.storage.sqlite.schema import FileLock, open_reader, open_writer
from arqonbus.storage.sqlite.seal import break_seal, seal
from arqonbus.storage.sqlite.wal import WalCopier
from arqonbus.storage.sqlite.writer import Writer

T = TypeVar("T")

logger = logging.getLogger(__name__)

_HEAD = "SELECT number, epoch, first, last FROM rooms WHERE tenant = ? AND room = ?"
_ENTRY = (
    "SELECT sequence, time_us, id, channel, data FROM entries WHERE number = ? AND sequence BETWEEN ? AND ?"
)
_READ = _ENTRY + " ORDER BY sequence LIMIT ?"
_READ_BACK = _ENTRY + " ORDER BY sequence DESC LIMIT ?"
_TIME = "SELECT time_us FROM entries WHERE number = ? AND sequence = ?"
_ROOMS = "SELECT room FROM rooms WHERE tenant = ? AND room > ? ORDER BY room LIMIT ?"
_TENANTS = "SELECT tenant FROM rooms WHERE room = ? AND tenant > ? ORDER BY tenant LIMIT ?"


class SqliteLog:
    """EventLog in the file `path`, created if missing; its directory must exist.

    HOT survives a kill of the process; DURABLE also flushes the commit to disk and survives a power cut. The
    log's durability applies to every commit; a batch with DURABLE has its commit flushed in any case.
    """

    name = "sqlite"
    shared = False

    def __init__(
        self,
        path: Path | str,
        durability: Durability = Durability.HOT,
        *,
        dedup_seconds: float = 120.0,
        dedup_max: int = MAX_IDS,
        clock_us: Callable[[], int] | None = None,
        checkpoint_seconds: float = 0.0,
    ) -> None:
        """`checkpoint_seconds`: interval of the checkpoints (see checkpoint.py); 0 disables them."""
        if durability is Durability.MEMORY:
            raise ValueError("A file is never less than HOT; use MemoryLog for durability MEMORY.")
        self.durability = durability
        self._path = Path(path)
        self._dedup = (dedup_seconds, dedup_max, clock_us)
        self._clock_us = clock_us or (lambda: time.time_ns() // 1000)
        self.groups: ConsumerGroups | None = None
        self._presence = LocalPresence()
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoints: asyncio.Task[None] | None = None
        self._lock: FileLock | None = None
        self._writer: Writer | None = None
        self._reader: sqlite3.Connection | None = None
        self._read_thread: ThreadPoolExecutor | None = None

    async def open(self, listener: LogListener) -> None:
        """Lock, check and open the file. No other node writes it, so the listener is never called."""
        try:
            await asyncio.to_thread(self._open_file)
        except OSError as error:
            raise StorageError(f"The SQLite log {self._path} cannot be opened: {error}.") from error
        self._wal = WalCopier(self._path)
        self._writer = Writer(self._connection, self._rooms.forget, self._wal.committed)
        self.groups = SqliteGroups(self._connection, self._writer, self._create_room, self._clock_us)
        if self._checkpoint_seconds:
            self._checkpoints = asyncio.create_task(self._keep_checkpoint_fresh())

    async def _keep_checkpoint_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._checkpoint_seconds)
            try:
                await asyncio.to_thread(write_checkpoint, self._path)
            except StorageError as error:
                logger.error("the checkpoint failed", extra={"reason": str(error)})

    def _open_file(self) -> None:
        self._lock = FileLock(self._path)
        try:
            self._connection = open_writer(self._path, self.durability)
            break_seal(self._connection, self._path, self.durability)
            self._reader = open_reader(self._path)
        except (StorageError, sqlite3.Error, OSError) as error:
            self._lock.release()
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"The SQLite log {self._path} cannot be opened: {error}.") from error
        self._rooms = SqliteRooms(self._connection, self.durability, *self._dedup)
        self._read_thread = ThreadPoolExecutor(1, "arqonbus-sqlite-reader")

    async def close(self) -> None:
        """Commit all accepted work, then close and unlock the file."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if self._checkpoints is not None:
            self._checkpoints.cancel()
        await asyncio.to_thread(self._wal.close)
        await writer.close()
        assert self._read_thread is not None
        assert self._reader is not None
        assert self._lock is not None
        await asyncio.to_thread(self._read_thread.shutdown)
        self._reader.close()
        try:
            await asyncio.to_thread(seal, self._path, self.durability)
        except (sqlite3.Error, OSError) as error:
            logger.error("the log was closed without a seal", extra={"reason": str(error)})
        self._lock.release()

    def append(self, batches: Sequence[Batch]) -> Awaitable[Sequence[Outcome]]:
        """See EventLog.append.

        The work is submitted in this call, so entries are stored in the order of calls.
        """
        if self._writer is None:
            return _refused(len(batches), StorageError("The SQLite log is not open; nothing was written."))
        flush = any(batch.durability is Durability.DURABLE for batch in batches)
        work = partial(self._rooms.append, batches)
        return _outcomes(self._writer.submit(work, flush=flush), len(batches))

    async def head(self, room: RoomKey) -> Head:
        """See EventLog.head."""
        return await self._read(lambda reader: _head(reader, room)[1])

    async def read(self, room: RoomKey, after: int, until: int, limit: int) -> Page:
        """See EventLog.read."""
        return await self._read(lambda reader: _page(reader, _READ, room, after + 1, until, limit))

    async def read_back(self, room: RoomKey, before: int, limit: int) -> Page:
        """See EventLog.read_back."""
        if before == 1:  # nothing is lower, and an upper bound of 0 means no bound
            return Page(await self.head(room), ())
        return await self._read(lambda reader: _page(reader, _READ_BACK, room, 0, max(before - 1, 0), limit))

    async def seek(self, room: RoomKey, time_us: int) -> int:
        """See EventLog.seek."""
        return await self._read(lambda reader: _seek(reader, room, time_us))

    async def create_room(self, room: RoomKey) -> bool:
        """See EventLog.create_room."""
        return await self._write(partial(self._create_room, room))

    def _create_room(self, room: RoomKey) -> bool:
        sql = "INSERT OR IGNORE INTO rooms (tenant, room) VALUES (?, ?)"
        created = self._connection.execute(sql, room).rowcount == 1
        if created:
            self._rooms.append([Batch(room, (), Retention(0, 0))])  # assigns an epoch
        return created

    async def delete_room(self, room: RoomKey) -> bool:
        """See EventLog.delete_room."""
        return await self._write(partial(self._delete_room, room))

    def _delete_room(self, room: RoomKey) -> bool:
        self._rooms.forget_room(room)
        execute = self._connection.execute
        row = execute("DELETE FROM rooms WHERE tenant = ? AND room = ? RETURNING number", room).fetchone()
        if row is None:
            return False
        execute("DELETE FROM entries WHERE number = ?", row)
        execute("DELETE FROM ids WHERE number = ?", row)
        return True

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """See EventLog.rooms."""
        limit = max(limit, 0)

        def list_rooms(reader: sqlite3.Connection) -> RoomPage:
            names = [name for (name,) in reader.execute(_ROOMS, (tenant, after, limit + 1))]
            return RoomPage(names[:limit], len(names) > limit)

        return await self._read(list_rooms)

    async def tenants_of(self, room: str, after: str, limit: int) -> Sequence[str]:
        """See EventLog.tenants_of. Every name is indexed."""
        asked = (room, after, max(limit, 0))
        return await self._read(lambda reader: [tenant for (tenant,) in reader.execute(_TENANTS, asked)])

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
        """See EventLog.probe. Two commits and a read through the other connection."""
        began = time.perf_counter()
        name, value = new_ulid(), b"probe"
        await self._write(lambda: self._execute("INSERT INTO probes VALUES (?, ?)", (name, value)))
        select = "SELECT value FROM probes WHERE name = ?"
        row = await self._read(lambda reader: reader.execute(select, (name,)).fetchone())
        await self._write(lambda: self._execute("DELETE FROM probes WHERE name = ?", (name,)))
        if row != (value,):
            raise StorageError(f"The SQLite log {self._path} did not give back what was written to it.")
        return time.perf_counter() - began

    def _execute(self, sql: str, parameters: tuple[object, ...]) -> None:
        self._connection.execute(sql, parameters)

    def _write(self, work: Callable[[], T]) -> Awaitable[T]:
        if self._writer is None:
            raise StorageError("The SQLite log is not open; nothing was written.")
        return self._writer.submit(work)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._writer is None:
            raise StorageError("The SQLite log is not open; nothing can be read.")
        assert self._read_thread is not None
        assert self._reader is not None
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._read_thread, _in_snapshot, self._reader, work)
        except sqlite3.Error as error:
            raise StorageError(f"The SQLite log {self._path} could not be read: {error}.") from error


async def _refused(count: int, error: StorageError) -> Sequence[Outcome]:
    return [error] * count


async def _outcomes(stored: Awaitable[list[Appended]], count: int) -> Sequence[Outcome]:
    try:
        return await stored
    except StorageError as error:
        return [error] * count


def _in_snapshot(reader: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    reader.execute("BEGIN")
    try:
        return work(reader)
    finally:
        reader.execute("ROLLBACK")


def _head(reader: sqlite3.Connection, room: RoomKey) -> tuple[int, Head]:
    row = reader.execute(_HEAD, room).fetchone()
    if row is None or not row[1]:
        return 0, Head("", 0, 0)
    return row[0], Head(*row[1:])


def _page(reader: sqlite3.Connection, sql: str, room: RoomKey, low: int, high: int, limit: int) -> Page:
    number, head = _head(reader, room)
    bounds = (number, max(low, head.first), min(high, head.last) if high else head.last)
    rows = reader.execute(sql, (*bounds, max(limit, 0))).fetchall()
    return Page(head, list(starmap(Entry, rows)))


def _seek(reader: sqlite3.Connection, room: RoomKey, time_us: int) -> int:
    number, head = _head(reader, room)
    low, high = head.first, head.last + 1
    if not head.epoch:
        return 1
    while low < high:
        middle = (low + high) // 2
        if reader.execute(_TIME, (number, middle)).fetchone()[0] < time_us:
            low = middle + 1
        else:
            high = middle
    return low


__all__ = ["SqliteLog"]
