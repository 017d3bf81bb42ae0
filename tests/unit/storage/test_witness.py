"""Proof that a restarted engine has all of a room."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from arqonbus.storage.witness import Evidence, Incarnation, Mark, Standing, is_whole

OLD, NEW = "01JD0000000000000000000000", "01JD0000000000000000000001"


@dataclass
class Case:
    name: str
    whole: bool
    marks: list[Mark] | None = field(default_factory=list)
    run: str = "before"
    flushes: bool = True
    promoted: bool = False
    siblings: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    epoch: str = OLD


SEEN = Mark(OLD, 100, "before")
CASES = [
    Case("flushed before it was shown, seen by the witness", True, [SEEN]),
    Case("flushed, and this process was there", True, known=("before",)),
    Case("the witness lags behind the engine", True, [Mark(OLD, 60, "before")]),
    Case("the witness saw more", False, [Mark(OLD, 101, "before")], known=("before",)),
    Case("the witness saw a later epoch", False, [Mark(NEW, 5, "before")], known=("before",)),
    Case("the witness knows an earlier epoch", True, [Mark(OLD, 900, "x")], known=("before",), epoch=NEW),
    Case("nobody was there", False),
    Case("the witness is of another run", False, [Mark(OLD, 100, "long ago")]),
    Case("not flushed", False, [SEEN], flushes=False, known=("before",)),
    Case("a promoted replica", False, [SEEN], promoted=True, known=("before",)),
    Case("the witness is away", False, None, known=("before",)),
    Case("moved within the cluster", True, [SEEN], flushes=False, siblings=("before",)),
    Case("moved, and behind all the same", False, [Mark(OLD, 101, "before")], siblings=("before",)),
    Case("of an older release", True, run=""),
    Case("of an older release, and yet a mark", False, [SEEN], run=""),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wholeness(case: Case) -> None:
    """A room counts as whole only if nothing says otherwise and something proves it."""
    server = Incarnation("now", case.flushes, case.promoted)
    evidence = Evidence(case.marks, case.siblings, case.known)
    assert is_whole(Standing(case.epoch, 100, case.run), server, evidence) is case.whole
