"""The files of migrations: their names, their order, their marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from arqonbus.storage.postgres.migrations.steps import MigrationRefused, own_steps, read_steps


def _write(directory: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (directory / f"{name.removeprefix('n')}.sql").write_text(text)
    return directory


def test_the_steps_of_this_version_are_marked_and_in_order() -> None:
    """Every released file says whether the release before can go on working."""
    steps = own_steps()
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert all(step.phase in {"expand", "contract"} for step in steps)


def test_the_mark_stands_in_the_comment_at_the_top(tmp_path: Path) -> None:
    """Later comments are comments."""
    texts = {
        "n0001_a": "-- arqonbus: expand\nSELECT 1",
        "n0002_b": "-- why\n\n-- arqonbus: contract\nSELECT 1",
        "n0003_c": "SELECT 1;\n-- arqonbus: expand",
    }
    assert [step.phase for step in read_steps(_write(tmp_path, **texts))] == ["expand", "contract", None]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"n0001_a": "", "n0003_c": ""}, "0003_c follows 0001"),
        ({"n0002_b": ""}, "0002_b follows 0000"),
        ({"n0001_a": "", "n0001_b": ""}, "0001_b is there twice|0001_a is there twice"),
        ({"n1_a": ""}, "1_a.sql is not a valid migration name"),
        ({"n0001_a": "-- arqonbus: shrink"}, "is marked 'shrink'; write `-- arqonbus: expand`"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, texts: dict[str, str], sentence: str) -> None:
    """A gap, a double, a bad name and an unknown mark each have their sentence."""
    with pytest.raises(MigrationRefused, match=sentence):
        read_steps(_write(tmp_path, **texts))


def test_one_character_changes_the_checksum(tmp_path: Path) -> None:
    """Even in a comment, because nobody can tell which changes are harmless."""
    (before,) = read_steps(_write(tmp_path, n0001_a="SELECT 1"))
    (after,) = read_steps(_write(tmp_path, n0001_a="SELECT 1 "))
    assert before.checksum != after.checksum
