"""Episodes, dead letters and the audit as people and programs are shown them: plain values for JSON. Pure."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from arqonbus.protocol.wire_json import safe_integer
from arqonbus.storage.projection import AuditEntry, DeadLetter, Episode, Tally


def episode_view(episode: Episode) -> dict[str, Any]:
    """Every column."""
    shown: dict[str, Any] = {
        "tenant_id": episode.tenant,
        "agent_id": episode.agent,
        "episode_id": episode.episode,
        "event_id": episode.event,
        "event_type": episode.type,
        "source_ts": time_text(episode.source_ts),
        "deleted": episode.deleted,
        "content_ref": episode.content_ref,
        "tags": list(episode.tags),
        "metadata": episode.metadata,
    }
    if episode.summary is not None:
        shown["summary"] = episode.summary
    if episode.embedding_ref is not None:
        shown["embedding_ref"] = episode.embedding_ref
    return shown


def letter_view(letter: DeadLetter, *, payload: bool = False) -> dict[str, Any]:
    """All facts, with the payload if requested: as text, or in base64 if it is not text."""
    origin = letter.origin
    shown: dict[str, Any] = {
        "id": letter.id,
        "state": letter.state,
        "code": letter.code,
        "reason": letter.reason,
        "agent_id": letter.agent,
        "event_id": letter.event,
        "room": origin.room,
        "epoch": origin.epoch,
        "sequence": safe_integer(origin.sequence),
        "at": time_text(letter.at),
        "bytes": len(letter.payload),
    }
    if letter.state != "open":
        shown["resolved_at"] = time_text(letter.resolved_at)
        shown["resolved_by"] = letter.resolved_by
        shown["resolution"] = letter.resolution
    if payload:
        shown["context"] = letter.context
        try:
            shown["payload"] = letter.payload.decode()
        except UnicodeDecodeError:
            shown["payload_b64"] = base64.b64encode(letter.payload).decode()
    return shown


def audit_view(entry: AuditEntry) -> dict[str, Any]:
    """Every column."""
    return {
        "number": entry.number,
        "at": time_text(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "arguments": entry.arguments,
        "outcome": entry.outcome,
        "previous": entry.previous,
        "hash": entry.hash,
    }


def books_view(tally: Tally) -> dict[str, int]:
    """Column by column, and what does not add up."""
    return {**tally._asdict(), "difference": tally.difference}


def time_text(time: datetime | None) -> str | None:
    """RFC 3339 in UTC with six decimals."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


__all__ = ["audit_view", "books_view", "episode_view", "letter_view", "time_text"]
