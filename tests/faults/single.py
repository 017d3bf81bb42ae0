"""Stacks with one engine, SQLite or one Valkey, on a full disk or a cut or slow network."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
from pathlib import Path

from arqonbus.storage.postgres import migrate
from tests.faults import disk as disks
from tests.faults import network as networks
from tests.faults.disk import Disk
from tests.faults.network import Host, Network
from tests.faults.proxy import Relay
from tests.faults.stack import Kind, Plan, Stack, cut
from tests.servers.postgres import ROLE, PostgresServer
from tests.servers.processes import wait_until
from tests.servers.valkey import ValkeyServer


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
        server = self._server = ValkeyServer(
            folder,
            "--appendfsync",
            self._flush(),
            host=self._host.address if self._host else "127.0.0.1",
            prefix=self._host.prefix if self._host else (),
        )
        self._exits.callback(server.kill)
        await asyncio.to_thread(server.start)

    def _flush(self) -> str:
        return "always" if self.plan.durability == "durable" else "everysec"

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
        await cut(self._host, chance)

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


class DegradedStack(ValkeyStack):
    """As ValkeyStack, whose buses go on in memory while it is away, whatever the plan is."""

    name = "valkey, degraded mode"

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan._replace(mode="degraded"))


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


class PostgresStack(ValkeyStack):
    """As ValkeyStack, with the durable store in Postgres, which no publish may wait for."""

    name = "valkey and postgres"

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan)
        self._postgres = PostgresServer()

    async def _begin(self) -> None:
        await super()._begin()
        self._exits.callback(self._postgres.remove)
        await asyncio.to_thread(self._postgres.create)
        await migrate.apply(self._postgres.settings("postgres").datastores.postgres)

    def _bus_host(self) -> Host | None:
        return None  # Postgres listens on loopback

    def _engine_settings(self) -> tuple[str, ...]:
        store = {
            "url": f"postgresql://127.0.0.1:{self._postgres.port}/postgres",
            "user": ROLE,
            "password": self._postgres.password,
            "sslmode": "disable",
        }
        ours = [f"datastores.postgres.{name}={value}" for name, value in store.items()]
        return (*super()._engine_settings(), *ours)

    def kinds(self) -> list[Kind]:
        return [
            *super().kinds(),
            Kind("postgres: kill -9", self._kill_postgres),
            Kind("postgres: SIGSTOP", self._freeze_postgres),
        ]

    async def _kill_postgres(self, chance: random.Random) -> None:
        self._postgres.signal(signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: not self._postgres.running, "the end of Postgres")
        await asyncio.sleep(chance.uniform(0, 1.5))
        await asyncio.to_thread(self._postgres.start)

    async def _freeze_postgres(self, chance: random.Random) -> None:
        self._postgres.signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.3, 2.0))
        self._postgres.signal(signal.SIGCONT)


class HistoryStack(PostgresStack):
    """As PostgresStack, with a durable history there, and a Valkey that flushes nothing and loses all."""

    name = "durable history in postgres"

    def _flush(self) -> str:
        return "no"

    def _engine_settings(self) -> tuple[str, ...]:
        rule = '[{"match": "*", "durable_history": "postgres"}]'
        return (*super()._engine_settings(), "storage.durability=hot", f"rooms={rule}")

    def kinds(self) -> list[Kind]:
        return [
            *super().kinds(),
            Kind("valkey: emptied", self._empty),
            Kind("valkey: put back in time", self._put_back),
        ]

    async def _empty(self, _chance: random.Random) -> None:
        await asyncio.to_thread(self.server.ask, "FLUSHALL")

    async def _put_back(self, chance: random.Random) -> None:
        files, copy = self.server.directory / "appendonlydir", self.directory / "copy"
        await asyncio.to_thread(shutil.copytree, files, copy)
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        self.server.kill()
        await asyncio.to_thread(shutil.rmtree, files)
        await asyncio.to_thread(shutil.move, copy, files)
        await asyncio.to_thread(self.server.start)


__all__ = ["DegradedStack", "HistoryStack", "PostgresStack", "SlowValkeyStack", "SqliteStack", "ValkeyStack"]
