"""The demo of the README, typed as it stands there at a bus that runs: what one sees is what is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.arqonbus import REPOSITORY
from tests.servers.bus import BusProcess

README = (REPOSITORY / "README.md").read_text()
SECTION = README.partition("## Episodes\n")[2].partition("\n## ")[0]
BLOCKS = "\n".join(re.findall(r"```console\n(.*?)```", SECTION, re.DOTALL))

PROGRAM = """#!{python}
import sys
from arqonbus.cli import main
sys.exit(main([*sys.argv[1:], {options}]))
"""


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    process = BusProcess(tmp_path / "bus")
    yield process.start()
    process.kill()


def steps() -> Iterator[tuple[str, str]]:
    """Each command, and what is shown below it."""
    for part in re.split(r"^\$ ", BLOCKS, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown.strip()


def comparable(text: str) -> str:
    """Without what is another each time: ids, times, and the widths that come of them."""
    text = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME", text)
    return re.sub(r" +", " ", text).strip()


def test_the_demo_shows_what_the_readme_shows(bus: BusProcess, tmp_path: Path) -> None:
    """Every line, from the first episode to the audit of the replay."""
    options = ", ".join(f"'--set={each}'" for each in bus.overrides)
    program = tmp_path / "bin/arqonbus"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, options=options))
    program.chmod(0o755)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    (program.parent / "python").symlink_to(sys.executable)
    paths = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    shell = subprocess.Popen(
        ["bash", "-O", "expand_aliases"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={**paths, "HOME": str(tmp_path)},
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    with shell:
        for command, shown in steps():
            if command.startswith("arqonbus projector list"):
                command = f"until arqonbus projector status | grep -q 'arrived *2'; do :; done; {command}"
            shell.stdin.write(f"{command}\necho '=== done'\n")
            shell.stdin.flush()
            said = ""
            for line in shell.stdout:
                if line == "=== done\n":
                    break
                said += line
            assert comparable(said) == comparable(shown), command
        shell.stdin.close()
