"""A TCP proxy on loopback with the faults of real networks, each switched on and off by a step."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from contextlib import closing

from tests.servers.processes import free_port


class _Pipe:
    """One connection of the program and its other end."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter | None) -> None:
        self.near = near
        self.far = far
        self.open = asyncio.Event()  # bytes pass
        self.open.set()

    def reset(self) -> None:
        """Break it so that both ends notice at once."""
        for end in (self.near, self.far):
            if end is not None:
                raw = end.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()


class Network:
    """Passes bytes between the program and a port of 127.0.0.1, with faults on request.

    `host`: the loopback address to listen on.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = free_port()
        self.accepted = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._pipes: set[_Pipe] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: deque[bytes] = deque()
        self._delay = 0.0
        self._at_once = False
        self._blackhole = False

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port)

    async def stop(self) -> None:
        """Break everything and listen no more."""
        await self.refuse()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- faults

    def cut(self) -> None:
        """Reset all connections."""
        for pipe in list(self._pipes):
            pipe.reset()

    def hold(self) -> None:
        """Half-open: what is sent on the connections that exist goes nowhere, and nobody is told."""
        for pipe in self._pipes:
            pipe.open.clear()

    def release(self) -> None:
        """What was held goes on."""
        for pipe in self._pipes:
            pipe.open.set()

    async def refuse(self) -> None:
        """Refuse new connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        """Take new connections again."""
        self._blackhole = False
        if self._server is None:
            await self.start()

    def blackhole(self) -> None:
        """Take new connections and never answer them."""
        self._blackhole = True

    def slow(self, delay: float) -> None:
        """Delay each piece of data by so many seconds."""
        self._delay = delay

    def answer(
        self, status: str, body: str = "", times: int = 1, at_once: bool = False, **headers: str
    ) -> None:
        """Answer the next connections with an HTTP response. `at_once`: without reading a request first."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._at_once = at_once
        self._answers.extend([("\r\n".join(lines) + f"\r\n\r\n{body}").encode()] * times)

    # -- the work

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        with (
            contextlib.suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError),
            closing(writer),
        ):
            if self._blackhole:
                await self._hold_for_ever(reader, writer)
            elif self._answers:
                if not self._at_once:
                    await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answers.popleft())
                await writer.drain()
            else:
                await self._connect(reader, writer)

    async def _hold_for_ever(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe = _Pipe(writer, None)
        self._pipes.add(pipe)
        try:
            while await reader.read(65536):
                pass
        finally:
            self._pipes.discard(pipe)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pipe = _Pipe(writer, far_writer)
        self._pipes.add(pipe)
        ways = [
            asyncio.create_task(self._pump(pipe, reader, far_writer)),
            asyncio.create_task(self._pump(pipe, far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._pipes.discard(pipe)
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pump(self, pipe: _Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await pipe.open.wait()
                writer.write(data)
                await writer.drain()
            await pipe.open.wait()
            with contextlib.suppress(OSError):
                writer.write_eof()
                await asyncio.sleep(0.05)


__all__ = ["Network"]
