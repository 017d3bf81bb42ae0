"""Conversion between rows of the Postgres projection and their types. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from arqonbus.storage.projection import (
    Arrival,
    AuditEntry,
    DeadLetter,
    Episode,
    Event,
    Origin,
    Selection,
)

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
NEVER = datetime(1, 1, 1, tzinfo=UTC)


def event_row(arrival: Arrival) -> tuple[Any, ...]:
    event, origin = arrival
    return (
        event.tenant, event.agent, event.event, event.event_time, event.episode, event.type, event.source_ts,
        event.schema_version, event.content_ref, to_json(event.tags), to_json(event.metadata), event.summary,
        event.embedding_ref, origin.room, origin.epoch, origin.sequence,
        datetime.fromtimestamp(origin.time_us / 1_000_000, UTC),
    )  # fmt: skip


def letter_row(letter: DeadLetter) -> tuple[Any, ...]:
    origin = letter.origin
    return (
        letter.tenant, letter.id, origin.room, origin.epoch, origin.sequence, origin.time_us, letter.code,
        letter.reason, letter.payload, letter.agent, letter.event, to_json(letter.context),
    )  # fmt: skip


def bounds(selection: Selection) -> tuple[Any, ...]:
    return selection.tenant, selection.agent, selection.since or NEVER, selection.until or FOREVER


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def as_event(row: Any) -> Event:
    return Event(
        row["tenant_id"], row["agent_id"], row["event_id"], row["event_time"], row["episode_id"],
        row["event_type"], row["source_ts"], row["schema_version"], row["content_ref"],
        tuple(msgspec.json.decode(row["tags"])), msgspec.json.decode(row["metadata"]), row["summary"],
        row["embedding_ref"],
    )  # fmt: skip


def as_episode(row: Any) -> Episode:
    return Episode(
        row["tenant_id"], row["agent_id"], row["episode_id"], row["event_id"], row["event_type"],
        row["source_ts"], row["content_ref"], tuple(msgspec.json.decode(row["tags"])),
        msgspec.json.decode(row["metadata"]), row["summary"], row["embedding_ref"], row["deleted"],
    )  # fmt: skip


def as_letter(row: Any) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        tenant=row["tenant_id"],
        origin=Origin(row["room"], row["epoch"], row["sequence"], row["time_us"]),
        code=row["code"],
        reason=row["reason"],
        payload=row["payload"],
        agent=row["agent_id"],
        event=row["event_id"],
        context=msgspec.json.decode(row["context"]),
        at=row["at"],
        state=row["state"],
        resolved_at=row["resolved_at"],
        resolved_by=row["resolved_by"],
        resolution=row["resolution"],
    )


def as_audit(row: Any) -> AuditEntry:
    return AuditEntry(
        tenant=row["tenant_id"],
        number=row["number"],
        at=row["at"],
        actor=row["actor"],
        action=row["action"],
        arguments=msgspec.json.decode(row["arguments"]),
        outcome=row["outcome"],
        previous=row["previous"],
        hash=row["hash"],
    )


__all__ = [
    "FOREVER",
    "NEVER",
    "as_audit",
    "as_episode",
    "as_event",
    "as_letter",
    "bounds",
    "event_row",
    "letter_row",
    "to_json",
]
