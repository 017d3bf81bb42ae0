"""Deterministic events, arrivals and dead letters, each made from a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from arqonbus.protocol.ids import derived_ulid
from arqonbus.storage.projection import Arrival, DeadLetter, Episode, Event, Origin, Subject

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
ROOM = "continuum.episode.v1"
EPOCH = derived_ulid(0, "epoch")


def subject(episode: int = 0, tenant: str = "demo", agent: str = "agent") -> Subject:
    """The episode of a number."""
    return Subject(tenant, agent, derived_ulid(0, "episode", episode))


def event(
    number: int, at: float = 0, *, episode: int = 0, type: str = "episode.updated", **fields: Any
) -> Event:
    """The event of a number, `at` seconds after noon; in one second the greater number is greater."""
    born = fields.pop("born", NOON)
    made = Event(
        tenant="demo",
        agent="agent",
        event=f"{derived_ulid(int(born.timestamp() * 1000))[:20]}{number:06d}",
        event_time=born,
        episode=subject(episode).episode,
        type=type,
        source_ts=NOON + timedelta(seconds=at),
        schema_version=1,
        content_ref=f"sqlite://episodes/{number}",
        tags=(f"tag-{number}",),
        metadata={"number": number},
        summary=f"summary {number}" if number % 2 else None,
        embedding_ref=f"ram://vectors/{number}" if number % 3 else None,
    )
    return made._replace(**fields)


def origin(sequence: int) -> Origin:
    """A place in the log."""
    return Origin(ROOM, EPOCH, sequence, int(NOON.timestamp() * 1_000_000) + sequence)


def arrivals(*events: Event, first: int = 1) -> Sequence[Arrival]:
    """The events as they come in, one after the other."""
    return [Arrival(each, origin(number)) for number, each in enumerate(events, first)]


def letter(number: int, tenant: str = "demo", **fields: Any) -> DeadLetter:
    """The dead letter of a number."""
    given: dict[str, Any] = {
        "id": derived_ulid(number, "dead", tenant),
        "tenant": tenant,
        "origin": origin(number),
        "code": "VALIDATION_ERROR",
        "reason": "agent_id is missing; it is text",
        "payload": b"\x00\xff not JSON",
        "context": {"faults": ["agent_id is missing; it is text"], "deliveries": 1},
    }
    return DeadLetter(**(given | fields))


def state(of: Event) -> Episode:
    """The episode whose greatest event this is."""
    return Episode(
        of.tenant, of.agent, of.episode, of.event, of.type, of.source_ts, of.content_ref, of.tags,
        of.metadata, of.summary, of.embedding_ref, of.type == "episode.deleted",
    )  # fmt: skip


__all__ = ["EPOCH", "NOON", "ROOM", "arrivals", "event", "letter", "origin", "state", "subject"]
