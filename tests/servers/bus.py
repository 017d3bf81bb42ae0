"""A bus in a process of its own, that can be killed for real."""

from __future__ import annotations

from pathlib import Path

from arqonbus.config import load, with_dev_key
from arqonbus.shield.tokens import Claims, mint
from tests.servers.arqonbus import REPOSITORY, ArqonBusProcess
from tests.servers.processes import free_port


class BusProcess(ArqonBusProcess):
    """`arqonbus serve` on free loopback ports. It keeps its ports over a restart."""

    command = ("serve",)

    def __init__(self, directory: Path, *overrides: str) -> None:
        super().__init__(
            directory / "bus.log",
            f"state_dir={directory.parent / 'state'}",  # one dev key for all buses of a test
            f"server.port={free_port()}",
            f"telemetry.port={free_port()}",
            "server.drain_seconds=0.5",
            *overrides,
        )
        self.settings = with_dev_key(
            load("dev", root=REPOSITORY, environ={}, overrides=self.overrides).settings
        )
        self.url = f"ws://127.0.0.1:{self.settings.server.port}/v1/ws"
        self.health = f"http://127.0.0.1:{self.settings.telemetry.port}"

    def start(self) -> BusProcess:
        """Start it, and return when it takes connections."""
        self.launch()
        return self

    def token(self, subject: str = "test", seconds: int = 600) -> str:
        return mint(self.settings, Claims("demo", subject, seconds))


__all__ = ["BusProcess"]
