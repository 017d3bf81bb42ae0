"""What a run has under it: buses and their engine, and the faults that can befall them.

A stack starts everything, names its faults, and ends all that it started, by process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from arqonbus.protocol.ids import new_ulid
from tests.faults import disk as disks
from tests.faults import network as networks
from tests.faults.disk import Disk
from tests.faults.network import Host, Network
from tests.faults.proxy import Relay
from tests.servers.bus import BusProcess
from tests.servers.processes import wait_until
from tests.servers.valkey import SLOTS, ValkeyCluster, ValkeyServer
from tests.servers.valkey_sentinel import SERVICE, WatchedValkey

UNBOUND = (
    "storage.history.max_messages=0",
    "storage.dedup_window=600",
    "limits.messages_per_second=0",
    "limits.bytes_per_second=0",
    "server.max_connections=1000",
)


class Kind(NamedTuple):
    """One kind of fault. `strike` returns when the fault is over; what it broke is up again then."""

    name: str
    strike: Callable[[random.Random], Awaitable[None]]


class Plan(NamedTuple):
    """What a run is to be. `mode` and `durability` as a profile says them."""

    mode: str = "strict"
    durability: str = "durable"
    overrides: tuple[str, ...] = ()


class Stack:
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

    async def _begin(self) -> None:
        """Start the engine. Ends go to `_exits`."""
        raise NotImplementedError

    def _engine_settings(self) -> tuple[str, ...]:
        raise NotImplementedError

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
        self._exits.callback(bus.kill)
        self.buses.append(bus)
        self._hosts.append(host)
        bus.start()

    async def mend(self) -> None:
        """Wait until all of it is as in the beginning. A fault may leave that to the servers themselves."""

    def kinds(self) -> list[Kind]:
        """The faults that can befall it."""
        kinds = [
            Kind("bus: kill -9", self._kill_bus),
            Kind("bus: restart", self._restart_bus),
            Kind("bus: SIGSTOP", self._stop_bus),
        ]
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
        await asyncio.to_thread(bus.stop)
        await asyncio.to_thread(_start, bus)

    async def _stop_bus(self, chance: random.Random) -> None:
        bus, seconds = chance.choice(self.buses), chance.uniform(0.2, 1.5)
        bus.signal(19)
        await asyncio.sleep(seconds)
        bus.signal(18)

    async def _cut_bus(self, chance: random.Random) -> None:
        await _cut(chance.choice([host for host in self._hosts if host is not None]), chance)


class SqliteStack(Stack):
    """One bus with its own file, on a disk that can be filled."""

    name = "sqlite"

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan, 1)
        self._disk: Disk | None = None

    async def _begin(self) -> None:
        reason = disks.why_not()
        if reason:
            self.skipped.append(f"disk full: {reason}")
        else:
            self._disk = self._exits.enter_context(Disk(self.directory / "disk"))

    def _engine_settings(self) -> tuple[str, ...]:
        folder = self._disk.path if self._disk else self.directory
        return ("storage.backend=sqlite", f"storage.sqlite.path={folder}/log.sqlite")

    def kinds(self) -> list[Kind]:
        kinds = super().kinds()
        if self._disk is not None:
            kinds.append(Kind("sqlite: disk full", self._fill))
        return kinds

    async def _fill(self, chance: random.Random) -> None:
        assert self._disk is not None
        await asyncio.to_thread(self._disk.fill)
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        self._disk.free()


class ValkeyStack(Stack):
    """Two buses and one Valkey, each on a host of its own where hosts can be made, a relay between them."""

    name = "valkey"

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan, 2)
        self._network: Network | None = None
        self._disk: Disk | None = None
        self._host: Host | None = None
        self._server: ValkeyServer | None = None

    async def _begin(self) -> None:
        for reason, what in ((networks.why_not(), "network cut"), (disks.why_not(), "disk full")):
            if reason:
                self.skipped.append(f"{what}: {reason}")
        if not networks.why_not():
            self._network = self._exits.enter_context(Network())
            self._host = self._network.host()
        folder = self.directory / "valkey"
        if not disks.why_not():
            self._disk = self._exits.enter_context(Disk(folder))
        flush = "always" if self.plan.durability == "durable" else "everysec"
        server = self._server = ValkeyServer(
            folder,
            "--appendfsync",
            flush,
            host=self._host.address if self._host else "127.0.0.1",
            prefix=self._host.prefix if self._host else (),
        )
        self._exits.callback(server.kill)
        await asyncio.to_thread(server.start)

    def _engine_settings(self) -> tuple[str, ...]:
        assert self._server is not None
        return ("storage.backend=valkey", f"datastores.valkey.url={self._server.url}")

    def _bus_host(self) -> Host | None:
        return self._network.host() if self._network else None

    def kinds(self) -> list[Kind]:
        kinds = [
            *super().kinds(),
            Kind("valkey: kill -9", self._kill),
            Kind("valkey: restart", self._restart),
            Kind("valkey: SIGSTOP", self._freeze),
        ]
        if self._host is not None:
            kinds.append(Kind("valkey: network cut", self._cut_valkey))
        if self._disk is not None:
            kinds.append(Kind("valkey: disk full", self._fill))
        return kinds

    @property
    def server(self) -> ValkeyServer:
        assert self._server is not None
        return self._server

    async def _kill(self, chance: random.Random) -> None:
        self.server.kill()
        await asyncio.sleep(chance.uniform(0, 0.7))
        await asyncio.to_thread(self.server.start)

    async def _restart(self, chance: random.Random) -> None:
        await asyncio.to_thread(self.server.stop)
        await asyncio.to_thread(self.server.start)

    async def _freeze(self, chance: random.Random) -> None:
        self.server.freeze()
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        self.server.thaw()

    async def _cut_valkey(self, chance: random.Random) -> None:
        assert self._host is not None
        await _cut(self._host, chance)

    async def _fill(self, chance: random.Random) -> None:
        """With appendfsync always Valkey ends itself on a full disk, and its keeper starts it again."""
        assert self._disk is not None
        await asyncio.to_thread(self._disk.fill)
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        self._disk.free()
        if self.plan.durability == "durable":
            with contextlib.suppress(TimeoutError):
                await asyncio.to_thread(wait_until, lambda: not self.server.running, "its end", 0.5)
        if not self.server.running:
            await asyncio.to_thread(self.server.start)


class SlowValkeyStack(ValkeyStack):
    """As ValkeyStack, on loopback, with a relay between the buses and Valkey that can be slow."""

    name = "valkey behind a slow network"

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan)
        self._relay: Relay | None = None

    async def _begin(self) -> None:
        server = self._server = ValkeyServer(self.directory / "valkey")
        self._exits.callback(server.kill)
        await asyncio.to_thread(server.start)
        relay = self._relay = Relay(server.host, server.port)
        await relay.start()
        self._exits.push_async_callback(relay.stop)

    def _engine_settings(self) -> tuple[str, ...]:
        assert self._relay is not None
        return ("storage.backend=valkey", f"datastores.valkey.url=valkey://127.0.0.1:{self._relay.port}")

    def kinds(self) -> list[Kind]:
        return [*super().kinds(), Kind("valkey: network slow", self._delay)]

    async def _delay(self, chance: random.Random) -> None:
        assert self._relay is not None
        self._relay.delay = chance.uniform(0.02, 0.4)
        await asyncio.sleep(chance.uniform(0.5, 2.0))
        self._relay.delay = 0.0


class SentinelStack(Stack):
    """Two buses, a primary with two replicas, three sentinels."""

    name = "sentinel"

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan, 2)
        self._watched = WatchedValkey(directory / "valkey")

    async def _begin(self) -> None:
        self._exits.callback(self._watched.kill)
        await asyncio.to_thread(self._watched.start)

    def _engine_settings(self) -> tuple[str, ...]:
        nodes = ", ".join(f'"{node}"' for node in self._watched.nodes)
        return (
            "storage.backend=valkey",
            f"datastores.valkey.sentinel.service={SERVICE}",
            f"datastores.valkey.sentinel.nodes=[{nodes}]",
        )

    async def mend(self) -> None:
        await asyncio.to_thread(wait_until, self._watched.is_whole, "the replicas to be in step", 60.0)

    def kinds(self) -> list[Kind]:
        return [
            *super().kinds(),
            Kind("primary: kill -9, failover", self._kill_primary),
            Kind("primary: SIGSTOP, failover", self._freeze_primary),
            Kind("primary: failover by hand", self._fail_over),
            Kind("replica: kill -9", self._kill_replica),
            Kind("sentinel: kill -9", self._kill_sentinel),
        ]

    async def _kill_primary(self, chance: random.Random) -> None:
        old = self._watched.primary()
        old.kill()
        await asyncio.to_thread(self._watched.wait_for_another, old)
        await asyncio.sleep(chance.uniform(0, 0.5))
        await asyncio.to_thread(old.start)

    async def _freeze_primary(self, chance: random.Random) -> None:
        """It wakes up as a primary that nobody asked to stop, its connections still open."""
        old = self._watched.primary()
        old.freeze()
        try:
            await asyncio.to_thread(self._watched.wait_for_another, old)
            await asyncio.sleep(chance.uniform(0, 0.5))
        finally:
            old.thaw()

    async def _fail_over(self, chance: random.Random) -> None:
        await self.mend()
        old = self._watched.primary()
        chance.choice(self._watched.sentinels).ask("SENTINEL", "FAILOVER", SERVICE)
        await asyncio.to_thread(self._watched.wait_for_another, old)

    async def _kill_replica(self, chance: random.Random) -> None:
        primary = self._watched.primary()
        replica = chance.choice([server for server in self._watched.servers if server is not primary])
        replica.kill()
        await asyncio.sleep(chance.uniform(0, 1.0))
        await asyncio.to_thread(replica.start)

    async def _kill_sentinel(self, chance: random.Random) -> None:
        sentinel = chance.choice(self._watched.sentinels)
        sentinel.kill()
        await asyncio.sleep(chance.uniform(0, 1.0))
        await asyncio.to_thread(sentinel.start)


class ClusterStack(Stack):
    """Two buses and a cluster of three primaries with a replica each."""

    name = "cluster"

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan, 2)
        self._cluster = ValkeyCluster(directory / "valkey", 1)

    async def _begin(self) -> None:
        self._exits.callback(self._cluster.kill)
        await asyncio.to_thread(self._cluster.start)

    def _engine_settings(self) -> tuple[str, ...]:
        return (
            "storage.backend=valkey",
            f"datastores.valkey.url={self._cluster.servers[0].url}",
            "datastores.valkey.cluster=true",
            "datastores.valkey.durable_replicas=1",
        )

    async def mend(self) -> None:
        await asyncio.to_thread(wait_until, self._in_step, "the cluster to be whole", 60.0)

    def _in_step(self) -> bool:
        return self._cluster.is_whole() and self._cluster.is_replicated()

    def kinds(self) -> list[Kind]:
        return [
            *super().kinds(),
            Kind("primary of a shard: kill -9, promotion", self._kill_primary),
            Kind("slots: moved", self._move),
            Kind("slots: moved", self._move),
        ]

    async def _kill_primary(self, chance: random.Random) -> None:
        slot = chance.randrange(SLOTS)
        old = self._cluster.owner(slot)
        old.kill()
        await asyncio.to_thread(
            wait_until, lambda: self._cluster.owner(slot) is not old, "a replica to be promoted", 30.0
        )
        await asyncio.to_thread(old.start)
        await self.mend()

    async def _move(self, chance: random.Random) -> None:
        """Slots that hold the rooms of the run, and some others."""
        await self.mend()
        slots = [*self.slots, *(chance.randrange(SLOTS) for _ in range(4))]
        for slot in slots:
            source = self._cluster.owner(slot)
            others = {self._cluster.owner(each) for each in (0, SLOTS // 2, SLOTS - 1)} - {source}
            target = chance.choice(sorted(others, key=lambda server: server.port))
            await asyncio.to_thread(self._cluster.move_slot, slot, source, target)

    slots: tuple[int, ...] = ()  # those of the run's rooms


async def _cut(host: Host, chance: random.Random) -> None:
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


STACKS: dict[str, Callable[[Path, Plan], Stack]] = {
    "sqlite": SqliteStack,
    "valkey": ValkeyStack,
    "slow": SlowValkeyStack,
    "sentinel": SentinelStack,
    "cluster": ClusterStack,
}


def room_names(count: int) -> Iterator[str]:
    """Rooms that no earlier run had."""
    token = new_ulid()[-6:].lower()
    return (f"faults-{token}-{number}" for number in range(count))


__all__ = ["STACKS", "ClusterStack", "Kind", "Plan", "Stack", "room_names"]
