"""Interface of the projection store. Pure declarations: no I/O, no engine named.

The store keeps Continuum's events, the episodes derived from them, dead letters, the books (counts of
outcomes) and the audit. Every implementation passes the same contract suite (tests/contract/projection). The
rules are those of the Continuum contract: idempotent by (tenant, agent, event), upsert by (tenant, agent,
episode), and the greatest (source_ts, event) wins, in any order of arrival.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

from arqonbus.storage.ports import StorageError
from arqonbus.storage.witness import WitnessStore

DELETED = "episode.deleted"


class Event(NamedTuple):
    """One valid event. Times are aware and in UTC; `event_time` is the one in its id."""

    tenant: str
    agent: str
    event: str
    event_time: datetime
    episode: str
    type: str
    source_ts: datetime
    schema_version: int
    content_ref: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    summary: str | None = None
    embedding_ref: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the event: each is projected once, however often it arrives."""
        return self.tenant, self.agent, self.event

    @property
    def subject(self) -> tuple[str, str, str]:
        """Key of its episode."""
        return self.tenant, self.agent, self.episode

    @property
    def rank(self) -> tuple[datetime, str]:
        """Order of the events of an episode: the greater one wins."""
        return self.source_ts, self.event


class Origin(NamedTuple):
    """Position of a record in a log, and when it was appended."""

    room: str
    epoch: str
    sequence: int
    time_us: int


class Arrival(NamedTuple):
    """A valid event and its origin."""

    event: Event
    origin: Origin


class Episode(NamedTuple):
    """The state of an episode, from its greatest event. `deleted`: a tombstone."""

    tenant: str
    agent: str
    episode: str
    event: str
    type: str
    source_ts: datetime
    content_ref: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    summary: str | None
    embedding_ref: str | None
    deleted: bool


DeadState = Literal["open", "replayed", "discarded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be projected. `id` is derived from its origin, so that it is stored once.

    `code` is one of the stable error codes, `reason` a sentence. `payload` holds the original bytes.
    """

    id: str
    tenant: str
    origin: Origin
    code: str
    reason: str
    payload: bytes
    agent: str = ""
    event: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    at: datetime | None = None
    state: DeadState = "open"
    resolved_at: datetime | None = None
    resolved_by: str = ""
    resolution: str = ""


class Tally(NamedTuple):
    """Counts of records by outcome. `arrived` is the number received; the others add up to it."""

    arrived: int = 0
    projected: int = 0
    duplicate: int = 0
    stale: int = 0
    dead_lettered: int = 0

    @property
    def difference(self) -> int:
        """0 when the books balance."""
        return self.arrived - self.projected - self.duplicate - self.stale - self.dead_lettered

    def plus(self, other: Tally) -> Tally:
        """The sum, column by column."""
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Projected(NamedTuple):
    """The outcome of a batch. `stale`: events older than the state of their episode."""

    tallies: Mapping[str, Tally]
    stale: Sequence[Event]
    dead: Sequence[DeadLetter]


class Selection(NamedTuple):
    """Filter of events: since <= source_ts < until; None does not restrict."""

    tenant: str | None = None
    agent: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Subject(NamedTuple):
    """A place in the order of episodes, for cursors and progress."""

    tenant: str = ""
    agent: str = ""
    episode: str = ""


class Reprojected(NamedTuple):
    """Result of one step of a backfill. `next`: where the next step continues; None after the last one.

    `changed` counts episodes that changed (or would). `orphans` are episodes whose events were all dropped by
    retention: they are left unchanged.
    """

    episodes: int
    events: int
    changed: int
    orphans: int
    next: Subject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One row of the audit. `hash` covers every field and the hash before: see continuum/audit."""

    tenant: str
    number: int
    at: datetime
    actor: str
    action: str
    arguments: Mapping[str, Any]
    outcome: str
    previous: str
    hash: str


class Unprojectable(StorageError):
    """The store refuses the data itself. Retrying does not help; a smaller batch may."""


class ProjectionStore(WitnessStore, Protocol):
    """The durable store, and the witness of the log's rooms.

    Methods raise StorageError, and nothing else, when the store fails.
    """

    @property
    def name(self) -> str:
        """The backend: sqlite or postgres."""

    async def open(self) -> None:
        """Connect and check the schema. Raises StorageError."""

    async def close(self) -> None: ...

    async def probe(self) -> float:
        """Write a value and read it back. Returns the seconds it took."""

    async def project(self, arrivals: Sequence[Arrival], dead: Sequence[DeadLetter]) -> Projected:
        """Project a batch in one transaction: events, episodes, dead letters and books.

        Raises Unprojectable if the store refuses a record; nothing was changed then.
        """

    async def episode(self, subject: Subject) -> Episode | None: ...

    async def episodes(
        self, tenant: str, agent: str | None, after: Subject, limit: int, *, deleted: bool
    ) -> Sequence[Episode]:
        """Episodes after `after` in the order of (agent, episode); tombstones only if `deleted`."""

    async def counts(self, tenant: str | None) -> Mapping[str, int]:
        """Rows by kind: `events`, `episodes`, `tombstones`, `dead_letters` (open ones)."""

    async def books(self, tenant: str | None) -> Tally:
        """The sum over all records ever received."""

    async def dead_letters(
        self, tenant: str, state: DeadState | None, after: str, limit: int
    ) -> Sequence[DeadLetter]:
        """Dead letters after `after`, oldest first by id."""

    async def dead_letter(self, tenant: str, id: str) -> DeadLetter | None: ...

    async def resolve(
        self, letter: DeadLetter, event: Event | None, actor: str, resolution: str
    ) -> Projected | None:
        """Close an open dead letter: replay it (`event` is projected), or discard it (`event` is None).

        One transaction. None if it was no longer open.
        """

    async def select(self, selection: Selection) -> tuple[int, int]:
        """Number of events and of episodes in a selection."""

    async def reproject(
        self, selection: Selection, after: Subject, limit: int, *, rebuild: bool, dry_run: bool
    ) -> Reprojected:
        """Derive the next `limit` episodes of a selection from their events, in one transaction.

        Without `rebuild` an episode changes only if an event is newer. With `rebuild` it is replaced by the
        state that all its events give.
        """

    async def record(
        self, tenant: str, actor: str, action: str, arguments: Mapping[str, Any], outcome: str
    ) -> AuditEntry:
        """Add a row to the tenant's audit, chained to the one before."""

    async def audit(self, tenant: str, after: int, limit: int) -> Sequence[AuditEntry]:
        """Rows with a number > after, ascending."""

    async def audit_head(self, tenant: str) -> tuple[int, str]:
        """Number and hash of the newest row, stored apart from the rows; (0, "") for an empty audit."""

    async def audited(self) -> Sequence[str]:
        """The tenants that have an audit."""

    def events(self, selection: Selection, after: tuple[str, str, str]) -> AsyncIterator[Sequence[Event]]:
        """Pages of events by (tenant, agent, event)."""

    async def retire(self, before: datetime) -> Sequence[str]:
        """Drop whole partitions of older events. Returns their names."""


__all__ = [
    "DELETED",
    "Arrival",
    "AuditEntry",
    "DeadLetter",
    "DeadState",
    "Episode",
    "Event",
    "Origin",
    "Projected",
    "ProjectionStore",
    "Reprojected",
    "Selection",
    "Subject",
    "Tally",
    "Unprojectable",
]
