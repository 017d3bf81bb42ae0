"""Grants: the actions that a token allows in rooms. Pure; deny by default.

A grant is a pattern of room names and a set of actions. Patterns match in time linear in the name, and
their number is bounded, so that a token cannot make the bus work hard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from arqonbus.config.access import Role
from arqonbus.config.globs import Glob, name_pattern
from arqonbus.config.rooms import Action

ACTIONS: frozenset[Action] = frozenset(get_args(Action))
MAX_GRANTS = 256


@dataclass(frozen=True, slots=True)
class Grant:
    """One rule: these actions in the rooms that match."""

    room: Glob
    allow: frozenset[Action]


@dataclass(frozen=True, slots=True)
class Grants:
    """All rules of one token. `unlimited`: everything within the tenant."""

    rules: tuple[Grant, ...] = ()
    unlimited: bool = False

    def allows(self, action: Action, room: str) -> bool:
        """True if a rule covers the action in the room."""
        return self.unlimited or any(action in rule.allow and rule.room.matches(room) for rule in self.rules)

    def allows_somewhere(self, action: Action) -> bool:
        """True if a rule covers the action in any room."""
        return self.unlimited or any(action in rule.allow for rule in self.rules)


EVERYTHING = Grants(unlimited=True)
NOTHING = Grants()


def parse_grants(claim: Any) -> Grants:
    """Read a `grants` claim. Raises ValueError with the end of a sentence; it repeats nothing of the claim.

    Either `[{"room": "orders.*", "allow": ["publish"]}]` or, shorter, `{"orders.*": ["publish"]}`; in the
    short form the actions may also be one text, separated by commas, and `*` stands for all of them.
    """
    if isinstance(claim, Mapping):
        pairs = list(claim.items())
    elif isinstance(claim, list):
        pairs = [_pair(entry) for entry in claim]
    else:
        raise ValueError("is neither a list of {room, allow} nor a map from room to actions")
    if len(pairs) > MAX_GRANTS:
        raise ValueError(f"has more than {MAX_GRANTS} entries")
    return Grants(tuple(Grant(_room(room), _actions(allow)) for room, allow in pairs))


def parse_grant(text: str) -> Grant:
    """Read `orders.*:publish,subscribe`, as people type it. Raises ValueError."""
    room, colon, actions = text.partition(":")
    if not colon:
        raise ValueError("is not a grant; write <room>:<action>,<action>, such as orders.*:publish,subscribe")
    return Grant(_room(room), _actions(actions))


def role_grants(roles: Iterable[Role]) -> Mapping[str, tuple[Grant, ...]]:
    """Grants of the profile's roles, by name; roles of one name add up."""
    found: dict[str, tuple[Grant, ...]] = {}
    for role in roles:
        grants = tuple(Grant(Glob(each.room), frozenset(each.allow)) for each in role.grants)
        found[role.name] = found.get(role.name, ()) + grants
    return found


def grants_claim(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """The claim that says these grants."""
    return [{"room": grant.room.pattern, "allow": sorted(grant.allow)} for grant in grants]


def _pair(entry: Any) -> tuple[Any, Any]:
    if not isinstance(entry, Mapping) or set(entry) != {"room", "allow"}:
        raise ValueError("has an entry that is not {room, allow}")
    return entry["room"], entry["allow"]


def _room(room: Any) -> Glob:
    if not isinstance(room, str):
        raise ValueError("has a room that is not text")
    try:
        return Glob(name_pattern(room))
    except ValueError as error:
        raise ValueError(f"has a room that {error}") from None


def _actions(allow: Any) -> frozenset[Action]:
    words = allow.split(",") if isinstance(allow, str) else allow
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError("has actions that are not a list of words")
    named = {word.strip() for word in words}
    if named == {"*"}:
        return ACTIONS
    if not named <= ACTIONS:
        raise ValueError(f"has an action that is none of {', '.join(sorted(ACTIONS))}")
    return frozenset(action for action in ACTIONS if action in named)


__all__ = [
    "ACTIONS",
    "EVERYTHING",
    "MAX_GRANTS",
    "NOTHING",
    "Grant",
    "Grants",
    "grants_claim",
    "parse_grant",
    "parse_grants",
    "role_grants",
]
