"""The gates of benchmarks/gates.py hold: no hot path became half as slow again beside its reference."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.servers.arqonbus import REPOSITORY

GATES_SECONDS = 110


@pytest.fixture(scope="module")
def gates() -> dict[str, dict[str, float]]:
    """What each gate measured, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gates", "--json", "--rounds", "3"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=GATES_SECONDS)
    assert done.stdout, done.stderr
    return {gate["name"]: gate for gate in json.loads(done.stdout)}


def test_no_gate_is_exceeded(gates: dict[str, dict[str, float]]) -> None:
    """Ratios and numbers of calls; a machine under load changes neither."""
    assert {name: gate["value"] for name, gate in gates.items() if gate["value"] > gate["limit"]} == {}


def test_every_hot_path_has_a_gate(gates: dict[str, dict[str, float]]) -> None:
    """None is left out by a fault of the gates themselves."""
    assert [name.partition(" ")[0].rstrip(",") for name in gates] == [
        "codec",
        "codec",
        "replay",
        "replay",
        "publish",
        "static",
        "--help",
    ]
