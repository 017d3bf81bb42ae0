"""What is known outside the engine about how far its rooms had come, and what follows from it. Pure.

An engine can go back in time: a crash before a flush, a failover to a replica that lagged, an old backup. Its
own data cannot show that. A mark, kept elsewhere, can; and where nothing shows that the end of a room is
there, it counts as lost: the room goes on in a new epoch, so that no recovery is claimed across the hole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from arqonbus.storage.ports import RoomKey


class Mark(NamedTuple):
    """A room had come at least this far, on the server of this run."""

    epoch: str
    last: int
    run: str


class Incarnation(NamedTuple):
    """A server from its start to its end. `flushes`: nothing it shows to anybody is not on its disk before.

    `promoted`: it was a replica of another one, and may lack what that one had shown.
    """

    run: str
    flushes: bool
    promoted: bool


class Standing(NamedTuple):
    """What a server says of a room. `run` is where it was checked last; empty: by no release so far."""

    epoch: str
    last: int
    run: str


class Evidence(NamedTuple):
    """What speaks for a room. `marks` None: there is a witness, and it cannot be asked.

    `siblings` are the runs of servers that share the data and are up, `known` those that this process was
    connected to and that flushed.
    """

    marks: Sequence[Mark] | None
    siblings: Collection[str]
    known: Collection[str]


class WitnessStore(Protocol):
    """Keeps marks. Methods raise StorageError."""

    async def marks(self, rooms: Sequence[RoomKey]) -> Mapping[RoomKey, Mark]:
        """The greatest mark of each room that has one."""

    async def witness(self, marks: Mapping[RoomKey, Mark]) -> None:
        """Keep these, unless a greater one is there: a mark never goes back."""


def is_whole(held: Standing, server: Incarnation, evidence: Evidence) -> bool:
    """Whether it is proven that the server has everything of the room that anybody was ever shown."""
    if evidence.marks is None:
        return False
    for mark in evidence.marks:
        if (mark.epoch, mark.last) > (held.epoch, held.last):
            return False
    if not held.run:  # written by a release that kept no marks; with one, the engine went back to that time
        return not evidence.marks
    if held.run in evidence.siblings:
        return True
    if server.promoted or not server.flushes:
        return False
    return held.run in evidence.known or any(mark.run == held.run for mark in evidence.marks)


__all__ = ["Evidence", "Incarnation", "Mark", "Standing", "WitnessStore", "is_whole"]
