"""Requests and services: a request is a message in a room, its answer a direct message to the sender.

A service works as a consumer group where the bus has groups, so that each request goes to one of its
processes, and to another if that one dies. Where it has none, every subscriber of the service answers and the
first answer counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from arqonbus.client.engine import AwaitedAnswer, Engine
from arqonbus.client.errors import ClientError, DeadlineExceeded, Disconnected, Rejected, RequestFailed
from arqonbus.client.message import Message, Payload, message_envelope
from arqonbus.protocol.errors import Code
from arqonbus.protocol.replies import now_us

if TYPE_CHECKING:
    from arqonbus.client.calls import Calls

KIND = "rpc"
DEADLINE = "rpc.deadline"
REQUEST, REPLY, ERROR = "request", "reply", "error"
FAILED = "INTERNAL_ERROR"

Handler = Callable[[Message], Awaitable[Payload]]


async def request(
    engine: Engine,
    room: str,
    payload: Payload,
    *,
    timeout: float,
    channel: str,
    name: str,
    content_type: str,
    headers: Mapping[str, str] | None,
) -> Message:
    """The answer of a service. Raises DeadlineExceeded, RequestFailed, Rejected, or Disconnected."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    envelope = message_envelope(
        payload,
        room=room,
        channel=channel,
        name=name,
        content_type=content_type,
        headers={**(headers or {}), KIND: REQUEST, DEADLINE: str(now_us() + round(timeout * 1_000_000))},
    )
    link = await engine.connection.ready(deadline)
    answer = engine.answers[envelope.id] = AwaitedAnswer(link, loop.create_future())
    try:
        async with asyncio.timeout_at(deadline):
            await engine.requests.ask_once(link, envelope, deadline)
            message = await answer.future
    except TimeoutError:
        raise DeadlineExceeded(f"no service answered in room {room} within {timeout:g} s") from None
    finally:
        del engine.answers[envelope.id]
        if not answer.future.cancel() and not answer.future.cancelled():
            answer.future.exception()  # seen, also if something else was raised first
    if message.headers.get(KIND) == ERROR:
        raise _failure(message)
    return message


def _failure(message: Message) -> RequestFailed:
    try:
        facts = message.json()
        return RequestFailed(str(facts["code"]), str(facts["message"]))
    except (ValueError, KeyError, TypeError):
        return RequestFailed(FAILED, "the service answered with an error that cannot be read")


class Service:
    """Answers the requests of a room until it is closed; a context manager. `wait` raises what ended it."""

    def __init__(
        self, client: Calls, engine: Engine, room: str, handler: Handler, group: str, concurrency: int
    ) -> None:
        self._client = client
        self._callbacks = engine.callbacks
        self._room = room
        self._handler = handler
        self._group = group
        self._concurrency = concurrency
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._stop: Callable[[], Any] = self._task.cancel

    async def started(self) -> None:
        """Wait until requests are taken. Raises what prevents it."""
        await asyncio.wait((self._task, self._ready), return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Report the error that ended it, even if `closed` is not awaited."""
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._callbacks.failed(error, "serve")

    async def wait(self) -> None:
        """Wait for the end. Raises the ClientError that ended it, if any did."""
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Take no more requests, and finish those in hand."""
        self._stop()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> Service:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self) -> None:
        if self._client.welcome["capabilities"].get("consumer_groups"):
            await self._work()
        else:
            await self._listen()

    async def _work(self) -> None:
        place = {"room": self._room, "group": self._group}
        await self._client.command("op.groups.ensure", {**place, "start": "end"}, again=True)
        group = self._client.group(self._room, self._group, concurrency=self._concurrency, start="end")
        self._stop = group.stop
        self._ready.set_result(None)
        await group.run(lambda job: self._answer(job.message))

    async def _listen(self) -> None:
        subscription = await self._client.subscribe(
            self._room, on_lost=lambda loss: self._callbacks.failed(loss, "serve")
        )
        self._ready.set_result(None)
        slots = asyncio.Semaphore(self._concurrency)

        async def answer(message: Message) -> None:
            try:
                await self._answer(message)
            except ClientError as error:
                self._callbacks.failed(error, "serve")
            finally:
                slots.release()

        async with subscription, _finishing() as answering:
            async for message in subscription:
                await slots.acquire()
                answering.create_task(answer(message))

    async def _answer(self, message: Message) -> None:
        """Answer one request. Other messages and expired requests are skipped."""
        deadline = message.headers.get(DEADLINE, "")
        if message.headers.get(KIND) != REQUEST or (deadline.isdigit() and int(deadline) < now_us()):
            return
        kind, result = REPLY, None
        try:
            result = await self._handler(message)
        except RequestFailed as failure:
            kind, result = ERROR, {"code": failure.code, "message": failure.message}
        except Exception as error:  # noqa: BLE001  (the program's own; its text stays here)
            self._callbacks.failed(error, "serve")
            kind, result = ERROR, {"code": FAILED, "message": "the service failed"}
        try:
            await self._send(message, kind, result)
        except Rejected as refusal:
            if refusal.code == Code.NOT_FOUND:  # the one who asked is gone
                return
            self._callbacks.failed(refusal, "serve")
            with contextlib.suppress(ClientError):
                await self._send(message, ERROR, {"code": FAILED, "message": "the answer could not be sent"})
        except Disconnected as failure:  # the caller has its deadline
            self._callbacks.failed(failure, "serve")

    async def _send(self, request: Message, kind: str, result: Payload) -> None:
        await self._client.send(request.sender, result, headers={KIND: kind}, cause=request.id)


class _Answering:
    """Tasks that are finished before their block is left."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def create_task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@contextlib.asynccontextmanager
async def _finishing() -> AsyncIterator[_Answering]:
    answering = _Answering()
    try:
        yield answering
    finally:
        await asyncio.gather(*answering.tasks, return_exceptions=True)


__all__ = ["Handler", "Service", "request"]
