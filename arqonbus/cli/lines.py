"""Read lines of standard input without blocking the event loop or the exit of the program."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

CHUNK = 1 << 16
CHUNKS_AHEAD = 4


class LineReader:
    """Asynchronous iterator over lines, without line ends. A daemon thread does the blocking reads.

    It reads the file descriptor directly, because a buffered reader cannot be closed during a blocked read.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self._ahead = threading.Semaphore(CHUNKS_AHEAD)
        threading.Thread(target=self._read, daemon=True, name="stdin").start()

    def _read(self) -> None:
        while True:
            self._ahead.acquire()
            try:
                data = os.read(self._descriptor, CHUNK)
                self._loop.call_soon_threadsafe(self._chunks.put_nowait, data)
            except (OSError, RuntimeError):  # the descriptor or the loop was closed
                return
            if not data:
                return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rest = b""
        while data := await self._chunks.get():
            self._ahead.release()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r")
        if rest:
            yield rest


__all__ = ["LineReader"]
