"""Every scenario with every driver: what the program must observe when the network or the bus misbehaves."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sdk.driver import LineDriver
from tests.sdk.python_driver import PythonDriver
from tests.sdk.runner import Scenario, prepared, scenarios
from tests.servers.arqonbus import REPOSITORY

ALL = scenarios()
OVER_LINES = ("publish_and_subscribe", "half_open_connection", "cancelled_subscribe")


def cases() -> list[object]:
    return [
        pytest.param(scenario, wire, id=f"{scenario.name}-{wire}")
        for scenario in ALL
        for wire in scenario.wires
    ]


def test_names_are_unique() -> None:
    """A scenario is known by its name."""
    assert [name for name, count in Counter(s.name for s in ALL).items() if count > 1] == []


@pytest.mark.parametrize(("scenario", "wire"), cases())
async def test_python(scenario: Scenario, wire: str, tmp_path: Path) -> None:
    """The Python SDK, in this process."""
    async with prepared(scenario, PythonDriver(), tmp_path) as run:
        await run.run(wire)


@pytest.mark.parametrize("name", OVER_LINES)
async def test_python_over_lines(name: str, tmp_path: Path) -> None:
    """The Python SDK in a process of its own: the protocol that drivers of other languages speak."""
    scenario = next(scenario for scenario in ALL if scenario.name == name)
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    driver = LineDriver([sys.executable, "-m", "tests.sdk.python_driver"], environ)
    await driver.start()
    async with prepared(scenario, driver, tmp_path) as run:
        await run.run("protobuf")
