"""What a run has under it: buses and their engine, and the faults that can befall them.

A stack starts everything, names its faults, and ends all that it started, by process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from arqonbus.protocol.ids import new_ulid
from tests.faults.network import Host
from tests.servers.bus import BusProcess
from tests.servers.processes import wait_until

UNBOUND = (
    "storage.history.max_messages=0",
    "storage.dedup_window=600",
    "limits.messages_per_second=0",
    "limits.bytes_per_second=0",
    "server.max_connections=1000",
)


HAND_OVER_SECONDS = 60.0


class Kind(NamedTuple):
    """One kind of fault. `strike` returns when the fault is over; what it broke is up again then."""

    name: str
    strike: Callable[[random.Random], Awaitable[None]]


class Plan(NamedTuple):
    """What a run is to be. `mode` and `durability` as a profile says them."""

    mode: str = "strict"
    durability: str = "durable"
    overrides: tuple[str, ...] = ()


class Stack(ABC):
    """Base: the buses. Use it in an `async with` block."""

    name = ""

    def __init__(self, directory: Path, plan: Plan, buses: int) -> None:
        self.directory = directory
        self.plan = plan
        self.skipped: list[str] = []  # sentences: what cannot be done to it here
        self.buses: list[BusProcess] = []
        self._hosts: list[Host | None] = []
        self._count = buses
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Stack:
        try:
            await self._begin()
            for number in range(self._count):
                await asyncio.to_thread(self._start_bus, number)
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._exits.aclose()

    @abstractmethod
    async def _begin(self) -> None:
        """Start the engine. Ends go to `_exits`."""

    @abstractmethod
    def _engine_settings(self) -> tuple[str, ...]: ...

    def _bus_host(self) -> Host | None:
        return None

    def _start_bus(self, number: int) -> None:
        host = self._bus_host()
        settings = [
            f"storage.mode={self.plan.mode}",
            f"storage.durability={self.plan.durability}",
            *UNBOUND,
            *self._engine_settings(),
            *self.plan.overrides,
        ]
        if host is not None:
            settings += [f"server.host={host.address}", f"telemetry.host={host.address}"]
        bus = BusProcess(self.directory / f"bus-{number}", *settings)
        if host is not None:
            bus.prefix = tuple(host.prefix)
            bus.url = f"ws://{host.address}:{bus.settings.server.port}/v1/ws"
            bus.health = f"http://{host.address}:{bus.settings.telemetry.port}"
        self._exits.callback(bus.kill)
        self.buses.append(bus)
        self._hosts.append(host)
        bus.start()

    async def mend(self) -> None:  # noqa: B027 - most stacks have nothing to wait for
        """Wait until all of it is as in the beginning. A fault may leave that to the servers themselves."""

    async def handed_over(self) -> None:
        """Wait until no bus has anything in memory only. Raises TimeoutError."""
        async with httpx.AsyncClient(timeout=10) as http, asyncio.timeout(HAND_OVER_SECONDS):
            for bus in self.buses:
                while (  # noqa: ASYNC110 - another process sets no event
                    "arqonbus_degraded 0.0" not in (await http.get(f"{bus.health}/metrics")).text
                ):
                    await asyncio.sleep(0.2)

    def kinds(self) -> list[Kind]:
        """The faults that can befall it."""
        kinds = [Kind("bus: SIGSTOP", self._stop_bus)]
        if self.plan.mode == "strict":  # else it ends with what only its memory has, and says so
            kinds += [Kind("bus: kill -9", self._kill_bus), Kind("bus: restart", self._restart_bus)]
        if any(self._hosts):
            kinds.append(Kind("bus: network cut", self._cut_bus))
        return kinds

    async def _kill_bus(self, chance: random.Random) -> None:
        bus, pause = chance.choice(self.buses), chance.uniform(0, 0.5)
        await asyncio.to_thread(bus.kill)
        await asyncio.sleep(pause)
        await asyncio.to_thread(_start, bus)

    async def _restart_bus(self, chance: random.Random) -> None:
        bus = chance.choice(self.buses)
        bus.signal(signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: not bus.running, "the bus to drain and end", 60.0)
        bus.kill()
        await asyncio.to_thread(_start, bus)

    async def _stop_bus(self, chance: random.Random) -> None:
        bus, seconds = chance.choice(self.buses), chance.uniform(0.2, 1.5)
        bus.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        bus.signal(signal.SIGCONT)

    async def _cut_bus(self, chance: random.Random) -> None:
        await cut(chance.choice([host for host in self._hosts if host is not None]), chance)


async def cut(host: Host, chance: random.Random) -> None:
    """Cut the host off for a while."""
    await asyncio.to_thread(host.cut)
    try:
        await asyncio.sleep(chance.uniform(0.3, 3.0))
    finally:
        await asyncio.to_thread(host.heal)


def _start(bus: BusProcess) -> None:
    """As systemd does: again, until its engine is there."""
    for _ in range(20):
        try:
            bus.start()
        except RuntimeError:
            continue
        return
    raise RuntimeError(f"the bus does not start any more: {bus.log.read_text()[-2000:]}")


def room_names(count: int) -> Iterator[str]:
    """Rooms that no earlier run had."""
    token = new_ulid()[-6:].lower()
    return (f"faults-{token}-{number}" for number in range(count))


__all__ = ["Kind", "Plan", "Stack", "cut", "room_names"]
