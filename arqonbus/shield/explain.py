"""Explanations of permissions: the grant, role or room rule behind each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from arqonbus.config.globs import Glob
from arqonbus.config.rooms import Action
from arqonbus.config.settings import Settings
from arqonbus.shield.grants import ACTIONS, role_grants
from arqonbus.shield.tokens import Identity


class Reason(NamedTuple):
    """Allowed actions per room pattern, with the reason."""

    room: str
    allow: frozenset[Action]
    source: str


def reasons(identity: Identity, settings: Settings, room: str | None = None) -> Sequence[Reason]:
    """All that lets the token do anything, in a room if one is named. Nothing else lets it."""
    found = [reason for reason in _of_token(identity, settings) if room is None or _covers(reason.room, room)]
    if room is None:
        rules = [(rule.match, frozenset(rule.grants)) for rule in settings.rooms]
    else:  # the first rule that matches is the room's only one
        chosen = settings.room_settings(room)
        rules = [(chosen.match, chosen.grants)]
    found += [
        Reason(match, allow, f"rooms: {match} grants it to everybody") for match, allow in rules if allow
    ]
    return found


def _of_token(identity: Identity, settings: Settings) -> Iterable[Reason]:
    if identity.role == "admin":
        yield Reason("*", ACTIONS, "the claim role: admin")
        return
    if identity.grants.unlimited:
        yield Reason("*", ACTIONS, "environment dev, where a token without grants and roles may do all")
        return
    for number, grant in enumerate(identity.claim.rules if identity.claim else (), 1):
        yield Reason(grant.room.pattern, grant.allow, f"the claim grants, entry {number}")
    by_role = role_grants(settings.roles)
    for name in identity.roles:
        for grant in by_role.get(name, ()):
            yield Reason(grant.room.pattern, grant.allow, f"the role {name} of the profile")


def unknown_roles(identity: Identity, settings: Settings) -> Sequence[str]:
    """Roles that the token names and the profile does not have; they grant nothing."""
    known = {role.name for role in settings.roles}
    return [name for name in identity.roles if name not in known]


def _covers(pattern: str, room: str) -> bool:
    return Glob(pattern).matches(room)


__all__ = ["Reason", "reasons", "unknown_roles"]
