"""One of our commands that keeps running, in a process of its own, that can be killed for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class ArqonBusProcess:
    """`arqonbus <command> --json` with overrides of the dev profile. Keeps them over a restart."""

    command: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()  # before the command, such as what enters a network namespace

    def __init__(self, log: Path, *overrides: str) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.overrides = list(overrides)
        self.facts: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None

    def launch(self) -> None:
        """Start it, and return when it said where it is."""
        flags = [flag for value in self.overrides for flag in ("--set", value)]
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("ARQONBUS_") and name not in ("JWT_SECRET", "NATS_URL")
        }
        environ["PYTHONPATH"] = str(REPOSITORY)
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "arqonbus", *self.command, "--json", *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                cwd=REPOSITORY,
                text=True,
            )
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first:
            self._process.stdout.close()
            self._process.wait()
            raise RuntimeError(f"{self.command} did not start: {self.log.read_text()[-2000:]}")
        self.facts = json.loads(first)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: it gets no chance to say anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM: it ends in order. Gives the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        code = process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
        return code


__all__ = ["REPOSITORY", "ArqonBusProcess"]
