"""The chain of the audit: each row's hash covers the row and the hash of the one before.

To change, remove or reorder a row unnoticed, one would have to recompute all later hashes and the head, which
is stored apart from the rows. Backup receipts also record the head at the time of the backup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from arqonbus.storage.projection import AuditEntry


def follow(
    tenant: str,
    number: int,
    previous: str,
    actor: str,
    action: str,
    arguments: Mapping[str, Any],
    outcome: str,
    at: datetime | None = None,
) -> AuditEntry:
    """Build the row that follows the one with this number and hash."""
    entry = AuditEntry(
        tenant=tenant,
        number=number + 1,
        at=at or datetime.now(UTC),
        actor=actor,
        action=action,
        arguments=msgspec.json.decode(msgspec.json.encode(arguments)),  # as a reader will get them
        outcome=outcome,
        previous=previous,
        hash="",
    )
    return replace(entry, hash=digest(entry))


def digest(entry: AuditEntry) -> str:
    """SHA-256, in hexadecimal, of the row's fields in one canonical form."""
    fields = [
        entry.previous,
        entry.tenant,
        entry.number,
        entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        entry.actor,
        entry.action,
        entry.arguments,
        entry.outcome,
    ]
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a verification: the first bad row and its fault; 0 and "" if none.

    `rows` were verified before it.
    """

    rows: int
    number: int = 0
    fault: str = ""


class Walk:
    """Verification of a chain from its first row. Feed pages in order, then call `end`."""

    def __init__(self) -> None:
        self._rows = 0
        self._number = 0
        self._hash = ""

    def take(self, entries: Iterable[AuditEntry]) -> Verdict | None:
        """Verify a page. Returns a verdict as soon as a row is wrong."""
        for entry in entries:
            wrong = self._wrong(entry)
            if wrong:
                return Verdict(self._rows, entry.number, wrong)
            self._rows += 1
            self._number, self._hash = entry.number, entry.hash
        return None

    def _wrong(self, entry: AuditEntry) -> str:
        if entry.number != self._number + 1:
            first, last = self._number + 1, entry.number - 1
            lost = f"{first}" if first == last else f"{first} to {last}"
            return f"row {lost} is missing: row {entry.number} follows row {self._number}"
        if entry.previous != self._hash:
            return f"row {entry.number} does not follow row {self._number}: one of them was replaced"
        if digest(entry) != entry.hash:
            return f"row {entry.number} was changed after it was written"
        return ""

    def end(self, number: int, hash: str) -> Verdict:
        """Final verdict. `number` and `hash`: the head that is stored apart from the rows."""
        if number > self._number:
            first = self._number + 1
            lost = f"{first}" if number == first else f"{first} to {number}"
            return Verdict(self._rows, first, f"row {lost} is missing at the end")
        if (number, hash) != (self._number, self._hash):
            fault = f"the last row, {self._number}, does not match the head at {number}"
            return Verdict(self._rows, self._number, fault)
        return Verdict(self._rows)


__all__ = ["Verdict", "Walk", "digest", "follow"]
