"""The scenes in which a store is gone: killed, replaced by another one, or without room on its disk."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from arqonbus.client import Client
from tests.faults.disk import Disk
from tests.runbooks.scenes import Scene, projecting
from tests.runbooks.stack import Stack, stack
from tests.servers.postgres import PostgresServer
from tests.servers.processes import wait_until
from tests.servers.valkey import ValkeyServer
from tests.servers.valkey_sentinel import SERVICE, running_watched

DURABLE = 'rooms=[{"match": "orders", "durable_history": "postgres"}]'


@contextmanager
def valkey_killed(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """The only Valkey was killed; agents go on."""
    with projecting(root, postgres) as one:
        asyncio.run(_ordered(one, 5))
        one.valkey.kill()
        one.remember(5)
        one.reaches("arqonbus_ready", lambda value: value == 0, one.bus.settings.telemetry.port)
        yield one


@contextmanager
def failed_over(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """The primary was killed, and the sentinels elected another one."""
    with running_watched(root / "valkey") as watched:
        nodes = ",".join(f'"{node}"' for node in watched.nodes)
        options = (
            f"datastores.valkey.sentinel.service={SERVICE}",
            f"datastores.valkey.sentinel.nodes=[{nodes}]",
        )
        first = watched.primary()
        with stack(root, postgres, *options, valkey=first) as one:
            asyncio.run(_ordered(one, 5))
            first.kill()
            watched.wait_for_another(first)
            asked = watched.sentinels[0]
            wait_until(
                lambda: "s_down" in str(asked.ask("SENTINEL", "REPLICAS", SERVICE)),
                "the word that it is down",
            )
            one.environ |= {"SENTINEL": f"redis://{watched.nodes[0]}"}
            yield one


@contextmanager
def postgres_killed(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """PostgreSQL was killed, under a room whose messages it keeps; agents go on."""
    with projecting(root, postgres, DURABLE, "storage.dedup_window=5m") as one:
        asyncio.run(_ordered(one, 5))
        postgres.signal(signal.SIGKILL)
        wait_until(lambda: not postgres.running, "the end of PostgreSQL")
        one.remember(5)
        one.reaches("arqonbus_projection_store_up", lambda value: value == 0)
        yield one


@contextmanager
def disk_full(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """Somebody filled the disk of Valkey to its last byte, while messages came."""
    with Disk(root / "valkey", megabytes=64) as disk, ExitStack() as ending:
        valkey = ValkeyServer(disk.path)
        valkey.log = root / "valkey.log"  # elsewhere, as the journal of a host is
        ending.callback(valkey.kill)
        valkey.start()
        one = ending.enter_context(projecting(root, postgres, valkey=valkey))
        asyncio.run(_ordered(one, 5))
        disk.fill()
        one.producing()
        one.reaches("arqonbus_ready", lambda value: value == 0, one.bus.settings.telemetry.port)
        wait_until(lambda: not one.valkey.running, "the end of Valkey")
        yield one


async def _ordered(one: Stack, count: int) -> None:
    async with Client(one.bus.url, one.token("shop"), timeout=30) as client:
        for number in range(count):
            await client.publish("orders", {"number": number})


OUTAGES: Mapping[str, Scene] = {
    "valkey-down": valkey_killed,
    "valkey-failed-over": failed_over,
    "postgres-down": postgres_killed,
    "disk-full": disk_full,
}

__all__ = ["OUTAGES"]
