"""A worker in a consumer group: takes jobs, extends their leases, and settles them.

async for job in client.group("orders", "billing", concurrency=8):
    async with job:
        await bill(job.message.json())
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Literal

import msgspec

from arqonbus.client.backoff import Backoff
from arqonbus.client.errors import ClientError, Disconnected, GroupLost, Rejected
from arqonbus.client.message import Ask, Message
from arqonbus.protocol import wire_json
from arqonbus.protocol.errors import Code

MAX_REASON = 500
MAX_AT_ONCE = 500
MOST_PER_CALL = 1000

logger = logging.getLogger("arqonbus.client")


class Retry(Exception):
    """Raise it in a handler: the job is given back, and handed out again after `delay` seconds.

    >>> async with client.group("orders", "shipping", wait=0.1) as shipping:
    ...     async def ship(job):
    ...         if job.deliveries == 1:
    ...             raise Retry(0.05, "the warehouse is closed")
    ...         print(job.message.json(), job.deliveries, job.reason)
    ...         shipping.stop()
    ...     await shipping.run(ship)
    {'id': 1} 2 the warehouse is closed
    """

    def __init__(self, delay: float, reason: str = "") -> None:
        super().__init__(reason or f"the handler asked for a retry in {delay:g} s")
        self.delay = delay


class _GivenJob(msgspec.Struct):
    message: msgspec.Raw
    deliveries: int
    reason: str = ""


class _Given(msgspec.Struct):
    jobs: list[_GivenJob]
    missed: int | str = 0


class _Extended(msgspec.Struct):
    extended: list[int | str]


class Job:
    """One message to be worked on. `deliveries`: how often it was handed out, this time included.

    `reason`: why it was given back before. As a context manager it is acked at the end, or given back when an
    exception leaves the block (after the delay of a Retry, else of the group), unless it was settled within.

    >>> async with client.group("orders", "audit", wait=0.1) as audit:
    ...     job = await anext(audit)
    ...     await job.nack(reason="not today")
    ...     job = await anext(audit)
    ...     job.reason
    ...     await job.ack()
    True
    'not today'
    """

    def __init__(self, group: Group, message: Message, deliveries: int, reason: str) -> None:
        self.message = message
        self.deliveries = deliveries
        self.reason = reason
        self.lost = False  # the lease ran out, so that another consumer may have it
        self._group = group
        self._settled = False

    def __repr__(self) -> str:
        return f"<Job {self.message.room} {self.message.sequence} delivery {self.deliveries}>"

    async def ack(self) -> None:
        """Settle it as done. Raises Disconnected or Rejected when the bus did not confirm."""
        if not self._settled:
            self._settled = True
            try:
                await self._group.acked(self)
            finally:
                self._group.let_go(self)

    async def nack(self, delay: float = 0.0, reason: str = "") -> bool:
        """Give it back, to be handed out again after `delay` seconds. False if its lease had run out."""
        if self._settled:
            return False
        self._settled = True
        try:
            return await self._group.nacked(self, delay, reason[:MAX_REASON])
        finally:
            self._group.let_go(self)

    async def __aenter__(self) -> Job:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.ack()
            return
        delay = error.delay if isinstance(error, Retry) else self._group.retry_delay
        reason = str(error) if isinstance(error, Retry) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(ClientError):  # the error says more; the lease ends by itself
            await self.nack(delay, reason)


class Group:
    """Iterate over it for jobs, at most `concurrency` of them unsettled at one time; or `run` a handler.

    Leases (seconds) of unsettled jobs are extended. The connection may break and return meanwhile. `stop`
    ends the iteration after the jobs in hand. If the group is deleted, iteration raises GroupLost, or creates
    it again with `recreate`, which hands out again what `start` says. Leaving an `async with` block waits
    `grace` seconds for unsettled jobs, then gives them back.
    """

    def __init__(
        self,
        ask: Ask,
        room: str,
        group: str,
        *,
        consumer: str,
        concurrency: int,
        lease: float,
        start: Literal["begin", "end"] | int,
        max_deliveries: int,
        retry_delay: float,
        wait: float,
        recreate: bool = False,
        grace: float = 5.0,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self.retry_delay = retry_delay
        self.missed = 0  # messages that the room no longer held when their turn came
        self._ask = ask
        self._place = {"room": room, "group": group}
        self._consumer = consumer
        self._concurrency = concurrency
        self._lease = lease
        self._start = start
        self._max_deliveries = max_deliveries
        self._wait = wait
        self._recreate = recreate
        self._grace = grace
        self._known = False  # the bus has the group, or had it
        self._ready: deque[Job] = deque()
        self._held: dict[Job, None] = {}
        self._changed = asyncio.Event()  # something is ready, settled, or to be stopped
        self._none_held = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._error: ClientError | None = None
        self._acks: dict[str, list[tuple[int, asyncio.Future[None]]]] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Group {self._place['group']} of {self._place['room']}, {len(self._held)} jobs in hand>"

    # -- for the program

    @property
    def dead_letter_room(self) -> str:
        """The room that takes what failed `max_deliveries` times. Read it with `Client.history`."""
        return f"{self._place['room']}.dlq.{self._place['group']}"

    def __aiter__(self) -> AsyncIterator[Job]:
        return self

    async def __anext__(self) -> Job:
        while True:
            self._changed.clear()
            if self._ready:
                return self._ready.popleft()
            if self._error is not None:
                raise self._error.with_traceback(None)
            if self._stopping and self._fetching is None:
                raise StopAsyncIteration
            if not self._stopping and self._fetching is None and len(self._held) < self._concurrency:
                self._fetching = self._spawn(self._fetch())
            await self._changed.wait()

    async def run(self, handle: Callable[[Job], Awaitable[None]]) -> None:
        """Handle jobs at the same time until `stop`; a job whose handler raises is given back.

        Returns, or raises what the iteration raised, after the last handler has ended. Cancelling it cancels
        the handlers.
        """
        handling: set[asyncio.Task[None]] = set()
        try:
            async for job in self:
                task = asyncio.get_running_loop().create_task(self._handle(job, handle))
                handling.add(task)
                task.add_done_callback(handling.discard)
        except asyncio.CancelledError:
            for task in handling:
                task.cancel()
            raise
        finally:
            await asyncio.gather(*handling, return_exceptions=True)

    def stop(self) -> None:
        """Take no more jobs, once the read on its way is answered; those that are held still come."""
        self._stopping = True
        self._changed.set()

    async def close(self, grace: float | None = None) -> None:
        """Stop, give back what was not begun, and wait `grace` seconds for the jobs in hand.

        What is not settled then is given back, with a warning in the log.
        """
        self.stop()
        if self._fetching is not None:
            await asyncio.wait([self._fetching])
        while self._ready:
            with contextlib.suppress(ClientError):
                await self._ready.popleft().nack(reason="the worker stopped before it began")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace if grace is None else grace):
                while self._held:
                    self._changed.clear()
                    await self._changed.wait()
        for job in list(self._held):
            logger.warning("%r was not settled and is given back", job, extra={"message_id": job.message.id})
            with contextlib.suppress(ClientError):
                await job.nack(reason="the worker stopped and had not settled it")
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def __aenter__(self) -> Group:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @staticmethod
    async def _handle(job: Job, handle: Callable[[Job], Awaitable[None]]) -> None:
        try:
            async with job:
                await handle(job)
        except ClientError as error:
            logger.warning("%r could not be settled: %s", job, error)
        except Retry as retry:
            logger.info("%r is retried in %g s: %s", job, retry.delay, retry)
        except Exception:
            logger.exception("%r failed and was given back", job, extra={"message_id": job.message.id})

    # -- for jobs

    def let_go(self, job: Job) -> None:
        """The job is settled: there is room for another one."""
        self._held.pop(job, None)
        if not self._held:
            self._none_held.set()
        self._changed.set()

    async def acked(self, job: Job) -> None:
        """Acks that come while one is on its way go together."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        idle = not self._acks
        self._acks.setdefault(job.message.epoch, []).append((job.message.sequence, future))
        if idle:
            self._spawn(self._send_acks())
        await future

    async def nacked(self, job: Job, delay: float, reason: str) -> bool:
        """Give a job back; see Job.nack."""
        message = job.message
        asked = {"epoch": message.epoch, "consumer": self._consumer, "sequence": message.sequence}
        try:
            await self._ask(
                "op.groups.nack", {**self._place, **asked, "delay": delay, "reason": reason}, again=True
            )
        except Rejected as error:
            if error.code != Code.CONFLICT:
                raise
            return False
        return True

    # -- talking to the bus

    async def _send_acks(self) -> None:
        while self._acks:
            await asyncio.sleep(0)  # the rest of this tick's acks come along
            epoch, waiting = next(iter(self._acks.items()))
            some, rest = waiting[:MOST_PER_CALL], waiting[MOST_PER_CALL:]
            asked = {**self._place, "epoch": epoch, "sequences": [sequence for sequence, _ in some]}
            error: ClientError | None = None
            self._acks[epoch] = rest
            try:
                await self._ask("op.groups.ack", asked, again=True)
            except ClientError as failure:
                error = failure
            if not self._acks[epoch]:
                del self._acks[epoch]
            for _, future in some:
                if future.done():
                    continue
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

    async def _fetch(self) -> None:
        """Read until there are jobs, or the end.

        Not cancelled: what a read brings is leased to this consumer.
        """
        backoff = Backoff()
        try:
            while not self._stopping and not self._ready:
                try:
                    await self._read()
                except (Disconnected, Rejected) as error:
                    retry_after_ms = error.error.retry_after_ms if isinstance(error, Rejected) else 0
                    if isinstance(error, Rejected) and error.code == Code.NOT_FOUND:
                        await self._ensure()
                    elif isinstance(error, Rejected) and not retry_after_ms:
                        raise
                    else:
                        await asyncio.sleep(backoff.next(retry_after_ms / 1000))
        except ClientError as error:
            self._error = error
        finally:
            self._fetching = None
            self._changed.set()

    async def _ensure(self) -> None:
        """Create the group, unless it was there before and is gone."""
        if self._known and not self._recreate:
            raise GroupLost(self._place["room"], self._place["group"])
        asked = {**self._place, "start": self._start, "max_deliveries": self._max_deliveries}
        await self._ask("op.groups.ensure", asked, again=True)

    async def _read(self) -> None:
        asked = {"consumer": self._consumer, "lease": self._lease, "wait": self._wait}
        limit = min(self._concurrency - len(self._held), MAX_AT_ONCE)
        answer = await self._ask("op.groups.read", {**self._place, **asked, "limit": limit}, again=False)
        self._known = True
        given = msgspec.json.decode(answer.payload, type=_Given)
        self.missed += int(given.missed)
        for one in given.jobs:
            [line] = wire_json.decode(bytes(one.message).decode())
            assert line.envelope is not None
            job = Job(self, Message(line.envelope), one.deliveries, one.reason)
            self._held[job] = None
            self._ready.append(job)
        if self._held:
            self._none_held.clear()
            if self._keeper is None or self._keeper.done():
                self._keeper = self._spawn(self._keep_leases())

    async def _keep_leases(self) -> None:
        while self._held:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease / 3):
                    await self._none_held.wait()
            held = [job for job in self._held if not job.lost]
            for begin in range(0, len(held), MOST_PER_CALL):
                await self._extend(held[begin : begin + MOST_PER_CALL])

    async def _extend(self, jobs: list[Job]) -> None:
        """Whatever goes wrong here shows when the job is settled."""
        by_epoch: dict[str, list[Job]] = {}
        for job in jobs:
            by_epoch.setdefault(job.message.epoch, []).append(job)
        for epoch, some in by_epoch.items():
            asked = {"epoch": epoch, "consumer": self._consumer, "lease": self._lease}
            sequences = [job.message.sequence for job in some]
            with contextlib.suppress(ClientError):
                answer = await self._ask(
                    "op.groups.extend", {**self._place, **asked, "sequences": sequences}, again=False
                )
                extended = set(map(int, msgspec.json.decode(answer.payload, type=_Extended).extended))
                for job in some:
                    job.lost = job.message.sequence not in extended

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


__all__ = ["Group", "Job", "Retry"]
