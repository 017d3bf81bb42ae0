"""Conversion between rows of the SQLite projection and their types. Pure; times in rows are microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from arqonbus.storage.projection import (
    DELETED,
    Arrival,
    AuditEntry,
    DeadLetter,
    Episode,
    Event,
    Origin,
    Selection,
)

NEVER_US, FOREVER_US = -(2**63), 2**63 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def to_time(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def bounds(selection: Selection) -> tuple[Any, ...]:
    since = NEVER_US if selection.since is None else to_us(selection.since)
    until = FOREVER_US if selection.until is None else to_us(selection.until)
    return selection.tenant, selection.agent, since, until


def event_row(arrival: Arrival) -> tuple[Any, ...]:
    event, origin = arrival
    return (
        event.tenant, event.agent, event.event, to_us(event.event_time), event.episode, event.type,
        to_us(event.source_ts), event.schema_version, event.content_ref, to_json(event.tags),
        to_json(event.metadata), event.summary, event.embedding_ref, *origin,
    )  # fmt: skip


def episode_row(event: Event) -> tuple[Any, ...]:
    """The row of an episode, from its greatest event."""
    return (
        event.tenant, event.agent, event.episode, event.event, event.type, to_us(event.source_ts),
        event.content_ref, to_json(event.tags), to_json(event.metadata), event.summary, event.embedding_ref,
        event.type == DELETED,
    )  # fmt: skip


def letter_row(letter: DeadLetter) -> tuple[Any, ...]:
    return (
        letter.id, letter.tenant, *letter.origin, letter.code, letter.reason, letter.payload, letter.agent,
        letter.event, to_json(letter.context),
    )  # fmt: skip


def as_event(row: Sequence[Any]) -> Event:
    tenant, agent, event, born, episode, type_, source, version, ref, tags, metadata, *rest = row
    return Event(
        tenant, agent, event, to_time(born), episode, type_, to_time(source), version, ref,
        tuple(msgspec.json.decode(tags)), msgspec.json.decode(metadata), *rest,
    )  # fmt: skip


def as_episode(row: Sequence[Any]) -> Episode:
    tenant, agent, episode, event, type_, source, ref, tags, metadata, summary, embedding, deleted = row
    return Episode(
        tenant, agent, episode, event, type_, to_time(source), ref, tuple(msgspec.json.decode(tags)),
        msgspec.json.decode(metadata), summary, embedding, bool(deleted),
    )  # fmt: skip


def as_letter(row: Sequence[Any]) -> DeadLetter:
    id, tenant, room, epoch, sequence, time_us, code, reason, payload, agent, event, context, *rest = row
    at, state, resolved, resolved_by, resolution = rest
    return DeadLetter(
        id=id,
        tenant=tenant,
        origin=Origin(room, epoch, sequence, time_us),
        code=code,
        reason=reason,
        payload=payload,
        agent=agent,
        event=event,
        context=msgspec.json.decode(context),
        at=to_time(at),
        state=state,
        resolved_at=None if resolved is None else to_time(resolved),
        resolved_by=resolved_by,
        resolution=resolution,
    )


def as_audit(row: Sequence[Any]) -> AuditEntry:
    tenant, number, at, actor, action, arguments, outcome, previous, hash = row
    return AuditEntry(
        tenant=tenant,
        number=number,
        at=to_time(at),
        actor=actor,
        action=action,
        arguments=msgspec.json.decode(arguments),
        outcome=outcome,
        previous=previous,
        hash=hash,
    )


__all__ = [
    "FOREVER_US",
    "NEVER_US",
    "as_audit",
    "as_episode",
    "as_event",
    "as_letter",
    "bounds",
    "episode_row",
    "event_row",
    "letter_row",
    "to_json",
    "to_time",
    "to_us",
]
