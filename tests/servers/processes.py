"""Real servers as children of the test run: started on free loopback ports in a directory of their own.

A server is known by its pid and killed at the end; nothing is ever searched by name.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

RESERVED = 100

_reserved: deque[socket.socket] = deque()


def free_port() -> int:
    """A loopback port that nothing listens on now, and neither on port + 10000 (Valkey's cluster bus).

    Both are below the range that the system gives to outgoing connections: a port from that range could be
    taken while its server is being restarted. Not from `random`, which parallel runs may seed alike. It stays
    bound here until many others were asked for, so that nobody else is given it before its server listens;
    a server that sets SO_REUSEADDR, as all do, is not kept from it.
    """
    while True:
        port = 11_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError):
            _bound(port + 10_000).close()
            _reserved.append(_bound(port))
            if len(_reserved) > RESERVED:
                _reserved.popleft().close()
            return port


def _bound(port: int) -> socket.socket:
    """A socket that was alone there when it was made. Raises OSError."""
    made = socket.socket()
    try:
        made.bind(("127.0.0.1", port))
    except OSError:
        made.close()
        raise
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


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
