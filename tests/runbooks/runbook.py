"""A runbook as data: its front matter, its sections, and its commands with what is expected of each.

A command is a fenced `sh` block; its last line says `# expect: exit 1, "words", !"words that are not there"`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RUNBOOKS = Path(__file__).resolve().parents[2] / "runbooks"
COMMAND_SECONDS = 60

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_EXPECT = re.compile(r'^# expect: exit (\d+)((?:, !?"(?:[^"\\]|\\.)*")*)$')
_WORDS = re.compile(r'(!?)"((?:[^"\\]|\\.)*)"')


class Unmet(AssertionError):
    """A command that did not do what the runbook says."""


@dataclass(frozen=True)
class Command:
    """One block: what is typed, and what must come of it."""

    section: str
    script: str
    code: int
    present: tuple[str, ...]
    absent: tuple[str, ...]

    def run(self, directory: Path, environ: Mapping[str, str], seconds: float = COMMAND_SECONDS) -> str:
        """Type it, and give what it said. Raises Unmet."""
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", self.script],
            cwd=directory,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        said = done.stdout + done.stderr
        faults = [f"exit code {done.returncode} instead of {self.code}"] * (done.returncode != self.code)
        faults += [f"{words!r} is missing" for words in self.present if words not in said]
        faults += [f"{words!r} is there" for words in self.absent if words in said]
        if faults:
            raise Unmet(f"{self.section}: {'; '.join(faults)}\n{self.script}\n{said}")
        return said


@dataclass(frozen=True)
class Runbook:
    """One file."""

    about: Mapping[str, Any]
    sections: tuple[str, ...]
    commands: tuple[Command, ...]


def parse(text: str) -> Runbook:
    """Read a runbook. Raises ValueError for one that is not complete."""
    front = _FRONT.match(text)
    if front is None:
        raise ValueError("there is no front matter")
    commands = tuple(_command(text, block) for block in _BLOCK.finditer(text))
    return Runbook(yaml.safe_load(front[1]), tuple(_SECTION.findall(text)), commands)


def _command(text: str, block: re.Match[str]) -> Command:
    section = _SECTION.findall(text[: block.start()])[-1]
    *typed, last = block[1].rstrip("\n").split("\n")
    expected = _EXPECT.match(last)
    if expected is None or not typed:
        raise ValueError(f"a command of {section} does not end with what is expected: {last}")
    words = [(no, re.sub(r"\\(.)", r"\1", one)) for no, one in _WORDS.findall(expected[2])]
    present = tuple(one for no, one in words if not no)
    return Command(
        section, "\n".join(typed), int(expected[1]), present, tuple(one for no, one in words if no)
    )


__all__ = ["RUNBOOKS", "Command", "Runbook", "Unmet", "parse"]
