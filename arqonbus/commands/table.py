"""Commands and the table that finds them. Declarations only.

A command has a name, an argument schema and who may call it; its handler gets arguments that are valid.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from arqonbus.bus.node import Node
from arqonbus.bus.peer import Peer


class NoArguments(msgspec.Struct, forbid_unknown_fields=True):
    """For commands that take none."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The connection that called, its node, and all commands of the node."""

    node: Node
    peer: Peer
    commands: Mapping[str, Command]


class Answer(NamedTuple):
    """A result that is followed by something: `then` runs directly behind the reply, with no gap."""

    result: Any
    then: Callable[[], None]


class Frame(NamedTuple):
    """A result that consists of envelopes, encoded as in a binary frame, with facts about them."""

    envelopes: bytes
    facts: Mapping[str, str]


class Waiting(NamedTuple):
    """A result that waits for something. The client's next commands are run meanwhile."""

    result: Callable[[], Coroutine[Any, Any, Any]]


Handler = Callable[[Caller, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Command:
    """One operation. `arguments` is a msgspec struct that refuses unknown fields."""

    name: str
    summary: str
    arguments: type[msgspec.Struct]
    handler: Handler
    who: Literal["any", "admin"] = "any"


def table(*families: Iterable[Command]) -> Mapping[str, Command]:
    """Commands by name. Raises ValueError for a name that stands twice."""
    commands = [command for family in families for command in family]
    found = {command.name: command for command in commands}
    if len(found) != len(commands):
        raise ValueError("a command name stands twice")
    return found


__all__ = ["Answer", "Caller", "Command", "Frame", "Handler", "NoArguments", "Waiting", "table"]
