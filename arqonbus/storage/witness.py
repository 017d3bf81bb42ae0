"""Evidence, kept outside the engine, of how far its rooms had come. Pure.

An engine can lose recent writes: by a crash before a flush, a failover to a lagging replica, or an old
backup. Its own data cannot show that; a mark kept elsewhere can. Unless it is proven that a room is complete,
it continues in a new epoch, so that no recovery across the loss is reported as complete.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from arqonbus.storage.ports import RoomKey


class Mark(NamedTuple):
    """A position that a room had reached at least, on the server with this run id."""

    epoch: str
    last: int
    run: str


class Incarnation(NamedTuple):
    """One run of a server. `flushes`: it shows nothing before it is on its disk.

    `promoted`: it was a replica, and may lack writes that its primary had shown.
    """

    run: str
    flushes: bool
    promoted: bool


class Standing(NamedTuple):
    """State of a room on a server. `run`: under which it was last checked; empty: never."""

    epoch: str
    last: int
    run: str


class Evidence(NamedTuple):
    """Evidence that a room is complete. `marks` None: the witness is unreachable.

    `siblings`: runs of servers that share the data and are up. `known`: runs that this process was connected
    to and that flushed.
    """

    marks: Sequence[Mark] | None
    siblings: Collection[str]
    known: Collection[str]


class WitnessStore(Protocol):
    """Store of marks. Methods raise StorageError."""

    async def marks(self, rooms: Sequence[RoomKey]) -> Mapping[RoomKey, Mark]:
        """The greatest mark of each room that has one."""

    async def witness(self, marks: Mapping[RoomKey, Mark]) -> None:
        """Store these marks, except where a greater one is stored."""


def is_whole(held: Standing, server: Incarnation, evidence: Evidence) -> bool:
    """True if it is proven that the server has everything of the room that was ever shown to clients."""
    if evidence.marks is None:
        return False
    for mark in evidence.marks:
        if (mark.epoch, mark.last) > (held.epoch, held.last):
            return False
    if not held.run:  # written by a release without marks; if marks exist, the engine went back to that time
        return not evidence.marks
    if held.run in evidence.siblings:
        return True
    if server.promoted or not server.flushes:
        return False
    return held.run in evidence.known or any(mark.run == held.run for mark in evidence.marks)


__all__ = ["Evidence", "Incarnation", "Mark", "Standing", "WitnessStore", "is_whole"]
