"""Real servers as children of the test run: started on free loopback ports in a directory of their own.

A server is known by its pid and killed at the end; nothing is ever searched by name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
PORTS = range(11_000 + WORKER, 21_000, WORKERS)

_given: deque[int] = deque(maxlen=100)


def free_port() -> int:
    """A loopback port that nothing listens on now, and neither on port + 10000 (Valkey's cluster bus).

    Both are below the range that the system gives to outgoing connections: a port from that range could be
    taken while its server is being restarted. Not from `random`, which parallel runs may seed alike. Nobody
    gets it a second time before its server has started: here it is remembered, and each of several processes
    that test at one time has ports of its own.
    """
    while True:
        port = secrets.choice(PORTS)
        if port not in _given and _is_free(port) and _is_free(port + 10_000):
            _given.append(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def binary(name: str, package: str) -> str:
    """The path of a server's program. Fails with what to do where it is missing."""
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed; run: scripts/install-test-servers {package}")
    return path


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Return when the condition holds; fail after a deadline, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)


class Process:
    """One server process with its output in a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=log.parent
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._child.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.running:
            self._child.kill()
        self._child.wait(10)
