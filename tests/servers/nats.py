"""A private NATS server on a loopback port, with what authorization and TLS a test wants."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.servers.processes import Process, binary, free_port, wait_until


class NatsServer:
    """One server."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.options = options
        self.port = free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it greets."""
        arguments = [
            binary("nats-server", "nats-server"),
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
            *self.options,
        ]
        process = self._process = Process(arguments, self.directory / "server.log")

        def greets() -> bool:
            if not process.running:
                raise RuntimeError((self.directory / "server.log").read_text()[-2000:])
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1) as connection,
            ):
                return connection.recv(5) == b"INFO "
            return False

        wait_until(greets, f"nats-server on port {self.port}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()


@contextlib.contextmanager
def running_nats(directory: Path, *options: str) -> Iterator[NatsServer]:
    """A server for the time of a with block."""
    server = NatsServer(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


__all__ = ["NatsServer", "running_nats"]
