"""Stacks whose engine has replicas: a Valkey that sentinels watch, and a cluster."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.faults.stack import Kind, Plan, Stack
from tests.servers.processes import wait_until
from tests.servers.valkey import SLOTS, ValkeyCluster
from tests.servers.valkey_sentinel import SERVICE, WatchedValkey


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


__all__ = ["ClusterStack", "SentinelStack"]
