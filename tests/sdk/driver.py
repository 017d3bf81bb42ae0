"""

hat a driver of an SDK does: run commands of a scenario with that SDK, and record what the program observes.

Commands and results are plain JSON, so that a driver may be a process in any language: one object a line, a
request `{"id", "call", "label", ...arguments}`, an answer `{"id", "result"}` or `{"id", "error": {"type",
"code", "text", "cause"}}`, and, at any time, `{"event": ..., ...}`. Answers may come in another order than
requests. The commands are the methods `do_*` of tests/sdk/python_driver.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

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


class LineDriver:
    """A driver in a process of its own."""

    def __init__(self, command: Sequence[str], environ: dict[str, str]) -> None:
        self.events: list[Event] = []
        self._command = command
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def start(self) -> None:
        """Start the process."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environ,
            limit=1 << 26,
        )
        self._reader = asyncio.create_task(self._read())

    async def call(self, command: str, label: str = "", **arguments: Any) -> Any:
        """Send a command and wait for its answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = len(self._answers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = {"id": number, "call": command, "label": label, **arguments}
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()
        return await answer

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
        async for line in self._process.stdout:
            said = json.loads(line)
            if "event" in said:
                self.events.append(said)
            elif "error" in said:
                self._answers[said["id"]].set_exception(ProgramError(said["error"]))
            else:
                self._answers[said["id"]].set_result(said["result"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(RuntimeError("the driver ended"))


__all__ = ["Driver", "Event", "LineDriver", "ProgramError"]
