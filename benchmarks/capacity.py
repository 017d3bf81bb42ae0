"""What `arqonbus capacity` counts with, and a simulation of a million connections.

    python -m benchmarks.capacity stores      bytes of a message in Valkey, of an event in Postgres: measured
    python -m benchmarks.capacity simulate    what becomes of 10^6 clients when they lose their nodes

`stores` starts a Valkey, a Postgres and a bus of its own. `simulate` opens no connection: it is arithmetic on
the waiting times that the client draws (arqonbus.client.backoff) and the measured cost of a handshake, with
nodes that have one core for handshakes and a queue as long as net.core.somaxconn. It says what the design
does to a million clients, not what a network does to them.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arqonbus.client import Client
from arqonbus.client.backoff import Backoff
from arqonbus.config import load
from arqonbus.config.capacity import DOCUMENTED, MICRO, memory_bill
from benchmarks.projection import Place, Producer, place, put, store_of
from tests.servers.bus import BusProcess
from tests.servers.valkey import running_server

ROOT = Path(__file__).resolve().parents[1]
MESSAGES, ROOMS, SIZE = 20_000, 10, 200
EVENTS = 100_000
SOMAXCONN = 4096
TIMEOUT_SECONDS = 10.0


def stores() -> dict[str, Any]:
    """Each message is acked, so it is in Valkey; each event is committed, so its indexes are too."""
    entry = asyncio.run(_entry_bytes())
    with place() as here:
        return {"entry_bytes": entry, "event_bytes": asyncio.run(_event_bytes(here))}


async def _entry_bytes() -> int:
    with tempfile.TemporaryDirectory() as directory, running_server(Path(directory) / "valkey") as valkey:
        overrides = [
            "storage.backend=valkey",
            f"datastores.valkey.url={valkey.url}",
            "limits.messages_per_second=0",
            "limits.bytes_per_second=0",
        ]
        bus = BusProcess(Path(directory) / "bus", *overrides)
        bus.start()
        try:
            async with Client(bus.url, bus.token()) as client:
                await asyncio.gather(*(_publish(client, room, 100) for room in range(ROOMS)))
                before = _used(valkey.ask("INFO", "memory"))
                await asyncio.gather(*(_publish(client, room, MESSAGES // ROOMS) for room in range(ROOMS)))
                after = _used(valkey.ask("INFO", "memory"))
        finally:
            bus.kill()
    return round((after - before) / MESSAGES) - SIZE


async def _event_bytes(here: Place) -> int:
    async with store_of(here) as store:
        producer, sizes = Producer(), []
        for _ in range(2):
            await put(store, producer, EVENTS)
            here.postgres.ask("CHECKPOINT", here.database)
            sizes.append(int(here.postgres.ask("SELECT pg_database_size(current_database())", here.database)))
    return round((sizes[1] - sizes[0]) / EVENTS)


async def _publish(client: Client, room: int, count: int) -> None:
    payload = b"x" * SIZE
    for _ in range(count):
        await client.publish(f"room-{room}", payload, content_type="application/octet-stream")


def _used(answer: object) -> int:
    assert isinstance(answer, bytes)
    return int(answer.partition(b"used_memory:")[2].split()[0])


@dataclass(frozen=True, slots=True)
class Storm:
    """Clients that lost their connection in one moment; seconds since then."""

    displaced: int
    attempts: int
    turned_away: int
    longest_queue: int
    half_back: float
    nearly_all_back: float
    all_back: float


def storm(displaced: int, nodes: int, connect_us: float, seed: int = 1) -> Storm:
    """Each client tries, waits and tries again, until a node had the time to greet it."""
    random.seed(seed)
    greeting = connect_us / MICRO
    free = [0.0] * nodes  # when each node has greeted everybody in its queue
    waiting = [Backoff() for _ in range(displaced)]
    calls = [(backoff.next(), client) for client, backoff in enumerate(waiting)]
    heapq.heapify(calls)
    back: list[float] = []
    attempts = turned_away = longest = 0
    while calls:
        now, client = heapq.heappop(calls)
        attempts += 1
        one, other = int(random.random() * nodes), int(random.random() * nodes)
        node = one if free[one] < free[other] else other  # the better of two: nearly leastconn
        wait = max(0.0, free[node] - now)
        longest = max(longest, round(wait / greeting))
        if wait / greeting >= SOMAXCONN or wait > TIMEOUT_SECONDS:
            turned_away += 1
            heapq.heappush(calls, (now + waiting[client].next(), client))
            continue
        free[node] = max(free[node], now) + greeting
        back.append(free[node])
    back.sort()
    half, nearly, last = (back[int((len(back) - 1) * share)] for share in (0.5, 0.99, 1.0))
    return Storm(displaced, attempts, turned_away, longest, round(half, 1), round(nearly, 1), round(last, 1))


def simulate(connections: int) -> dict[str, Any]:
    """For a few sizes of nodes: what they need, and how long clients are away when one or all are lost."""
    found = []
    for each in (10_000, 50_000):
        overrides = [f"server.max_connections={each}"]
        settings = load("prod", root=ROOT, environ={}, overrides=overrides, secrets_of=()).settings
        nodes = connections // each + 1  # one more than hold them all, so that one can be lost
        cost = DOCUMENTED.connect_us
        found.append(
            {
                "max_connections": each,
                "nodes": nodes,
                "memory_mib": memory_bill(settings) >> 20,
                "one_node_is_lost": asdict(storm(connections // nodes, nodes - 1, cost)),
                "all_connections_are_lost": asdict(storm(connections, nodes, cost)),
            }
        )
    return {"connections": connections, "connect_us": DOCUMENTED.connect_us, "sizes": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=("stores", "simulate"))
    parser.add_argument("--connections", type=int, default=1_000_000)
    args = parser.parse_args()
    result = stores() if args.case == "stores" else simulate(args.connections)
    print(json.dumps({args.case: result}, indent=2))


if __name__ == "__main__":
    main()
