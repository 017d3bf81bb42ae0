"""Decision records have one format, are in the index, and name files that exist."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/decisions"
RECORDS = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("[0-9]*.md"))}
PARTS = ["Status", "Context", "Decision", "Experiment", "Consequences"]

each_record = pytest.mark.parametrize("name", RECORDS)


@each_record
def test_parts(name: str) -> None:
    parts = re.split(r"^\*\*(\w+)\.\*\*", RECORDS[name], flags=re.MULTILINE)
    assert re.fullmatch(rf"# {int(name[:4])}\. .+\n\n", parts[0])
    assert parts[1::2] == PARTS
    assert all(text.strip() for text in parts[2::2])


@each_record
def test_status(name: str) -> None:
    status = re.search(r"\*\*Status\.\*\* (Accepted|Superseded), ([\d-]+)\.", RECORDS[name])
    assert status
    date.fromisoformat(status[2])


@each_record
def test_files_exist(name: str) -> None:
    folders = "ansible|arqonbus|benchmarks|clients|docs|scripts|tests"
    named = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w/.-]*\w)", RECORDS[name])
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_index() -> None:
    titles = [re.match(r"# (\d+)\. (.+)\n", text) for text in RECORDS.values()]
    expected = [(title[1], name, title[2]) for name, title in zip(RECORDS, titles, strict=True) if title]
    index = (FOLDER / "README.md").read_text("utf-8")
    assert re.findall(r"^\| \[(\d+)\]\((.+?)\) \| (.+?) \| .+\. \|$", index, re.MULTILINE) == expected
    numbers = [number for number, _, _ in expected]
    assert len(numbers) == len(set(numbers)) == len(RECORDS)
