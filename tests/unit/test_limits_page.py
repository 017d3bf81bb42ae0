"""docs/reference/limits.md says what the code does: figures and settings exist, and are the code's."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from arqonbus.config import Settings

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/limits.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("| what", "|---"))
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_bound_is_that_of_the_code(row: list[str]) -> None:
    """A constant with its value, or a setting that exists; and what happens is said."""
    _, bound, place, full = row
    assert full
    if place:
        module, _, name = place.strip("`").partition(":")
        assert getattr(importlib.import_module(module), name) == float(bound)
    else:
        found: object = Settings.model_fields
        section, *rest = re.sub(r"\[\]", "", bound.strip("`")).split(".")
        assert section in Settings.model_fields
        if section != "rooms":
            found = getattr(Settings(), section)
            for part in rest:
                found = getattr(found, part)
        assert found is not None
