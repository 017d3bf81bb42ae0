"""Graceful shutdown on SIGTERM and SIGINT; a second signal ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

INTERRUPTED = 130


def stop_signal(on_stop: Callable[[], None] = lambda: None) -> asyncio.Event:
    """Set when the first signal comes, after which `on_stop` was called."""
    stopping = asyncio.Event()

    def told() -> None:
        if stopping.is_set():
            os._exit(INTERRUPTED)
        stopping.set()
        on_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    return stopping


__all__ = ["stop_signal"]
