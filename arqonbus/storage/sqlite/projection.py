"""The projection in one SQLite file: the embedded default, for a bus without servers.

Writes go through one thread, reads through a second, read-only connection. Nothing is cached in memory, so
that a command line tool can use the file while the bus runs. Uses the file, its -wal and -shm, nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from arqonbus.storage import audit_chain
from arqonbus.storage.ports import Durability, RoomKey, StorageError
from arqonbus.storage.projection import (
    Arrival,
    AuditEntry,
    DeadLetter,
    DeadState,
    Episode,
    Event,
    Projected,
    Reprojected,
    Selection,
    Subject,
    Tally,
    Unprojectable,
)
from arqonbus.storage.sqlite import projection_schema as sql
from arqonbus.storage.sqlite.projection_rows import (
    FOREVER_US,
    NEVER_US,
    as_audit,
    as_episode,
    as_event,
    as_letter,
    bounds,
    episode_row,
    event_row,
    letter_row,
    to_json,
    to_time,
    to_us,
)
from arqonbus.storage.sqlite.schema import open_reader, open_writer
from arqonbus.storage.sqlite.writer import Writer
from arqonbus.storage.tallying import Fresh, Key, distinct, newest, tally
from arqonbus.storage.witness import Mark

PAGE = 1000

# Errors that refuse the data itself.
_REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError, msgspec.EncodeError)

T = TypeVar("T")


class SqliteProjection:
    """ProjectionStore in the file `path`, created if missing; its directory must exist."""

    name = "sqlite"

    def __init__(self, path: Path | str, durability: Durability = Durability.HOT) -> None:
        self._path = Path(path)
        self._durability = durability
        self._writer: Writer | None = None
        self._read_thread: ThreadPoolExecutor | None = None
        self._closed = False
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """See ProjectionStore.open. If it fails, the next call that needs the file tries again."""
        self._closed = False
        await self._opened()

    async def _opened(self) -> Writer:
        if self._closed:
            raise StorageError("The projection is not open.")
        async with self._opening:
            if self._writer is None:
                try:
                    await asyncio.to_thread(self._open_file)
                except (OSError, sqlite3.Error) as error:
                    raise StorageError(
                        f"The SQLite projection {self._path} cannot be opened: {error}."
                    ) from error
                self._read_thread = ThreadPoolExecutor(1, "arqonbus-projection-reader")
                self._writer = Writer(self._connection, name=sql.LAYOUT.name)
            return self._writer

    def _open_file(self) -> None:
        self._connection = open_writer(self._path, self._durability, sql.LAYOUT)
        try:
            self._reader = open_reader(self._path)
        except sqlite3.Error:
            self._connection.close()
            raise

    async def close(self) -> None:
        """See ProjectionStore.close. Accepted work is committed."""
        self._closed = True
        writer, self._writer = self._writer, None
        if writer is None:
            return
        await writer.close()
        assert self._read_thread is not None
        await asyncio.to_thread(self._read_thread.shutdown)
        self._reader.close()

    async def probe(self) -> float:
        """See ProjectionStore.probe."""
        began = time.perf_counter()
        written = await self._write(lambda: self._connection.execute(sql.PROBE).fetchone())
        if (await self._read(sql.PROBED))[0][0] < written[0]:
            raise StorageError(f"The SQLite projection {self._path} did not return what was written.")
        return time.perf_counter() - began

    # -- projecting

    async def project(self, arrivals: Sequence[Arrival], dead: Sequence[DeadLetter]) -> Projected:
        """See ProjectionStore.project."""

        def write() -> Projected:
            found = tally(arrivals, dead, self._insert(arrivals), self._bury(dead))
            self._enter(found.tallies)
            return found

        return await self._write(write)

    def _insert(self, arrivals: Sequence[Arrival]) -> Mapping[Key, Fresh]:
        """Store events and move episodes forward. Returns the outcomes of new events, by key."""
        fresh = [
            arrival
            for arrival in distinct(arrivals)
            if self._connection.execute(sql.INSERT_EVENT, event_row(arrival)).rowcount
        ]
        moved: dict[Key, Fresh] = {}
        for subject, arrival in newest(fresh).items():
            standing = self._connection.execute(sql.STANDING, subject).fetchone()
            applied = self._connection.execute(sql.MOVE_EPISODE, episode_row(arrival.event)).rowcount > 0
            moved[subject] = Fresh(applied, (to_time(standing[0]), standing[1]) if standing else None)
        return {arrival.event.key: moved[arrival.event.subject] for arrival in fresh}

    def _bury(self, dead: Iterable[DeadLetter]) -> frozenset[str]:
        """Store dead letters. Returns the ids of new ones."""
        now = to_us(datetime.now(UTC))
        return frozenset(
            letter.id
            for letter in dead
            if self._connection.execute(sql.BURY, (*letter_row(letter), now)).rowcount
        )

    def _enter(self, tallies: Mapping[str, Tally]) -> None:
        self._connection.executemany(sql.ENTER, [(tenant, *found) for tenant, found in tallies.items()])

    # -- reading

    async def episode(self, subject: Subject) -> Episode | None:
        """See ProjectionStore.episode."""
        rows = await self._read(sql.EPISODE, *subject)
        return as_episode(rows[0]) if rows else None

    async def episodes(
        self, tenant: str, agent: str | None, after: Subject, limit: int, *, deleted: bool
    ) -> Sequence[Episode]:
        """See ProjectionStore.episodes."""
        page = tenant, agent, after.agent, after.episode, deleted, limit
        return [as_episode(row) for row in await self._read(sql.PAGE_OF_EPISODES, *page)]

    async def counts(self, tenant: str | None) -> Mapping[str, int]:
        """See ProjectionStore.counts."""
        kinds = "events", "episodes", "tombstones", "dead_letters"
        return dict(zip(kinds, (await self._read(sql.COUNTS, tenant))[0], strict=True))

    async def books(self, tenant: str | None) -> Tally:
        """See ProjectionStore.books."""
        return Tally(*(await self._read(sql.BOOKS, tenant))[0])

    async def dead_letters(
        self, tenant: str, state: DeadState | None, after: str, limit: int
    ) -> Sequence[DeadLetter]:
        """See ProjectionStore.dead_letters."""
        rows = await self._read(sql.PAGE_OF_LETTERS, tenant, state, after, limit)
        return [as_letter(row) for row in rows]

    async def dead_letter(self, tenant: str, id: str) -> DeadLetter | None:
        """See ProjectionStore.dead_letter."""
        rows = await self._read(sql.LETTER, tenant, id)
        return as_letter(rows[0]) if rows else None

    async def resolve(
        self, letter: DeadLetter, event: Event | None, actor: str, resolution: str
    ) -> Projected | None:
        """See ProjectionStore.resolve."""
        arrivals = [Arrival(event, letter.origin)] if event else []

        def write() -> Projected | None:
            state, now = "replayed" if event else "discarded", to_us(datetime.now(UTC))
            ended = (state, actor, resolution, now, letter.tenant, letter.id)
            if not self._connection.execute(sql.RESOLVE, ended).rowcount:
                return None
            found = tally(arrivals, (), self._insert(arrivals), frozenset())
            self._enter(found.tallies)
            return found

        return await self._write(write)

    async def events(
        self, selection: Selection, after: tuple[str, str, str]
    ) -> AsyncIterator[Sequence[Event]]:
        """See ProjectionStore.events."""
        while rows := await self._read(sql.PAGE_OF_EVENTS, *bounds(selection), *after, PAGE):
            found = [as_event(row) for row in rows]
            yield found
            after = found[-1].key

    # -- backfill

    async def select(self, selection: Selection) -> tuple[int, int]:
        """See ProjectionStore.select."""
        events, episodes = (await self._read(sql.SELECTED, *bounds(selection)))[0]
        return events, episodes

    async def reproject(
        self, selection: Selection, after: Subject, limit: int, *, rebuild: bool, dry_run: bool
    ) -> Reprojected:
        """See ProjectionStore.reproject."""
        chosen = bounds(selection)
        window = (NEVER_US, FOREVER_US) if rebuild else chosen[2:]

        def write() -> Reprojected:
            query = sql.SUBJECTS_TO_REBUILD if rebuild else sql.SUBJECTS
            subjects = self._connection.execute(query, (*chosen, *after, limit)).fetchall()
            events = changed = orphans = 0
            for subject in subjects:
                greatest = self._connection.execute(sql.GREATEST, (*subject, *window)).fetchone()
                if greatest is None:
                    orphans += 1
                    continue
                events += self._connection.execute(sql.HISTORY_LENGTH, (*subject, *window)).fetchone()[0]
                changed += self._renew(
                    subject, episode_row(as_event(greatest)), rebuild=rebuild, dry_run=dry_run
                )
            last = Subject(*subjects[-1]) if len(subjects) == limit else None
            return Reprojected(len(subjects), events, changed, orphans, last)

        return await self._write(write)

    def _renew(self, subject: Sequence[str], wanted: Sequence[Any], *, rebuild: bool, dry_run: bool) -> bool:
        """True if the episode changed, or would have."""
        held = self._connection.execute(sql.EPISODE, subject).fetchone()
        if held is not None:
            standing, rank = (held[5], held[3]), (wanted[5], wanted[3])
            if held == wanted or not (rebuild or rank > standing):
                return False
        if not dry_run:
            self._connection.execute(sql.REPLACE_EPISODE, wanted)
        return True

    async def retire(self, before: datetime) -> Sequence[str]:
        """See ProjectionStore.retire. A month of events counts as a partition."""
        first = before.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        months = [row[0] for row in await self._read(sql.MONTHS_BEFORE, to_us(first))]
        for month in months:
            await self._write(partial(self._connection.execute, sql.RETIRE, (month,)))
        return [f"events_{month}" for month in months]

    # -- audit

    async def record(
        self, tenant: str, actor: str, action: str, arguments: Mapping[str, Any], outcome: str
    ) -> AuditEntry:
        """See ProjectionStore.record."""

        def write() -> AuditEntry:
            number, hash = self._connection.execute(sql.HEAD, (tenant,)).fetchone() or (0, "")
            entry = audit_chain.follow(tenant, number, hash, actor, action, arguments, outcome)
            row = (
                tenant, entry.number, to_us(entry.at), actor, action, to_json(entry.arguments), outcome,
                entry.previous, entry.hash,
            )  # fmt: skip
            self._connection.execute(sql.INSERT_AUDIT, row)
            self._connection.execute(sql.MOVE_HEAD, (tenant, entry.number, entry.hash))
            return entry

        return await self._write(write)

    async def audit(self, tenant: str, after: int, limit: int) -> Sequence[AuditEntry]:
        """See ProjectionStore.audit."""
        return [as_audit(row) for row in await self._read(sql.PAGE_OF_AUDIT, tenant, after, limit)]

    async def audit_head(self, tenant: str) -> tuple[int, str]:
        """See ProjectionStore.audit_head."""
        rows = await self._read(sql.HEAD, tenant)
        return rows[0] if rows else (0, "")

    async def audited(self) -> Sequence[str]:
        """See ProjectionStore.audited."""
        return [row[0] for row in await self._read(sql.AUDITED)]

    # -- witness

    async def marks(self, rooms: Sequence[RoomKey]) -> Mapping[RoomKey, Mark]:
        """See WitnessStore.marks."""
        found = [(room, await self._read(sql.MARK, *room)) for room in rooms]
        return {room: Mark(*rows[0]) for room, rows in found if rows}

    async def witness(self, marks: Mapping[RoomKey, Mark]) -> None:
        """See WitnessStore.witness."""
        rows = [(*room, *mark) for room, mark in marks.items()]
        await self._write(lambda: self._connection.executemany(sql.WITNESS, rows))

    # -- the file

    async def _write(self, work: Callable[[], T]) -> T:
        """Do the work in a transaction, all or nothing."""
        writer = self._writer or await self._opened()
        return await writer.submit(partial(self._whole, work))

    def _whole(self, work: Callable[[], T]) -> T:
        # The transaction may include work of other callers, which must not be rolled back with this one.
        self._connection.execute("SAVEPOINT work")
        try:
            result = work()
        except _REFUSALS as error:
            self._connection.execute("ROLLBACK TO work")
            self._connection.execute("RELEASE work")
            raise Unprojectable(f"The SQLite projection refuses the data: {error}") from error
        self._connection.execute("RELEASE work")
        return result

    async def _read(self, query: str, *arguments: Any) -> Sequence[Any]:
        if self._writer is None:
            await self._opened()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._read_thread, self._fetch, query, arguments)
        except sqlite3.Error as error:
            raise StorageError(f"The SQLite projection could not read: {error}.") from error

    def _fetch(self, query: str, arguments: Sequence[Any]) -> Sequence[Any]:
        return self._reader.execute(query, arguments).fetchall()


__all__ = ["SqliteProjection"]
