"""Notifications to systemd (sd_notify(3)): ready, watchdog, stopping.

Does nothing where no supervisor asked for it. Writes to one datagram socket; a supervisor that does not
listen never harms the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from types import TracebackType


class Supervisor:
    """Says READY when entered, then WATCHDOG three times in the span that the supervisor waits for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._every = _watchdog_seconds(environ) / 3
        self._beating: asyncio.Task[None] | None = None

    def stopping(self) -> None:
        """The bus drains from now on."""
        self._tell("STOPPING=1")

    async def __aenter__(self) -> Supervisor:
        self._tell("READY=1")
        if self._address and self._every:
            self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._every)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.setblocking(False)
            channel.connect(self._address)
            channel.send(state.encode())


def _address(name: str) -> str:
    """The socket's address; empty if there is none. A name with @ is in the abstract namespace."""
    return f"\0{name[1:]}" if name.startswith("@") else name if name.startswith("/") else ""


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """Watchdog timeout of the supervisor in seconds; 0: none."""
    meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    span = environ.get("WATCHDOG_USEC", "")
    return int(span) / 1e6 if meant and span.isascii() and span.isdigit() else 0.0


__all__ = ["Supervisor"]
