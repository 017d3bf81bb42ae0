"""What the projector asks of its durable store. Pure declarations: no I/O, no backend named.

The store keeps Continuum's events, the episodes that follow from them, what could not be projected, the
books, and the audit. Every backend passes the same contract suite (tests/contract/projection). The rules
are those of the Continuum contract: idempotent by (tenant, agent, event), upsert by (tenant, agent,
episode), and the greatest (source_ts, event) wins whatever the order of arrival.
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
        """What makes it one event: it is projected once, however often it arrives."""
        return self.tenant, self.agent, self.event

    @property
    def subject(self) -> tuple[str, str, str]:
        """The episode that it is about."""
        return self.tenant, self.agent, self.episode

    @property
    def rank(self) -> tuple[datetime, str]:
        """The greater one wins."""
        return self.source_ts, self.event


class Origin(NamedTuple):
    """Where in a log a record stood, and when the log took it."""

    room: str
    epoch: str
    sequence: int
    time_us: int


class Arrival(NamedTuple):
    """A valid event as it came in."""

    event: Event
    origin: Origin


class Episode(NamedTuple):
    """The state of an episode: what its greatest event said. `deleted` is a tombstone."""

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
    """A record that could not be projected. `id` is derived from its origin, so that it is kept once.

    `code` is one of the stable error codes, `reason` a sentence. `payload` is what arrived, byte for byte.
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
    """What became of records. `arrived` is counted where they come in, the others where they end."""

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
    """The outcome of a batch. `stale` are the events that came too late to matter."""

    tallies: Mapping[str, Tally]
    stale: Sequence[Event]
    dead: Sequence[DeadLetter]


class Selection(NamedTuple):
    """Events by the time of their source, from <= t < to; what is None is not restricted."""

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
    """What one step of a backfill did. `next` is where the next one goes on; None: this was the last.

    `changed` counts episodes that are another now (or would be). `orphans` are episodes without any event,
    because retention dropped those: they are left as they are.
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
    """The store refuses this very data. Trying again does not help; a smaller batch may."""


class ProjectionStore(WitnessStore, Protocol):
    """The durable store, and the witness of the log's rooms.

    Methods raise StorageError, and nothing else, when the store fails them.
    """

    @property
    def name(self) -> str:
        """The backend: sqlite or postgres."""

    async def open(self) -> None:
        """Connect and check the schema. Raises StorageError with a sentence."""

    async def close(self) -> None: ...

    async def probe(self) -> float:
        """Write and read back for real; the seconds it took."""

    async def project(self, arrivals: Sequence[Arrival], dead: Sequence[DeadLetter]) -> Projected:
        """Take a batch as one transaction: events, episodes, dead letters and books, all or nothing.

        Raises Unprojectable when a record is refused for what it is; nothing was changed then.
        """

    async def episode(self, subject: Subject) -> Episode | None: ...

    async def episodes(
        self, tenant: str, agent: str | None, after: Subject, limit: int, *, deleted: bool
    ) -> Sequence[Episode]:
        """In the order of (agent, episode), those after `after`; tombstones only where asked for."""

    async def counts(self, tenant: str | None) -> Mapping[str, int]:
        """Rows by kind: `events`, `episodes`, `tombstones`, `dead_letters` (open ones)."""

    async def books(self, tenant: str | None) -> Tally:
        """The sum of everything that ever came in."""

    async def dead_letters(
        self, tenant: str, state: DeadState | None, after: str, limit: int
    ) -> Sequence[DeadLetter]:
        """Oldest first by id, those after `after`."""

    async def dead_letter(self, tenant: str, id: str) -> DeadLetter | None: ...

    async def resolve(
        self, letter: DeadLetter, event: Event | None, actor: str, resolution: str
    ) -> Projected | None:
        """End an open dead letter: projected now (`event` is the replayed one), or discarded.

        One transaction. None if it was not open any more.
        """

    async def select(self, selection: Selection) -> tuple[int, int]:
        """How many events and how many episodes a selection has."""

    async def reproject(
        self, selection: Selection, after: Subject, limit: int, *, rebuild: bool, dry_run: bool
    ) -> Reprojected:
        """Derive the next `limit` episodes of a selection from their events, as one transaction.

        Without `rebuild` the guard holds, so that nothing goes back in time. With it the episodes are made
        from nothing but their events, all of them.
        """

    async def record(
        self, tenant: str, actor: str, action: str, arguments: Mapping[str, Any], outcome: str
    ) -> AuditEntry:
        """Add a row to the tenant's audit, chained to the one before."""

    async def audit(self, tenant: str, after: int, limit: int) -> Sequence[AuditEntry]:
        """Rows with a number > after, ascending."""

    async def audit_head(self, tenant: str) -> tuple[int, str]:
        """Number and hash of the newest row, as kept beside the rows; (0, "") for an empty audit."""

    async def audited(self) -> Sequence[str]:
        """The tenants that have an audit."""

    def events(self, selection: Selection, after: tuple[str, str, str]) -> AsyncIterator[Sequence[Event]]:
        """Pages of events by (tenant, agent, event)."""

    async def retire(self, before: datetime) -> Sequence[str]:
        """Drop whole partitions of events that are older; their names."""


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
