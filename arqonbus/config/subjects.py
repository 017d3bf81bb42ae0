"""Reversible mapping between NATS subjects and rooms, without collisions.

Pure. A subject consists of literal tokens, may contain the token `{tenant}`, and may end in `>`; a room is a
literal name and may end in `*`, which corresponds to `>`. Names may contain dots, and subjects cannot contain
empty tokens: `~` represents a dot in the tenant's token, and an empty token of the room.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

TENANT = "{tenant}"
REST = ">"
EMPTY = "~"

_LITERAL = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_TENANT_TOKEN = re.compile(r"[A-Za-z0-9_~-]{1,128}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_ROOM = re.compile(r"[A-Za-z0-9._-]{0,127}\*|[A-Za-z0-9._-]{1,128}", re.ASCII)


class Address(NamedTuple):
    """A room of a tenant."""

    tenant: str
    room: str


@dataclass(frozen=True, slots=True)
class Route:
    """A subject pattern and its room. `room` is the name, or with `open` the prefix of the names."""

    tokens: tuple[str, ...]
    tenant: str | None
    room: str
    open: bool

    @property
    def filter(self) -> str:
        """The subject to subscribe to, in NATS syntax."""
        tokens = ["*" if token == TENANT else token for token in self.tokens]
        return ".".join([*tokens, REST] if self.open else tokens)

    def subject(self, address: Address) -> str | None:
        """The subject of a room; None for a room of another route."""
        tenant, room = address
        if self.tenant is not None and tenant != self.tenant:
            return None
        if not (room.startswith(self.room) if self.open else room == self.room):
            return None
        tokens = [tenant.replace(".", EMPTY) if token == TENANT else token for token in self.tokens]
        if self.open:
            tokens += [token or EMPTY for token in room[len(self.room) :].split(".")]
        return ".".join(tokens)

    def address(self, subject: str) -> Address | None:
        """The room of a subject; None if it maps to no room."""
        tokens = subject.split(".")
        fixed, rest = tokens[: len(self.tokens)], tokens[len(self.tokens) :]
        if len(fixed) < len(self.tokens) or bool(rest) is not self.open:
            return None
        tenant = self.tenant or ""
        for pattern, token in zip(self.tokens, fixed, strict=True):
            if pattern == TENANT:
                if not _TENANT_TOKEN.fullmatch(token):
                    return None
                tenant = token.replace(EMPTY, ".")
            elif token != pattern:
                return None
        if any(token != EMPTY and not _LITERAL.fullmatch(token) for token in rest):
            return None
        room = self.room + ".".join("" if token == EMPTY else token for token in rest)
        return Address(tenant, room) if _NAME.fullmatch(room) else None

    def shares_subject(self, other: Route) -> bool:
        """True if some subject matches both. In NATS the tenant's token can be any token."""
        for one, two in zip(self.tokens, other.tokens, strict=False):
            if one != two and TENANT not in (one, two):
                return False
        short, long = sorted((self, other), key=lambda route: len(route.tokens))
        return short.open is long.open if len(short.tokens) == len(long.tokens) else short.open

    def shares_room(self, other: Route, tenants: Collection[str]) -> bool:
        """True if some room matches both."""
        named = {self.tenant, other.tenant} - {None}
        if len(named) == 2 or (None in (self.tenant, other.tenant) and named - set(tenants)):
            return False
        if self.open and other.open:
            return self.room.startswith(other.room) or other.room.startswith(self.room)
        if self.open or other.open:
            pattern, literal = (self, other) if self.open else (other, self)
            return literal.room.startswith(pattern.room)
        return self.room == other.room

    def addresses(self, tenants: Collection[str]) -> Iterator[Address]:
        """The room, or the prefix of the rooms, for each tenant of this route."""
        for tenant in tenants if self.tenant is None else (self.tenant,):
            yield Address(tenant, self.room)


def covers(pattern: str, subject: str) -> bool:
    """True if `pattern` matches every subject that `subject` matches, both in NATS syntax."""
    wide, narrow = pattern.split("."), subject.split(".")
    for index, token in enumerate(wide):
        if token == REST:
            return index < len(narrow)
        if index >= len(narrow) or narrow[index] == REST or token not in ("*", narrow[index]):
            return False
    return len(wide) == len(narrow)


def route(subject: str, room: str, tenant: str | None) -> Route:
    """The route of a mapping. Raises ValueError; the message continues after the key."""
    *tokens, last = subject.split(".")
    is_open = last == REST
    if not is_open:
        tokens.append(last)
    if not tokens or any(token != TENANT and not _LITERAL.fullmatch(token) for token in tokens):
        raise ValueError(
            "has an invalid subject; write tokens of A-Z a-z 0-9 _ - with dots between them, "
            f"of which one may be {TENANT} and the last may be {REST}"
        )
    if not _ROOM.fullmatch(room):
        raise ValueError("has a room that is not a name of A-Z a-z 0-9 . _ -, which may end in *")
    if is_open is not room.endswith("*"):
        raise ValueError(f"has {REST} in its subject or * in its room, but not both; use both or neither")
    if tokens.count(TENANT) > 1:
        raise ValueError(f"has {TENANT} twice")
    if (TENANT in tokens) is (tenant is not None):
        raise ValueError(f"needs either {TENANT} in its subject or a tenant")
    if tenant is not None and not _NAME.fullmatch(tenant):
        raise ValueError("has a tenant that is not a name of A-Z a-z 0-9 . _ -")
    return Route(tuple(tokens), tenant, room.removesuffix("*"), is_open)


__all__ = ["EMPTY", "REST", "TENANT", "Address", "Route", "covers", "route"]
