"""The demo of the README, typed at a running bus: the output is what the README shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.arqonbus import REPOSITORY
from tests.servers.bus import BusProcess
from tests.servers.terminal import Terminal, steps

README = (REPOSITORY / "README.md").read_text()
SECTION = README.partition("## Episodes\n")[2].partition("\n## ")[0]
BLOCKS = "\n".join(re.findall(r"```console\n(.*?)```", SECTION, re.DOTALL))


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    process = BusProcess(tmp_path / "bus")
    yield process.start()
    process.kill()


def test_the_demo_shows_what_the_readme_shows(bus: BusProcess, tmp_path: Path) -> None:
    """Every line, from the first episode to the audit of the replay."""
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    with Terminal(tmp_path, bus) as terminal:
        for command, shown in steps(BLOCKS):
            terminal.type(command, shown)
