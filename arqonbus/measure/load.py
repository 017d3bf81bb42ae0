"""Load on a running bus, from the outside, with the same client that everybody has.

Measures what a user of the bus gets: acks and deliveries a second, and the time from the moment at which
a message should have been sent to its delivery. The generator runs in this process and costs CPU too; for
the cost of the bus itself, see benchmarks/.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from arqonbus.client import Client, Subscription

WARM_UP = 0.1  # share of the time whose samples are left out


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The load to apply. `rate` in messages a second over all publishers; 0: as fast as acks come."""

    room: str
    publishers: int
    subscribers: int
    size: int
    in_flight: int
    rate: float
    seconds: float


@dataclass(slots=True)
class Measured:
    """The result of a run. Latencies in seconds, ascending."""

    published: int = 0
    delivered: int = 0
    seconds: float = 0.0
    ack_latencies: list[float] = field(default_factory=list)
    delivery_latencies: list[float] = field(default_factory=list)
    durability: str = ""


def percentile(ascending: list[float], share: float) -> float:
    """The value that `share` (0 to 1) of the samples do not exceed; 0 without samples."""
    if not ascending:
        return 0.0
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


class LoadRun:
    """One run of a plan."""

    def __init__(self, plan: LoadPlan, connect: Callable[[], Client]) -> None:
        self._plan = plan
        self._connect = connect
        self.measured = Measured()
        self._begin = 0.0
        self._measure_from = 0.0

    async def run(self, on_progress: Callable[[float, Measured], None]) -> Measured:
        """Connect, publish for the planned time, wait for the last deliveries. `on_progress`: share done."""
        plan = self._plan
        async with AsyncExitStack() as stack:
            publishers = [await stack.enter_async_context(self._connect()) for _ in range(plan.publishers)]
            readers = []
            for _ in range(plan.subscribers):
                client = await stack.enter_async_context(self._connect())
                readers.append(asyncio.create_task(self._read(await client.subscribe(plan.room))))
            self._begin = time.perf_counter()
            self._measure_from = self._begin + plan.seconds * WARM_UP
            writers = [
                asyncio.create_task(self._write(client, slot, publisher))
                for publisher, client in enumerate(publishers)
                for slot in range(plan.in_flight)
            ]
            await self._watch(writers, on_progress)
            await self._wait_for_deliveries()
            self.measured.seconds = time.perf_counter() - self._begin
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        self.measured.ack_latencies.sort()
        self.measured.delivery_latencies.sort()
        return self.measured

    async def _watch(
        self, writers: list[asyncio.Task[None]], on_progress: Callable[[float, Measured], None]
    ) -> None:
        pending = set(writers)
        while pending:
            done, pending = await asyncio.wait(pending, timeout=0.25)
            for task in done:
                task.result()
            share = (time.perf_counter() - self._begin) / self._plan.seconds
            on_progress(min(1.0, share), self.measured)

    async def _wait_for_deliveries(self) -> None:
        expected = self.measured.published * self._plan.subscribers
        deadline = time.perf_counter() + 10
        while self.measured.delivered < expected and time.perf_counter() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _write(self, client: Client, slot: int, publisher: int) -> None:
        plan, measured = self._plan, self.measured
        lanes = plan.publishers * plan.in_flight
        step = lanes / plan.rate if plan.rate else 0.0
        intended = self._begin + (slot * plan.publishers + publisher) * step / lanes
        end = self._begin + plan.seconds
        while True:
            now = time.perf_counter()
            if plan.rate:
                if intended > now:
                    await asyncio.sleep(intended - now)
            else:
                intended = now
            if intended >= end:
                return
            payload = str(time.time_ns() - int((time.perf_counter() - intended) * 1e9)).encode()
            ack = await client.publish(plan.room, payload.ljust(plan.size), content_type="text/plain")
            measured.published += 1
            measured.durability = ack.durability
            if intended >= self._measure_from:
                measured.ack_latencies.append(time.perf_counter() - intended)
            intended += step

    async def _read(self, subscription: Subscription) -> None:
        measured = self.measured
        async for message in subscription:
            measured.delivered += 1
            if time.perf_counter() >= self._measure_from:
                measured.delivery_latencies.append((time.time_ns() - int(message.payload)) / 1e9)


__all__ = ["LoadPlan", "LoadRun", "Measured", "percentile"]
