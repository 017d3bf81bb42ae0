"""The tutorial, followed page by page at a running bus: each command shows what the page shows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.arqonbus import REPOSITORY
from tests.servers.bus import BusProcess
from tests.servers.terminal import Terminal, steps

TUTORIAL = REPOSITORY / "docs/tutorial"
RESTART = "<!-- The bus is restarted here. -->"
CREDENTIALS = (
    "export ARQONBUS_URL=ws://127.0.0.1:9100/v1/ws; "
    "export ARQONBUS_TOKEN=$(arqonbus token mint --sub tutorial --tenant demo)"
)
_PART = re.compile(rf'{RESTART}|```console\n(.*?)```|```python title="(\S+)"\n(.*?)```', re.DOTALL)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    process = BusProcess(tmp_path / "bus")
    yield process.start()
    process.kill()


@pytest.mark.parametrize("page", ["1-first-message", "3-worker", "4-profile"])
def test_a_page_can_be_followed(page: str, bus: BusProcess, tmp_path: Path) -> None:
    """Programs are saved under their titles, commands are typed in order."""
    shutil.copytree(REPOSITORY / "profiles", tmp_path / "profiles")
    with Terminal(tmp_path, bus) as terminal:
        terminal.type(CREDENTIALS, "")
        for part in _PART.finditer((TUTORIAL / f"{page}.md").read_text()):
            console, name, program = part.groups()
            if name:
                (tmp_path / name).write_text(program)
            elif console:
                for command, shown in steps(console):
                    terminal.type(command, shown)
            else:
                bus.kill()
                bus.start()
