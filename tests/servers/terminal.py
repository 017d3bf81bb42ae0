"""A shell that types the commands of a document and compares its output with what the document shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tests.servers.arqonbus import REPOSITORY
from tests.servers.bus import BusProcess

# Commands that only look: repeated until they show what is expected, because a worker needs its time.
_LOOKS = ("cat ", "arqonbus history ", "arqonbus projector list")
_SECONDS = 30.0
_DONE = "=== done"
_PROGRAM = """#!{python}
import sys
from arqonbus.cli import main
sys.exit(main([*sys.argv[1:], {options}]))
"""


def steps(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and the output below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown.strip()


def matches(said: str, shown: str) -> bool:
    """Equal but for ids, times and widths. A line … in the document stands for any lines."""
    parts = [re.escape(comparable(part)) for part in re.split(r"^…$", shown, flags=re.MULTILINE)]
    return re.fullmatch(r"\s*.*?\s*".join(parts), comparable(said), flags=re.DOTALL) is not None


def comparable(text: str) -> str:
    """Text without ids, times and the widths that follow from them."""
    text = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "ID", text)
    text = re.sub(r"(\d{4}-\d\d-\d\d[ T])?\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME", text)
    return re.sub(r" +", " ", text).strip()


class Terminal:
    """bash in `directory`, where `arqonbus` and `python` are this tree's and find the bus."""

    def __init__(self, directory: Path, bus: BusProcess) -> None:
        options = ", ".join(f"'--set={each}'" for each in bus.overrides)
        programs = directory / ".venv/bin"
        programs.mkdir(parents=True)
        (programs / "arqonbus").write_text(_PROGRAM.format(python=sys.executable, options=options))
        (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        (programs / "activate").touch()
        self._port = str(bus.settings.server.port)
        self._shell = subprocess.Popen(
            ["bash", "-O", "expand_aliases"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env={
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(REPOSITORY),
                "HOME": str(directory),
            },
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._shell.stdin
        self._shell.stdin.write("kill $(jobs -p) 2>/dev/null\n")
        self._shell.stdin.close()
        self._shell.wait(_SECONDS)
        assert self._shell.stdout
        self._shell.stdout.close()

    def type(self, command: str, shown: str) -> None:
        """Type one command. Fails unless the output is what is shown."""
        ends = time.monotonic() + _SECONDS
        said = self._run(command)
        while not matches(said, shown) and command.startswith(_LOOKS) and time.monotonic() < ends:
            said = self._run(command)
        assert matches(said, shown), f"$ {command}\n{said}\nis not\n{shown}"

    def _run(self, command: str) -> str:
        assert self._shell.stdin
        assert self._shell.stdout
        self._shell.stdin.write(
            f"{command.replace('127.0.0.1:9100', f'127.0.0.1:{self._port}')}\necho '{_DONE}'\n"
        )
        self._shell.stdin.flush()
        said = ""
        for line in self._shell.stdout:
            if line == f"{_DONE}\n":
                return said
            said += line
        raise AssertionError(f"the shell ended in {command}: {said}")


__all__ = ["Terminal", "comparable", "matches", "steps"]
