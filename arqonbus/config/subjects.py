"""Subjects of NATS and rooms of the bus: one rule that turns each into the other, without collisions.

Pure. A subject is literal tokens, may have the token `{tenant}`, and may end in `>`; a room is a literal name
and may end in `*`; what stands for one stands for the other. Names may hold dots and subjects no empty token:
in the token of the tenant a dot is written `~`, and so is an empty token of the room, and nothing else is.
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
    """A subject pattern and its room: `room` is its name, or with `open` what the names begin with."""

    tokens: tuple[str, ...]
    tenant: str | None
    room: str
    open: bool

    @property
    def filter(self) -> str:
        """The subject to listen to, in the words of NATS."""
        tokens = ["*" if token == TENANT else token for token in self.tokens]
        return ".".join([*tokens, REST] if self.open else tokens)

    def subject(self, address: Address) -> str | None:
        """Where the room is found in NATS; None for a room that is none of this route's."""
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
        """The room of a subject; None for a subject that stands for no room."""
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
        """Whether some subject reaches both. NATS knows no tenants: any token may stand where one does."""
        for one, two in zip(self.tokens, other.tokens, strict=False):
            if one != two and TENANT not in (one, two):
                return False
        short, long = sorted((self, other), key=lambda route: len(route.tokens))
        return short.open is long.open if len(short.tokens) == len(long.tokens) else short.open

    def shares_room(self, other: Route, tenants: Collection[str]) -> bool:
        """Whether some room belongs to both."""
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
        """For each tenant of this route the room, or what its rooms begin with."""
        for tenant in tenants if self.tenant is None else (self.tenant,):
            yield Address(tenant, self.room)


def covers(pattern: str, subject: str) -> bool:
    """Whether every subject of the second pattern is one of the first, both in the words of NATS."""
    wide, narrow = pattern.split("."), subject.split(".")
    for index, token in enumerate(wide):
        if token == REST:
            return index < len(narrow)
        if index >= len(narrow) or narrow[index] == REST or token not in ("*", narrow[index]):
            return False
    return len(wide) == len(narrow)


def route(subject: str, room: str, tenant: str | None) -> Route:
    """The route of a mapping. Raises ValueError with the end of a sentence."""
    *tokens, last = subject.split(".")
    is_open = last == REST
    if not is_open:
        tokens.append(last)
    if not tokens or any(token != TENANT and not _LITERAL.fullmatch(token) for token in tokens):
        raise ValueError(
            "has a subject that is not tokens of A-Z a-z 0-9 _ - with dots between them, "
            f"of which one may be {TENANT} and the last may be {REST}"
        )
    if not _ROOM.fullmatch(room):
        raise ValueError("has a room that is not a name of A-Z a-z 0-9 . _ -, which may end in *")
    if is_open is not room.endswith("*"):
        raise ValueError(
            f"has {REST} in its subject or * in its room; what stands for one stands for the other"
        )
    if tokens.count(TENANT) > 1:
        raise ValueError(f"has {TENANT} twice")
    if (TENANT in tokens) is (tenant is not None):
        raise ValueError(f"needs either {TENANT} in its subject or a tenant")
    if tenant is not None and not _NAME.fullmatch(tenant):
        raise ValueError("has a tenant that is not a name of A-Z a-z 0-9 . _ -")
    return Route(tuple(tokens), tenant, room.removesuffix("*"), is_open)


__all__ = ["EMPTY", "REST", "TENANT", "Address", "Route", "covers", "route"]
