"""The projection store in Postgres 15 or later.

Works as the role arqonbus_writer, which may change rows but not tables. A batch is one transaction with one
statement for events and episodes; the guard against older events is part of that statement, so that neither
the order of arrival nor concurrent projectors can set an episode back in time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from arqonbus.config.stores import Postgres
from arqonbus.storage import audit_chain
from arqonbus.storage.ports import RoomKey, StorageError
from arqonbus.storage.postgres import sql
from arqonbus.storage.postgres.access import Connection
from arqonbus.storage.postgres.rows import (
    FOREVER,
    NEVER,
    as_audit,
    as_episode,
    as_event,
    as_letter,
    bounds,
    event_row,
    letter_row,
    to_json,
)
from arqonbus.storage.postgres.transactions import NoPartition, Transactions
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
)
from arqonbus.storage.tallying import Fresh, Key, distinct, tally
from arqonbus.storage.witness import Mark

BUCKETS = 16
PAGE = 1000
_DERIVE = {  # by rebuild, dry_run
    (False, False): sql.BACKFILL,
    (False, True): sql.TRY_BACKFILL,
    (True, False): sql.REBUILD,
    (True, True): sql.TRY_REBUILD,
}

T = TypeVar("T")


class PostgresProjection:
    """ProjectionStore in Postgres. `bucket` separates this process's rows in the books from others'."""

    name = "postgres"

    def __init__(self, store: Postgres, *, bucket: int = 0, application: str = "arqonbus projector") -> None:
        self._bucket = bucket % BUCKETS
        self._application = application
        self._transactions = Transactions(store, application)
        self._partitions: set[tuple[int, int]] = set()

    async def open(self) -> None:
        """See ProjectionStore.open. Raises MigrationRefused if the schema is not this version's.

        If it fails, the next call that needs a connection tries again.
        """
        await self._transactions.open()

    async def close(self) -> None:
        """See ProjectionStore.close. Terminates the connections without waiting."""
        self._transactions.close()

    async def probe(self) -> float:
        """See ProjectionStore.probe."""
        began, value = time.perf_counter(), secrets.token_hex(8)
        name = f"{self._application} {value}"
        for statement, arguments in ((sql.PROBE, (name, value)), (sql.PROBED, (name,))):
            rows = await self._fetch(statement, *arguments)
            if [row["value"] for row in rows] != [value]:
                raise StorageError(f"{self._transactions.place} did not return what was written")
        return time.perf_counter() - began

    # -- projecting

    async def project(self, arrivals: Sequence[Arrival], dead: Sequence[DeadLetter]) -> Projected:
        """See ProjectionStore.project."""
        once = distinct(arrivals)

        async def write(connection: Connection) -> Projected:
            fresh = await _insert(connection, once)
            buried = await _bury(connection, dead)
            found = tally(arrivals, dead, fresh, buried)
            await _enter(connection, found.tallies, self._bucket)
            return found

        return await self._in_partitions([arrival.event for arrival in once], write)

    async def _in_partitions(self, events: Sequence[Event], write: Callable[[Connection], Awaitable[T]]) -> T:
        """Write events after making sure that their partitions exist."""
        await self._ensure_partitions(events)
        try:
            return await self._transactions.run(write)
        except NoPartition:  # another process retired a partition that this one knew
            self._partitions.clear()
            await self._ensure_partitions(events)
            return await self._transactions.run(write)

    async def _ensure_partitions(self, events: Iterable[Event]) -> None:
        months = {(event.event_time.year, event.event_time.month) for event in events} - self._partitions
        for year, month in sorted(months):
            day = datetime(year, month, 1, tzinfo=UTC).date()

            async def ensure(connection: Connection, day: Any = day) -> None:
                await connection.fetchval("SELECT arqonbus.ensure_partition($1)", day)

            await self._transactions.run(ensure)
            self._partitions.add((year, month))

    # -- reading

    async def episode(self, subject: Subject) -> Episode | None:
        """See ProjectionStore.episode."""
        rows = await self._fetch(f"{sql.EPISODES} WHERE {sql.SUBJECT}", *subject)
        return as_episode(rows[0]) if rows else None

    async def episodes(
        self, tenant: str, agent: str | None, after: Subject, limit: int, *, deleted: bool
    ) -> Sequence[Episode]:
        """See ProjectionStore.episodes."""
        rows = await self._fetch(
            sql.PAGE_OF_EPISODES, tenant, agent, after.agent, after.episode, deleted, limit
        )
        return [as_episode(row) for row in rows]

    async def counts(self, tenant: str | None) -> Mapping[str, int]:
        """See ProjectionStore.counts."""
        return dict((await self._fetch(sql.COUNTS, tenant))[0])

    async def books(self, tenant: str | None) -> Tally:
        """See ProjectionStore.books."""
        return Tally(*(await self._fetch(sql.BOOKS, tenant))[0])

    async def dead_letters(
        self, tenant: str, state: DeadState | None, after: str, limit: int
    ) -> Sequence[DeadLetter]:
        """See ProjectionStore.dead_letters."""
        return [as_letter(row) for row in await self._fetch(sql.PAGE_OF_LETTERS, tenant, state, after, limit)]

    async def dead_letter(self, tenant: str, id: str) -> DeadLetter | None:
        """See ProjectionStore.dead_letter."""
        rows = await self._fetch(f"{sql.LETTERS} WHERE tenant_id = $1 AND id = $2", tenant, id)
        return as_letter(rows[0]) if rows else None

    async def resolve(
        self, letter: DeadLetter, event: Event | None, actor: str, resolution: str
    ) -> Projected | None:
        """See ProjectionStore.resolve."""
        arrivals = [Arrival(event, letter.origin)] if event else []

        async def write(connection: Connection) -> Projected | None:
            state = "replayed" if event else "discarded"
            ended = await connection.fetchval(sql.RESOLVE, letter.tenant, letter.id, state, actor, resolution)
            if ended is None:
                return None
            found = tally(arrivals, (), await _insert(connection, arrivals), frozenset())
            await _enter(connection, found.tallies, self._bucket)
            return found

        return await self._in_partitions([event] if event else [], write)

    async def events(
        self, selection: Selection, after: tuple[str, str, str]
    ) -> AsyncIterator[Sequence[Event]]:
        """See ProjectionStore.events."""
        while True:
            rows = await self._fetch(sql.PAGE_OF_EVENTS, *bounds(selection), *after, PAGE)
            if not rows:
                return
            found = [as_event(row) for row in rows]
            yield found
            after = found[-1].key

    # -- backfill

    async def select(self, selection: Selection) -> tuple[int, int]:
        """See ProjectionStore.select."""
        row = (await self._fetch(sql.SELECTED, *bounds(selection)))[0]
        return row["events"], row["episodes"]

    async def reproject(
        self, selection: Selection, after: Subject, limit: int, *, rebuild: bool, dry_run: bool
    ) -> Reprojected:
        """See ProjectionStore.reproject."""

        async def write(connection: Connection) -> Reprojected:
            await connection.execute(sql.READ_IN_ORDER)
            if rebuild and not dry_run:  # else an event that arrives meanwhile would be overwritten
                await connection.execute(sql.HOLD_EPISODES)
            subjects = await connection.fetch(
                sql.SUBJECTS_TO_REBUILD if rebuild else sql.SUBJECTS, *bounds(selection), *after, limit
            )
            if not subjects:
                return Reprojected(0, 0, 0, 0, None)
            columns = [list(column) for column in zip(*(tuple(row)[:3] for row in subjects), strict=True)]
            since, until = bounds(selection)[2:]
            window = (NEVER, FOREVER) if rebuild else (since, until)
            row = await connection.fetchrow(_DERIVE[rebuild, dry_run], *columns, *window)
            assert row is not None
            last = Subject(*tuple(subjects[-1])[:3])
            return Reprojected(
                len(subjects),
                row["events"],
                row["changed"],
                sum(1 for each in subjects if not each["has_events"]),
                last if len(subjects) == limit else None,
            )

        return await self._transactions.run(write)

    async def retire(self, before: datetime) -> Sequence[str]:
        """See ProjectionStore.retire."""
        rows = await self._fetch("SELECT * FROM arqonbus.retire_partitions($1)", before)
        self._partitions.clear()
        return [row[0] for row in rows]

    # -- audit

    async def record(
        self, tenant: str, actor: str, action: str, arguments: Mapping[str, Any], outcome: str
    ) -> AuditEntry:
        """See ProjectionStore.record."""

        async def write(connection: Connection) -> AuditEntry:
            # Writers lock the row of the head, so that two never chain to the same row.
            await connection.execute(sql.FIRST_HEAD, tenant)
            head = await connection.fetchrow(sql.LOCKED_HEAD, tenant)
            assert head is not None
            entry = audit_chain.follow(
                tenant, head["number"], head["hash"], actor, action, arguments, outcome
            )
            await connection.execute(
                sql.INSERT_AUDIT, tenant, entry.number, entry.at, actor, action,
                to_json(entry.arguments), outcome, entry.previous, entry.hash,
            )  # fmt: skip
            await connection.execute(sql.MOVE_HEAD, tenant, entry.number, entry.hash)
            return entry

        return await self._transactions.run(write)

    async def audit(self, tenant: str, after: int, limit: int) -> Sequence[AuditEntry]:
        """See ProjectionStore.audit."""
        return [as_audit(row) for row in await self._fetch(sql.PAGE_OF_AUDIT, tenant, after, limit)]

    async def audit_head(self, tenant: str) -> tuple[int, str]:
        """See ProjectionStore.audit_head."""
        rows = await self._fetch("SELECT number, hash FROM arqonbus.audit_heads WHERE tenant_id = $1", tenant)
        return (rows[0]["number"], rows[0]["hash"]) if rows else (0, "")

    async def audited(self) -> Sequence[str]:
        """See ProjectionStore.audited."""
        return [row[0] for row in await self._fetch(sql.AUDITED)]

    # -- witness

    async def marks(self, rooms: Sequence[RoomKey]) -> Mapping[RoomKey, Mark]:
        """See WitnessStore.marks."""
        asked = [list(column) for column in zip(*rooms, strict=True)]
        rows = await self._fetch(sql.MARKS, *asked) if rooms else ()
        return {RoomKey(*tuple(row)[:2]): Mark(*tuple(row)[2:]) for row in rows}

    async def witness(self, marks: Mapping[RoomKey, Mark]) -> None:
        """See WitnessStore.witness."""
        columns = [list(column) for column in zip(*((*room, *marks[room]) for room in marks), strict=True)]

        async def write(connection: Connection) -> None:
            await connection.execute(sql.WITNESS, *columns)

        if marks:
            await self._transactions.run(write)

    async def _fetch(self, query: str, *arguments: Any) -> Sequence[Any]:
        async def read(connection: Connection) -> Sequence[Any]:
            await connection.execute(sql.READ_IN_ORDER)
            return await connection.fetch(query, *arguments)

        return await self._transactions.run(read)


async def _insert(connection: Connection, arrivals: Sequence[Arrival]) -> Mapping[Key, Fresh]:
    """Store events and move episodes forward. Returns the outcomes of new events, by key."""
    if not arrivals:
        return {}
    columns = [list(column) for column in zip(*map(event_row, arrivals), strict=True)]
    rows = await connection.fetch(sql.PROJECT, *columns)
    return {tuple(row)[:3]: Fresh(row["applied"], _rank(row)) for row in rows}


def _rank(row: Any) -> tuple[datetime, str] | None:
    return None if row["prior_id"] is None else (row["prior_ts"], row["prior_id"])


async def _bury(connection: Connection, dead: Sequence[DeadLetter]) -> frozenset[str]:
    """Store dead letters. Returns the ids of new ones."""
    if not dead:
        return frozenset()
    once = {letter.id: letter for letter in dead}
    columns = [list(column) for column in zip(*(letter_row(once[id]) for id in sorted(once)), strict=True)]
    return frozenset(row["id"] for row in await connection.fetch(sql.BURY, *columns))


async def _enter(connection: Connection, tallies: Mapping[str, Tally], bucket: int) -> None:
    """Add a batch to the books. Called last, to hold the row's lock as briefly as possible."""
    rows = [(tenant, bucket, *tallies[tenant]) for tenant in sorted(tallies)]
    if rows:
        await connection.execute(sql.ENTER, *[list(column) for column in zip(*rows, strict=True)])


__all__ = ["BUCKETS", "PostgresProjection"]
