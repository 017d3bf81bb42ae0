"""The reference of checks matches the registry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arqonbus.preflight.registry import FAMILIES, checks

PAGE = (Path(__file__).resolve().parents[3] / "docs/reference/checks.md").read_text("utf-8")


@pytest.mark.parametrize("id", checks())
def test_every_check_has_an_entry(id: str) -> None:
    """With its reason and what to type, and a row in the policy of the environments."""
    each = checks()[id]
    entry = PAGE.partition(f"\n### {id}\n")[2].partition("\n### ")[0]
    assert f"**{each.title}.** {each.why}" in entry
    assert "\n".join(each.fix) in entry
    severities = [each.severity[name].value for name in ("dev", "staging", "prod")]  # type: ignore[index]
    row = [f"[{id}](#{id.lower()})", each.title, each.phase.value, *severities]
    assert f"\n| {' | '.join(row)} |\n" in PAGE


def test_there_is_no_entry_for_what_is_no_check() -> None:
    """Each heading is a check or a family."""
    assert re.findall(r"^### (.+)$", PAGE, re.MULTILINE) == list(checks())
    assert re.findall(r"^## ([A-Z]{3}):", PAGE, re.MULTILINE) == list(FAMILIES)
