"""The migration steps of this version, and their comparison with a database's ledger. Reads only the files.

A step is one file, `0001_name.sql`; the numbers have no gaps. A released file never changes, not even its
comments: the ledger of every database holds its checksum. `-- arqonbus: expand` or `contract` in a comment at
the top says whether the previous release can work with the result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal, get_args

from arqonbus.storage.ports import StorageError

Phase = Literal["expand", "contract"]

_FILE = re.compile(r"([0-9]{4})_([a-z0-9][a-z0-9_]*)\.sql", re.ASCII)
_MARK = re.compile(r"--\s*arqonbus:\s*(.*?)\s*")


class MigrationRefused(StorageError):
    """This version cannot migrate from this state of the database or files. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One migration. `phase` is None if the file has no mark."""

    number: int
    name: str
    sql: str
    phase: Phase | None = None

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}"


@dataclass(frozen=True, slots=True)
class Applied:
    """A row of the ledger: an applied step."""

    number: int
    name: str
    checksum: str
    applied_at: datetime
    version: str

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}"


State = Literal["applied", "pending", "changed", "unknown"]


@dataclass(frozen=True, slots=True)
class StepPosition:
    """One line of the comparison. `unknown` is in the database and not among the steps."""

    number: int
    name: str
    state: State
    phase: Phase | None
    applied: Applied | None


def own_steps() -> Sequence[Step]:
    """The steps of this version, in order."""
    return read_steps(files(__package__))


def read_steps(directory: Traversable) -> Sequence[Step]:
    """The steps of a directory, in order. Raises MigrationRefused for a gap, a double or a bad name."""
    steps = sorted(
        (_read(file) for file in directory.iterdir() if file.name.endswith(".sql")), key=lambda s: s.number
    )
    for expected, step in enumerate(steps, 1):
        if step.number != expected:
            wrong = "is there twice" if step.number < expected else f"follows {expected - 1:04}"
            raise MigrationRefused(
                f"The migration {step} {wrong}; the numbers of the files must be 0001, 0002 and so on."
            )
    return steps


def _read(file: Traversable) -> Step:
    match = _FILE.fullmatch(file.name)
    if match is None:
        raise MigrationRefused(f"{file.name} is not a valid migration name; use 0001_what_it_adds.sql.")
    sql = file.read_text("utf-8")
    return Step(int(match[1]), match[2], sql, _phase(file.name, sql))


def _phase(name: str, sql: str) -> Phase | None:
    for line in sql.splitlines():
        if line.strip() and not line.startswith("--"):
            return None
        mark = _MARK.fullmatch(line)
        if mark is None:
            continue
        for phase in get_args(Phase):
            if mark[1] == phase:
                found: Phase = phase
                return found
        raise MigrationRefused(f"{name} is marked {mark[1]!r}; write `-- arqonbus: expand` or `contract`.")
    return None


def compare(steps: Sequence[Step], ledger: Iterable[Applied]) -> Sequence[StepPosition]:
    """Compare a ledger with the steps, step by step."""
    taken: Mapping[int, Applied] = {row.number: row for row in ledger}
    known = {step.number for step in steps}
    positions = [_position(step, taken.get(step.number)) for step in steps]
    foreign = sorted(taken.keys() - known)
    return positions + [StepPosition(n, taken[n].name, "unknown", None, taken[n]) for n in foreign]


def _position(step: Step, row: Applied | None) -> StepPosition:
    if row is None:
        return StepPosition(step.number, step.name, "pending", step.phase, None)
    same = row.checksum == step.checksum and row.name == step.name
    return StepPosition(step.number, step.name, "applied" if same else "changed", step.phase, row)


def pending(steps: Sequence[Step], ledger: Sequence[Applied]) -> Sequence[Step]:
    """The steps that are not applied yet.

    Raises MigrationRefused if this version cannot continue the ledger.
    """
    positions = compare(steps, ledger)
    for position in positions:
        if position.state == "unknown" and position.applied is not None:
            last = max(ledger, key=lambda row: row.number)
            raise MigrationRefused(
                f"The database is newer than this version of ArqonBus: it is at {last}, applied by version "
                f"{last.version}, and this version knows {len(steps):04} at most. Run that version or a "
                "later one, or restore a backup from before."
            )
    for position in positions:
        if position.state == "changed" and position.applied is not None:
            raise MigrationRefused(
                f"The migration {position.applied} was applied by version {position.applied.version} with "
                "other contents than in this version. A released migration never changes: use an unmodified "
                "release, and put changes into a new file."
            )
    numbers = [position.number for position in positions if position.state == "applied"]
    if numbers != list(range(1, len(numbers) + 1)):
        raise MigrationRefused(
            "The ledger of the database has a gap: "
            f"{next(n for n in range(1, len(steps) + 1) if n not in numbers):04} is missing below "
            f"{numbers[-1]:04}. Rows were removed by hand; restore the ledger from a backup."
        )
    return steps[len(numbers) :]


__all__ = [
    "Applied",
    "MigrationRefused",
    "Phase",
    "State",
    "Step",
    "StepPosition",
    "compare",
    "own_steps",
    "pending",
    "read_steps",
]
