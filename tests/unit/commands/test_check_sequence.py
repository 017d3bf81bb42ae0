"""Strict sequence: the first number that does not follow is reported, with both numbers."""

from __future__ import annotations

import pytest

from arqonbus.commands.dispatch import COMMANDS
from arqonbus.commands.history import check_sequence
from arqonbus.protocol.errors import BusError
from arqonbus.storage.ports import Entry


def entries(*sequences: int) -> list[Entry]:
    return [Entry(sequence, 0, "", "", b"") for sequence in sequences]


def test_an_unbroken_run_passes() -> None:
    """Each number is one more than the one before, from the position on."""
    check_sequence(4, entries(5, 6, 7))
    check_sequence(0, entries())


@pytest.mark.parametrize(
    ("after", "sequences", "code", "pair"),
    [
        (0, (2,), "SEQUENCE_GAP", ("0", "2")),
        (0, (1, 2, 5, 4), "SEQUENCE_GAP", ("2", "5")),
        (0, (1, 2, 2), "SEQUENCE_REGRESSION", ("2", "2")),
        (5, (6, 4), "SEQUENCE_REGRESSION", ("6", "4")),
    ],
)
def test_the_first_break_is_named(
    after: int, sequences: tuple[int, ...], code: str, pair: tuple[str, str]
) -> None:
    """A gap, a repeat or a step back is an error with the numbers before and after it."""
    with pytest.raises(BusError) as broken:
        check_sequence(after, entries(*sequences))
    assert broken.value.code == code
    assert (broken.value.details["previous"], broken.value.details["next"]) == pair


def test_every_command_says_what_it_does() -> None:
    """Each operation of the table has a name of its family and a sentence."""
    for name, command in COMMANDS.items():
        assert name == command.name
        assert name.startswith("op.")
        assert command.summary.endswith(".")
