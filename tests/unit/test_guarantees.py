"""Every promise and every defence names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUARANTEES, THREATS = (
    (ROOT / "docs" / "reference" / name).read_text("utf-8") for name in ("guarantees.md", "threat-model.md")
)
ROWS = [
    line
    for page in (GUARANTEES, THREATS)
    for line in page.splitlines()
    if line.startswith("| ") and "Held by" not in line
]
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_it_is_held_by_tests_that_exist(row: str) -> None:
    """By file, and by name where it has one."""
    named = _TEST.findall(row)
    assert named
    for file, test in named:
        text = (ROOT / file).read_text("utf-8")
        assert re.search(rf"^(async )?def {test or 'test_'}", text, re.MULTILINE), (file, test)


def test_there_are_promises_and_it_is_one_page() -> None:
    """A page is 60 lines of a screen."""
    assert len(ROWS) >= 25
    assert len(GUARANTEES.splitlines()) <= 60
