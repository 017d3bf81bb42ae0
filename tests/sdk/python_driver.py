"""The driver of the Python SDK. In process for speed; `python -m tests.sdk.python_driver` speaks lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from arqonbus.client import (
    Client,
    ClientError,
    Group,
    Job,
    Message,
    Position,
    RequestFailed,
    Retry,
    Subscription,
)
from arqonbus.protocol.ids import derived_ulid
from tests.sdk.driver import Event, ProgramError

SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "LARGE": "x" * 10_000}


class PythonDriver:
    """One program with one client."""

    def __init__(self, emit: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self._emit = emit or self.events.append
        self._client: Client | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._groups: dict[str, Group] = {}
        self._jobs: dict[str, Job] = {}
        self._calls: dict[str, asyncio.Task[Any]] = {}
        self._services: list[Any] = []

    async def call(self, command: str, label: str = "", **arguments: Any) -> Any:
        """Run a command. Raises ProgramError when the SDK raised."""
        task = asyncio.current_task()
        assert task is not None
        if label:
            self._calls[label] = task
        try:
            return await getattr(self, f"do_{command}")(**arguments)
        except (ClientError, ValueError, RuntimeError, TypeError) as error:
            raise ProgramError(described(error)) from error

    async def stop(self) -> None:
        """Close the client."""
        for service in self._services:
            await service.close()
        if self._client is not None:
            await self._client.close()

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    # -- life

    async def do_connect(
        self,
        url: str,
        token: Any,
        wire: str = "protobuf",
        timeout: float = 10.0,
        callbacks: dict[str, str] | None = None,
        authority: str = "",
        environ: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """

        token`: {"fixed": token} or {"function": [token or {"raise": text} or {"hang": true}, …]}; the last
        repeats.
        """
        modes = callbacks or {}
        made = {
            name: self._callback(name, modes.get(name, "record"), describe)
            for name, describe in (
                ("on_signal", lambda signal: {"name": signal.name, "room": signal.room}),
                ("on_direct", lambda message: {"payload": message.json()}),
                ("on_state", lambda state: {"name": state.name, "reason": state.reason}),
            )
        }
        on_error = self._on_error if modes.get("on_error") != "raise" else _raise
        self._client = Client(
            url,
            token["fixed"] if "fixed" in token else _token_function(token["function"]),
            wire=wire,  # type: ignore[arg-type]
            timeout=timeout,
            on_error=on_error,
            tls=ssl.create_default_context(cafile=authority) if authority else None,
            **made,
        )
        with mock.patch.dict(os.environ, environ or {}):
            await self._client.connect()
        return {"client": self._client.welcome["client"]}

    async def do_close(self) -> None:
        await self.client.close()

    async def do_closed(self) -> dict[str, Any]:
        """Wait for the end of the client."""
        return described(await self.client.closed)

    async def do_state(self) -> dict[str, Any]:
        state = self.client.state
        return {"name": state.name, "reason": state.reason, "reconnects": self.client.reconnects}

    async def do_cancel(self, of: str) -> None:
        """Cancel a call that is under way."""
        self._calls[of].cancel()
        await asyncio.gather(self._calls[of], return_exceptions=True)

    async def do_block(self, seconds: float) -> None:
        """Stand still, event loop and all, as a program that computes does."""
        time.sleep(seconds)  # noqa: ASYNC251

    # -- messages

    async def do_publish(
        self, room: str, payload: Any = None, size: int = 0, id: str = "", **options: Any
    ) -> dict[str, Any]:
        content = b"x" * size if size else _payload(payload)
        ack = await self.client.publish(room, content, message_id=_id(id), **options)
        return {"duplicate": ack.duplicate, "durability": ack.durability, "sequence": ack.sequence}

    async def do_publish_all(self, room: str, count: int, size: int = 0, start: int = 0) -> list[int]:
        """Publish at the same time, each awaited on its own; the numbers are padded to `size`."""
        acks = await asyncio.gather(
            *(self.client.publish(room, _padded(n, size)) for n in range(start, start + count))
        )
        return [ack.sequence for ack in acks]

    async def do_publish_many(self, room: str, payloads: list[Any]) -> list[int]:
        return [ack.sequence for ack in await self.client.publish_many(room, [_payload(p) for p in payloads])]

    async def do_publish_range(self, room: str, count: int) -> list[int]:
        """Publish the numbers below `count` in one call; the sequences of the acks."""
        return [ack.sequence for ack in await self.client.publish_many(room, list(range(count)))]

    async def do_send(self, to: str, payload: Any) -> None:
        await self.client.send(self.client.welcome["client"] if to == "self" else to, payload)

    async def do_command(self, operation: str, arguments: dict[str, Any] | None = None) -> Any:
        return await self.client.command(operation, arguments)

    async def do_presence(self, room: str) -> list[str]:
        return sorted(member.subject for member in await self.client.presence(room))

    async def do_last_value(self, room: str) -> Any:
        message = await self.client.last_value(room)
        return None if message is None else message.json()

    # -- subscriptions

    async def do_subscribe(self, of: str, room: str, losses: str = "raise", **options: Any) -> None:
        """`losses`: raise, record, or callback_raises."""
        if losses != "raise":
            options["on_lost"] = self._callback("on_lost", losses, lambda loss: {"room": loss.room, "of": of})
        if "since" in options:
            options["since"] = Position(*options["since"])
        self._subscriptions[of] = await self.client.subscribe(room, **options)

    async def do_subscribe_from_start(self, of: str, room: str, **options: Any) -> None:
        """Subscribe to all that the room holds."""
        newest = await self.client.last_value(room)
        assert newest is not None
        self._subscriptions[of] = await self.client.subscribe(
            room, since=Position(newest.epoch, 0), **options
        )

    async def do_subscribe_rooms(self, count: int) -> None:
        """Subscribe to room-0, room-1 and so on, at the same time."""
        await asyncio.gather(*(self.do_subscribe(f"room-{n}", f"room-{n}") for n in range(count)))

    async def do_next(self, of: str, count: int = 1) -> list[Any]:
        """The payloads of the next messages."""
        return [_read(await anext(self._subscriptions[of])) for _ in range(count)]

    async def do_end(self, of: str) -> str:
        """Read to the end; `end`, or the error is raised."""
        async for _ in self._subscriptions[of]:
            pass
        return "end"

    async def do_position_sequence(self, of: str) -> int:
        position = self._subscriptions[of].position
        assert position is not None
        return position.sequence

    async def do_confirm_next(self, of: str) -> Any:
        message = await anext(self._subscriptions[of])
        self._subscriptions[of].confirm(message)
        return _read(message)

    async def do_pending(self, of: str) -> int:
        return self._subscriptions[of].pending

    async def do_dropped(self, of: str) -> int:
        return self._subscriptions[of].dropped

    async def do_unsubscribe(self, of: str) -> None:
        await self._subscriptions[of].close()

    async def do_forward(self, of: str, count: int, to: str) -> int:
        """Read messages and publish each to another room, awaiting the ack before the next."""
        for _ in range(count):
            await self.client.publish(to, _read(await anext(self._subscriptions[of])))
        return count

    # -- groups

    async def do_group(self, of: str, room: str, group: str, **options: Any) -> None:
        self._groups[of] = self.client.group(room, group, **options)

    async def do_take(self, of: str, job: str = "job") -> Any:
        """Take a job and leave it unsettled."""
        self._jobs[job] = await anext(self._groups[of])
        return _read(self._jobs[job].message)

    async def do_ack(self, job: str = "job") -> None:
        await self._jobs[job].ack()

    async def do_work(
        self, of: str, count: int, fail: dict[str, Any] | None = None, pause: float = 0.0
    ) -> list[Any]:
        """Handle until `count` different jobs are done; payload and delivery of each that was handed out.

        `fail`: {"first": text} raises at the first delivery of each job, {"first": {"retry": delay}} asks for
        another.
        """
        group, done, handled = self._groups[of], set(), []

        async def handle(job: Job) -> None:
            handled.append([_read(job.message), job.deliveries])
            if fail is not None and job.deliveries == 1:
                if isinstance(fail["first"], dict):
                    raise Retry(fail["first"]["retry"], "later")
                raise RuntimeError(fail["first"])
            await asyncio.sleep(pause)
            done.add(job.message.id)
            if len(done) == count:
                group.stop()

        await group.run(handle)
        return handled

    async def do_leave_group(self, of: str) -> None:
        await self._groups[of].close()

    # -- requests and services

    async def do_serve(self, room: str, answer: Any = None, **options: Any) -> None:
        """Answer with the double, or as `answer` says.

        {"fail": code}, {"raise": text}, {"give": value}, or {"after": seconds}.
        """

        async def handle(request: Message) -> Any:
            if isinstance(answer, dict):
                if "fail" in answer:
                    raise RequestFailed(answer["fail"], "the handler refuses")
                if "raise" in answer:
                    raise KeyError(answer["raise"])
                if "give" in answer:
                    return SPECIAL[answer["give"]]
                await asyncio.sleep(answer["after"])
            return request.json() * 2

        self._services.append(await self.client.serve(room, handle, **options))

    async def do_request(self, room: str, payload: Any, timeout: float | None = None) -> Any:
        return (await self.client.request(room, payload, timeout=timeout)).json()

    async def do_request_all(self, room: str, count: int) -> list[Any]:
        answers = await asyncio.gather(*(self.client.request(room, n) for n in range(count)))
        return [answer.json() for answer in answers]

    # -- callbacks

    def _callback(self, name: str, mode: str, describe: Callable[[Any], Event]) -> Callable[[Any], Any]:
        def record(argument: Any) -> None:
            self._emit({"event": name, **describe(argument)})

        def fail(argument: Any) -> None:
            record(argument)
            raise RuntimeError(f"{name} raises")

        async def later(argument: Any) -> None:
            await asyncio.sleep(0)
            record(argument)

        return {"record": record, "raise": fail, "callback_raises": fail, "async": later}[mode]

    def _on_error(self, error: Exception, where: str) -> None:
        self._emit({"event": "on_error", "where": where, "type": type(error).__name__, "text": str(error)})


def described(error: BaseException) -> dict[str, Any]:
    """An error as a scenario compares it."""
    cause = error.__cause__
    return {
        "type": type(error).__name__,
        "code": str(getattr(error, "code", "")),
        "text": str(error),
        "cause": "" if cause is None else type(cause).__name__,
    }


def _token_function(outcomes: list[Any]) -> Callable[[], Any]:
    left = list(outcomes)

    async def token() -> str:
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, str):
            return outcome
        if "raise" in outcome:
            raise OSError(outcome["raise"])
        if "value" in outcome:
            return outcome["value"]  # type: ignore[no-any-return]
        await asyncio.Event().wait()
        raise AssertionError

    return token


def _raise(*_: Any) -> None:
    raise RuntimeError("on_error raises")


def _payload(payload: Any) -> Any:
    return SPECIAL.get(payload, payload) if isinstance(payload, str) else payload


def _padded(number: int, size: int) -> Any:
    return number if not size else str(number).rjust(size)


def _id(name: str) -> str:
    """`~x` stands for a valid id that is the same wherever it is named."""
    return derived_ulid(1, name) if name.startswith("~") else name


def _read(message: Message) -> Any:
    """A number that was padded reads as a number."""
    value = message.json()
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


async def _speak_lines() -> None:
    logging.disable()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    def write(said: Any) -> None:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    driver = PythonDriver(emit=write)

    async def run(line: dict[str, Any]) -> None:
        number = line["id"]
        try:
            result = await driver.call(line["call"], line["label"], **line["arguments"])
            write({"id": number, "result": result})
        except ProgramError as error:
            write({"id": number, "error": error.facts})
        except asyncio.CancelledError:
            write({"id": number, "error": {"type": "Cancelled", "text": "cancelled"}})

    write({"event": "ready"})
    tasks: set[asyncio.Task[None]] = set()
    async for line in reader:
        task = asyncio.create_task(run(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    with contextlib.suppress(ClientError):
        await driver.stop()


if __name__ == "__main__":
    asyncio.run(_speak_lines())

__all__ = ["PythonDriver", "described"]
