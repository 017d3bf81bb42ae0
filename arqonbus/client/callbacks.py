"""Call what the program supplied. Nothing that it raises reaches the connection."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from arqonbus.client.message import Message
from arqonbus.client.state import State
from arqonbus.protocol.envelope import Envelope

MAX_WAITING = 10_000  # calls of one asynchronous callback
CLOSE_SECONDS = 1.0  # that they have to end when the client is closed

logger = logging.getLogger("arqonbus.client")

OnError = Callable[[Exception, str], None]


class Callbacks:
    """Runs callbacks; their errors go to `on_error` with the callback's name, or to the log."""

    def __init__(
        self,
        on_signal: Callable[[Envelope], Any] | None = None,
        on_direct: Callable[[Message], Any] | None = None,
        on_state: Callable[[State], Any] | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self._on_signal = on_signal
        self._on_direct = on_direct
        self._on_state = on_state
        self._on_error = on_error
        self._waiting: dict[str, deque[Awaitable[Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def signal(self, envelope: Envelope) -> None:
        """The bus sent a signal."""
        self.call("on_signal", self._on_signal, envelope)

    def direct(self, message: Message) -> None:
        """Another client sent a message to this one."""
        self.call("on_direct", self._on_direct, message)

    def state(self, state: State) -> None:
        """The state changed."""
        self.call("on_state", self._on_state, state)

    def call(self, name: str, callback: Callable[..., Any] | None, *arguments: Any) -> None:
        """Call it now. A result that is awaitable is awaited in a task, in order with those before it."""
        if callback is None:
            return
        try:
            result = callback(*arguments)
            if inspect.isawaitable(result):
                self._later(name, result)
        except Exception as error:  # noqa: BLE001  (the program's own)
            self.failed(error, name)

    def failed(self, error: Exception, where: str) -> None:
        """Report an error. `where` names the callback or the activity."""
        if self._on_error is not None:
            try:
                self._on_error(error, where)
            except Exception:
                logger.exception("on_error raised")
            else:
                return
        logger.error("%s failed: %s: %s", where, type(error).__name__, error, exc_info=error)

    async def close(self) -> None:
        """Give asynchronous callbacks a moment to end, then cancel them; never the caller itself."""
        tasks = self._tasks - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _later(self, name: str, result: Awaitable[Any]) -> None:
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = deque((result,))
            task = asyncio.get_running_loop().create_task(self._work_off(name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif len(waiting) < MAX_WAITING:
            waiting.append(result)
        else:
            if inspect.iscoroutine(result):
                result.close()
            self.failed(OverflowError(f"more than {MAX_WAITING} calls wait; one was dropped"), name)

    async def _work_off(self, name: str) -> None:
        waiting = self._waiting[name]
        try:
            while waiting:
                try:
                    await waiting.popleft()
                except Exception as error:  # noqa: BLE001
                    self.failed(error, name)
        finally:
            del self._waiting[name]
            for left in waiting:
                if inspect.iscoroutine(left):
                    left.close()


__all__ = ["Callbacks", "OnError", "logger"]
