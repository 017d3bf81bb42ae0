"""The glossary defines each term once, in order, and the names in it are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from arqonbus.cli import COMMANDS as CLI_COMMANDS
from arqonbus.commands.dispatch import COMMANDS
from arqonbus.preflight.registry import checks
from arqonbus.shield.grants import ACTIONS
from arqonbus.storage import ports
from arqonbus.storage.engines import ENGINES

PAGE = (Path(__file__).resolve().parents[2] / "docs/glossary.md").read_text("utf-8")
ENTRIES = re.findall(r"^\*\*(.+?)\*\*: (.+?)(?=\n\n|\n?\Z)", PAGE, re.MULTILINE | re.DOTALL)
TERMS = [term for term, _ in ENTRIES]

REQUIRED = {
    "channel",
    "command",
    "connection",
    "continuum",
    "drift",
    "envelope",
    "episode",
    "epoch",
    "finding",
    "grant",
    "job",
    "layer",
    "lease",
    "node",
    "operation",
    "operator",
    "position",
    "profile",
    "receipt",
    "reflex",
    "role",
    "room",
    "sequence",
    "session",
    "tenant",
    "waiver",
    "consumer group",
    "dead letter",
    "durability level",
    "event log",
    "preflight check",
    "projection store",
    "storage engine",
    "tenant admin",
}


def test_each_term_is_defined_once_in_alphabetical_order() -> None:
    lower = [term.lower() for term in TERMS]
    assert lower == sorted(set(lower))
    assert set(lower) >= REQUIRED
    assert len(TERMS) == PAGE.count("\n**")


def test_a_definition_is_one_or_two_sentences() -> None:
    for term, text in ENTRIES:
        assert text.endswith("."), term
        assert len(re.findall(r"\.(?:\s|$)", text)) <= 2, term


def test_names_exist() -> None:
    text = dict(ENTRIES)
    assert re.findall(r"`(\w+)`", text["Storage engine"]) == list(ENGINES)
    levels = re.findall(r"`(\w+)`", text["Durability level"])
    assert levels == [level.name.lower() for level in ports.Durability]
    assert set(re.findall(r"`(\w+)`", text["Grant"])) <= ACTIONS
    assert set(re.findall(r"`(op\.[\w.]+)`", PAGE)) <= set(COMMANDS)
    assert set(re.findall(r"`arqonbus (\w+)`", PAGE)) <= set(CLI_COMMANDS)
    assert set(re.findall(r"`(ARQ-[A-Z]+-\d+)`", PAGE)) <= set(checks())
    assert re.findall(r"interface `(\w+)`", PAGE) == [ports.EventLog.__name__]
