"""A bus in a process of its own, that can be killed for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from arqonbus.config import load, with_dev_key
from arqonbus.shield.tokens import Claims, mint
from tests.servers.processes import free_port

REPOSITORY = Path(__file__).resolve().parents[2]


class BusProcess:
    """`arqonbus serve` on free loopback ports. It keeps its ports over a restart."""

    def __init__(self, directory: Path, *overrides: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "bus.log"
        self.overrides = [
            f"state_dir={directory.parent / 'state'}",  # one dev key for all buses of a test
            f"server.port={free_port()}",
            f"telemetry.port={free_port()}",
            "server.drain_seconds=0.5",
            *overrides,
        ]
        self._process: subprocess.Popen[str] | None = None
        self.settings = with_dev_key(
            load("dev", root=REPOSITORY, environ={}, overrides=self.overrides).settings
        )
        self.url = f"ws://127.0.0.1:{self.settings.server.port}/v1/ws"
        self.health = f"http://127.0.0.1:{self.settings.telemetry.port}"

    def start(self) -> BusProcess:
        """Start it, and return when it takes connections."""
        flags = [flag for value in self.overrides for flag in ("--set", value)]
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("ARQONBUS_") and name not in ("JWT_SECRET", "NATS_URL")
        }
        environ["PYTHONPATH"] = str(REPOSITORY)
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "arqonbus", "serve", "--json", *flags],
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
            raise RuntimeError(f"the bus did not start: {self.log.read_text()[-2000:]}")
        json.loads(first)
        return self

    def token(self, subject: str = "test") -> str:
        return mint(self.settings, Claims("demo", subject, 600))

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: it gets no chance to say anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM: it drains. Gives the exit code."""
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


__all__ = ["BusProcess"]
