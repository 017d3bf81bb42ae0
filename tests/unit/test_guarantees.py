"""Every promise names tests, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "guarantees.md").read_text("utf-8")
PROMISES = [line for line in PAGE.splitlines() if line.startswith("| ") and "Held by" not in line]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise[2:40])
def test_a_promise_is_held_by_tests_that_exist(promise: str) -> None:
    """By file and name."""
    named = _TEST.findall(promise)
    assert named
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), test


def test_there_are_promises_and_it_is_one_page() -> None:
    """A page is 60 lines of a screen."""
    assert len(PROMISES) >= 10
    assert len(PAGE.splitlines()) <= 60
