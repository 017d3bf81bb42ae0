"""What things cost on this machine, measured on a real bus."""

from __future__ import annotations

import json

import pytest

from arqonbus.cli import main


def test_a_calibration_measures_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """A delivery and a connection cost something, within what any machine takes."""
    assert main(["capacity", "--calibrate", "--seconds", "0.3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    figures = told["figures"]
    assert figures["source"] == "measured"
    assert 10 * 1024 < figures["connection_bytes"] < 100 * 1024
    assert 0.05 < figures["delivery_us"] < 1000
    assert 10 < figures["connect_us"] < 100_000
    assert told["bill"]["deliveries_per_core"] == pytest.approx(1e6 / figures["delivery_us"])
