"""What the README shows is true: its program runs, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arqonbus.cli import COMMANDS
from tests.integration.conftest import Bus

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()


async def test_the_program_runs(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python program of the README publishes and receives its message."""
    [program] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)
    await names["main"](bus.url, bus.token())  # type: ignore[operator]
    assert capsys.readouterr().out == "1 memory\norder.created {'item': 1}\n"


def test_its_commands_exist() -> None:
    """Every arqonbus command, make target and folder that the README names exists."""
    used = set(re.findall(r"^\$ .*?\barqonbus (\w+)", README, re.MULTILINE))
    assert used
    assert used <= set(COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^\$ make (\w+)", README, re.MULTILINE)) <= targets
    for path in re.findall(r"`((?:arqonbus|tests|profiles|docs|benchmarks)/[\w/.-]*)`", README):
        assert (REPOSITORY / path).exists(), path
