"""Tokens that count no longer although their time is not over. Pure but for reading the operator's file.

An entry names a token by its id, or the tokens of a subject or of a whole tenant, all or those issued before
a moment. It may say until when it has to be kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from arqonbus.config.regular_file import NotRegular, read_regular
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.names import is_name
from arqonbus.shield.tokens import Identity

MAX_ENTRIES = 100_000
MAX_FILE_BYTES = 16 * 2**20
_KEYS = frozenset({"jti", "tenant", "sub", "issued_before", "until"})


@dataclass(frozen=True, slots=True)
class Revocation:
    """All named fields must match; times are Unix seconds; empty and infinite fields match anything."""

    tenant: str = ""
    token_id: str = ""
    subject: str = ""
    issued_before: float = math.inf
    until: float = math.inf

    def includes(self, other: Revocation) -> bool:
        """True if this entry covers the other one, for at least as long."""
        return (
            (self.tenant, self.token_id, self.subject) == (other.tenant, other.token_id, other.subject)
            and self.issued_before >= other.issued_before
            and self.until >= other.until
        )

    def covers(self, identity: Identity) -> bool:
        """True if it revokes this identity's token. A token without `iat` counts as old."""
        return (
            self.tenant in ("", identity.tenant)
            and self.token_id in ("", identity.token_id)
            and self.subject in ("", identity.subject)
            and identity.issued_at < self.issued_before
        )


class TenantRevocations:
    """Revocations of each tenant's admins while they are in force. None is evicted for another tenant."""

    def __init__(self) -> None:
        self._of: dict[str, dict[tuple[str, str], Revocation]] = {}

    def add(self, revocation: Revocation) -> None:
        """Keep it, in place of an older one for the same token, subject or tenant."""
        kept = self._of.setdefault(revocation.tenant, {})
        name = (revocation.token_id, revocation.subject)
        if name not in kept or revocation.includes(kept[name]):
            kept[name] = revocation

    def has_room(self, revocation: Revocation, most: int, now: float) -> bool:
        """True if its tenant has fewer than `most` in force, or this one replaces one of them."""
        kept = self._of.get(revocation.tenant, {})
        if (revocation.token_id, revocation.subject) in kept or len(kept) < most:
            return True
        return sum(each.until > now for each in kept.values()) < most

    def prune(self, now: float) -> None:
        """Forget what is no longer in force."""
        for tenant, kept in list(self._of.items()):
            self._of[tenant] = {name: each for name, each in kept.items() if each.until > now}
            if not self._of[tenant]:
                del self._of[tenant]

    def __iter__(self) -> Iterator[Revocation]:
        return (each for kept in self._of.values() for each in kept.values())


class Revocations:
    """Many entries, and quick to ask."""

    def __init__(self, entries: Iterable[Revocation] = ()) -> None:
        self._by_id: dict[str, list[Revocation]] = {}
        self._by_tenant: dict[str, list[Revocation]] = {}
        for each in entries:
            if each.token_id:
                self._by_id.setdefault(each.token_id, []).append(each)
            else:
                self._by_tenant.setdefault(f"{each.tenant}/{each.subject}", []).append(each)

    def add(self, revocation: Revocation) -> None:
        """Add one more. What it repeats or covers more of goes."""
        each = revocation
        index, key = (
            (self._by_id, each.token_id)
            if each.token_id
            else (self._by_tenant, f"{each.tenant}/{each.subject}")
        )
        found = index.setdefault(key, [])
        found[:] = [one for one in found if not each.includes(one)]
        found.append(each)

    def __len__(self) -> int:
        return sum(len(found) for index in (self._by_id, self._by_tenant) for found in index.values())

    def revoked(self, identity: Identity) -> bool:
        """True if an entry revokes the token."""
        tenant = identity.tenant
        found = [
            *(self._by_id.get(identity.token_id, ()) if identity.token_id else ()),
            *self._by_tenant.get(f"{tenant}/{identity.subject}", ()),
            *self._by_tenant.get(f"{tenant}/", ()),
        ]
        return any(each.covers(identity) for each in found)

    def check(self, identity: Identity) -> Identity:
        """The identity. Raises UNAUTHENTICATED if its token was revoked."""
        if self.revoked(identity):
            raise BusError(Code.UNAUTHENTICATED, "The token was revoked; get a new one.")
        return identity


def read_revocations(path: Path) -> list[Revocation]:
    """The entries of a YAML file. Raises ValueError with a sentence, which repeats nothing of the file."""
    try:
        text = read_regular(path, MAX_FILE_BYTES, follow_links=True).raw
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"auth.revoked is larger than {MAX_FILE_BYTES} bytes; remove what has ended")
        entries = yaml.safe_load(text) or []
    except OSError as error:
        raise ValueError(f"auth.revoked names a file that cannot be read ({error.strerror})") from error
    except NotRegular:
        raise ValueError("auth.revoked does not name a regular file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise ValueError("auth.revoked names a file that is not YAML") from None
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        raise ValueError(f"auth.revoked is not a list of at most {MAX_ENTRIES} entries")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(revocation_of(entry))
        except ValueError as error:
            raise ValueError(f"entry {number} of auth.revoked {error}") from None
    return found


def revocation_of(entry: Any) -> Revocation:
    """Read one entry. Raises ValueError with the end of a sentence."""
    if not isinstance(entry, Mapping) or not set(entry) <= _KEYS:
        raise ValueError("is not a map of jti, tenant, sub, issued_before and until")
    jti, tenant, sub = (_text(entry, key) for key in ("jti", "tenant", "sub"))
    if not jti and not tenant:
        raise ValueError("names neither a jti nor a tenant")
    if tenant and not is_name(tenant):
        raise ValueError("has a tenant that is not a name")
    return Revocation(tenant, jti, sub, _moment(entry, "issued_before"), _moment(entry, "until"))


def entry_of(revocation: Revocation) -> dict[str, Any]:
    """The entry that says the revocation; `revocation_of` reads it back."""
    parts = {"jti": revocation.token_id, "tenant": revocation.tenant, "sub": revocation.subject}
    entry: dict[str, Any] = {key: value for key, value in parts.items() if value}
    moments = {"issued_before": revocation.issued_before, "until": revocation.until}
    return entry | {key: value for key, value in moments.items() if value != math.inf}


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str) or (key in entry and not 0 < len(value) <= 256):
        raise ValueError(f"has a {key} that is not text of 1 to 256 characters")
    return value


def _moment(entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    if value is None:
        return math.inf
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"has {key} that is not a moment such as 2030-01-31T00:00:00Z") from None
    if isinstance(value, datetime):
        # YAML gives UTC without saying so for a moment that has a Z.
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53:
        return float(value)
    raise ValueError(f"has {key} that is not a moment such as 2030-01-31T00:00:00Z")


__all__ = [
    "MAX_ENTRIES",
    "Revocation",
    "Revocations",
    "TenantRevocations",
    "entry_of",
    "read_revocations",
    "revocation_of",
]
