"""Drivers run the commands of a scenario with an SDK, and record what the program observes.

Commands and results are plain JSON, so that a driver may be a process in any language. It begins with the
object `{"event": "ready"}`. Each further line is an object: a request `{"id", "call", "label", "arguments"}`,
an answer `{"id", "result"}` or `{"id", "error": {"type", "code", "text", "cause"}}`, and, at any time,
`{"event": ..., ...}`. Answers may come in another order than requests. The commands are the methods `do_*` of
tests/sdk/python_driver.py.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.servers.arqonbus import REPOSITORY

Event = dict[str, Any]


class Driver(Protocol):
    """One program that uses an SDK."""

    events: list[Event]

    async def call(self, command: str, label: str = "", **arguments: Any) -> Any:
        """Run a command. Raises ProgramError when the SDK raised."""

    async def stop(self) -> None:
        """End the program, whatever it does."""


class ProgramError(Exception):
    """The SDK raised. `type` is the name of the error in the Python SDK; other SDKs map theirs to it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['type']}: {error['text']}")
        self.facts = error
        self.type: str = error["type"]
        self.code: str = str(error.get("code", ""))
        self.text: str = error["text"]
        self.cause: str = error.get("cause", "")


class RemoteDriver(abc.ABC):
    """A driver that is spoken to in lines."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._ready = asyncio.Event()
        self._end: RuntimeError | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}

    @abc.abstractmethod
    async def _write(self, line: str) -> None:
        """Send a line to the driver."""

    async def ready(self) -> None:
        """Wait until it takes commands. Raises RuntimeError when it ended instead."""
        await self._ready.wait()
        if self._end is not None:
            raise self._end

    async def call(self, command: str, label: str = "", **arguments: Any) -> Any:
        """Send a command and wait for its answer."""
        number = len(self._answers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = {"id": number, "call": command, "label": label, "arguments": arguments}
        await self._write(json.dumps(line))
        return await answer

    def _heard(self, line: str | bytes) -> None:
        said = json.loads(line)
        if "event" in said:
            self.events.append(said)
            self._ready.set()
            return
        answer = self._answers[said["id"]]
        if answer.done():
            return  # nobody waits for it any more
        if "error" in said:
            answer.set_exception(ProgramError(said["error"]))
        else:
            answer.set_result(said["result"])

    def _ended(self, reason: str = "the driver ended") -> None:
        self._end = self._end or RuntimeError(reason)
        self._ready.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._end)


class LineDriver(RemoteDriver):
    """A driver in a process of its own."""

    def __init__(self, command: Sequence[str], environ: dict[str, str], folder: Path = REPOSITORY) -> None:
        super().__init__()
        self._command = command
        self._environ = environ
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environ,
            cwd=self._folder,
            limit=1 << 26,
        )
        self._reader = asyncio.create_task(self._read())
        await self.ready()

    async def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            assert self._reader is not None
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self._heard(line)
        finally:
            self._ended()


__all__ = ["Driver", "Event", "LineDriver", "ProgramError", "RemoteDriver"]
