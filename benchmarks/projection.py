"""The projection on this machine: throughput, lag, rebuild, and whether the cost of an event grows.

    python -m benchmarks.projection throughput [--events 400000]    from the log to Postgres, at full speed
    python -m benchmarks.projection lag [--rate 5000 --seconds 30]  events that come at a rate
    python -m benchmarks.projection rebuild [--events 1000000]      the table of episodes from its events
    python -m benchmarks.projection growth [--most 10000000]        cost per event at 10^4, 10^5, … rows

Starts its own Valkey and Postgres (fsync on, as it comes from its packages) in a temporary directory, runs
the projector in a process of its own, and prints a table. CPU is that of all its processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arqonbus.continuum.events import ROOM
from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.projection import PostgresProjection
from arqonbus.storage.projection import Arrival, Event, Origin, Selection, Subject
from tests.servers.episodes import Publisher, event, publishing
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.projector import ProjectorProcess
from tests.servers.valkey import ValkeyServer, running_server

TENANTS = 4
AGENTS = 50
EVENTS_OF_AN_EPISODE = 4
BATCH = 500
TICKS = os.sysconf("SC_CLK_TCK")


class Place:
    """The servers of a run, and the CPU that they have used."""

    def __init__(
        self, directory: Path, valkey: ValkeyServer, postgres: PostgresServer, database: str
    ) -> None:
        self.directory = directory
        self.valkey = valkey
        self.postgres = postgres
        self.database = database
        self.settings = postgres.settings(database).datastores.postgres

    def cpu(self) -> float:
        """Seconds of all processes below this one, those that ended included."""
        times = os.times()
        return times.children_user + times.children_system + sum(map(_cpu_of, _descendants(os.getpid())))


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / TICKS


@contextmanager
def place() -> Iterator[Place]:
    with (
        tempfile.TemporaryDirectory(prefix="arqonbus-bench-") as directory,
        running_server(Path(directory) / "valkey", "--appendfsync", "everysec") as valkey,
        running_postgres("-c", "fsync=on", "-c", "shared_buffers=1GB", "-c", "max_wal_size=8GB") as postgres,
        postgres.database() as database,
    ):
        here = Place(Path(directory), valkey, postgres, database)
        asyncio.run(migrate.apply(here.settings))
        yield here


@asynccontextmanager
async def store_of(here: Place) -> AsyncIterator[PostgresProjection]:
    store = PostgresProjection(here.settings)
    try:
        yield store
    finally:
        await store.close()


class Producer:
    """Makes events: four of each episode, in a random order among many."""

    def __init__(self) -> None:
        self._dice = random.Random(1)
        self._open: list[tuple[str, str, str]] = []

    def events(self, count: int) -> list[Event]:
        return [self._next() for _ in range(count)]

    def _next(self) -> Event:
        if len(self._open) < 1000:
            dice = self._dice
            subject = (f"t{dice.randrange(TENANTS)}", f"agent-{dice.randrange(AGENTS)}", new_ulid())
            self._open += [subject] * EVENTS_OF_AN_EPISODE
            dice.shuffle(self._open)
        tenant, agent, episode = self._open.pop()
        return event(tenant, agent, episode, metadata={"number": 1, "note": "x" * 40})


async def fill(publisher: Publisher, producer: Producer, count: int) -> None:
    for _ in range(0, count, BATCH):
        await publisher.publish(producer.events(BATCH))


async def arrived(store: PostgresProjection, count: int) -> None:
    while (await store.books(None)).arrived < count:  # noqa: ASYNC110 - another process counts
        await asyncio.sleep(0.02)


async def throughput(here: Place, events: int) -> dict[str, Any]:
    async with publishing(here.valkey.url) as publisher, store_of(here) as store:
        await fill(publisher, Producer(), events)
        projector = ProjectorProcess(
            here.directory / "projector.log", here.valkey, here.postgres, here.database
        )
        projector.start()
        try:
            await arrived(store, events // 10)
            done, cpu, began = (await store.books(None)).arrived, here.cpu(), time.perf_counter()
            await arrived(store, events)
            seconds = time.perf_counter() - began
            used = here.cpu() - cpu
        finally:
            projector.kill()
        books, counts = await store.books(None), await store.counts(None)
    measured = events - done
    return {
        "events": measured,
        "events_per_second": round(measured / seconds),
        "cpu_us_per_event": round(used / measured * 1e6, 1),
        "duplicate_rows": counts["events"] - books.projected - books.stale,
        "books_difference": books.difference,
    }


async def lag(here: Place, rate: float, seconds: float) -> dict[str, Any]:
    import httpx

    async with publishing(here.valkey.url) as publisher, store_of(here) as store:
        producer = Producer()
        await publisher.publish(producer.events(BATCH))
        projector = ProjectorProcess(
            here.directory / "projector.log", here.valkey, here.postgres, here.database
        )
        projector.start()
        try:
            await arrived(store, BATCH)
            sent, began = BATCH, time.perf_counter()
            while (now := time.perf_counter() - began) < seconds:
                due = min(int(now * rate) + BATCH - sent, BATCH)
                if due:
                    await publisher.publish(producer.events(due))
                    sent += due
                else:
                    await asyncio.sleep(0.002)
            await arrived(store, sent)
            async with httpx.AsyncClient() as http:
                text = (await http.get(f"http://127.0.0.1:{projector.port}/metrics")).text
        finally:
            projector.kill()
    buckets = {
        float(line.split('le="')[1].split('"')[0]): float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("arqonbus_projection_lag_seconds_bucket")
    }
    total = buckets[float("inf")]
    result: dict[str, Any] = {"events": sent, "events_per_second": round((sent - BATCH) / seconds)}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        bound = min(edge for edge, count in buckets.items() if count >= share * total)
        result[f"lag_{name}_at_most_ms"] = round(bound * 1000)
    return result


async def rebuild(here: Place, events: int) -> dict[str, Any]:
    async with store_of(here) as store:
        await put(store, Producer(), events)
        before = await checksum(here)
        here.postgres.ask("TRUNCATE arqonbus.episodes", here.database)
        began, after, episodes = time.perf_counter(), Subject(), 0
        while True:
            step = await store.reproject(Selection(), after, 2000, rebuild=True, dry_run=False)
            episodes += step.episodes
            seconds = time.perf_counter() - began
            print(f"\r  {episodes} episodes, {episodes / seconds:.0f}/s", end="", file=sys.stderr)
            if step.next is None:
                break
            after = step.next
        print(file=sys.stderr)
        return {
            "events": events,
            "episodes": episodes,
            "seconds": round(seconds, 1),
            "events_per_second": round(events / seconds),
            "identical": await checksum(here) == before,
        }


async def checksum(here: Place) -> str:
    text = "md5(string_agg(episodes::text, '' ORDER BY tenant_id, agent_id, episode_id))"
    return here.postgres.ask(f"SELECT {text} FROM arqonbus.episodes", here.database)


async def put(store: PostgresProjection, producer: Producer, count: int) -> None:
    """Events directly into the store, two batches at a time."""

    async def some(batches: int) -> None:
        for _ in range(batches):
            origin = Origin(ROOM, "epoch", 1, time.time_ns() // 1000)
            await store.project([Arrival(each, origin) for each in producer.events(1000)], ())

    batches = max(1, count // 1000)
    await asyncio.gather(some(batches // 2), some(batches - batches // 2))


async def growth(here: Place, most: int) -> list[dict[str, Any]]:
    """The CPU that Postgres takes for 20 000 events, at ever more rows."""
    measured: list[dict[str, Any]] = []
    async with store_of(here) as store:
        producer, rows = Producer(), 0
        size = 10_000
        while size <= most:
            await put(store, producer, size - rows - 20_000)
            rows = max(rows, size - 20_000)
            here.postgres.ask("CHECKPOINT", here.database)
            here.postgres.ask("VACUUM ANALYZE", here.database)
            samples = []
            for _ in range(3):
                cpu = here.cpu()
                await put(store, producer, 20_000)
                rows += 20_000
                samples.append((here.cpu() - cpu) / 20_000 * 1e6)
            measured.append({"rows": rows, "cpu_us_per_event": round(sorted(samples)[1], 1)})
            print(f"  {measured[-1]}", file=sys.stderr)
            size *= 10
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("case", choices=("throughput", "lag", "rebuild", "growth"))
    parser.add_argument("--events", type=int)
    parser.add_argument("--rate", type=float, default=5000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--most", type=int, default=10_000_000)
    args = parser.parse_args()
    with place() as here:
        match args.case:
            case "throughput":
                result: Any = asyncio.run(throughput(here, args.events or 400_000))
            case "lag":
                result = asyncio.run(lag(here, args.rate, args.seconds))
            case "rebuild":
                result = asyncio.run(rebuild(here, args.events or 1_000_000))
            case _:
                result = asyncio.run(growth(here, args.most))
    print(json.dumps({args.case: result}))


if __name__ == "__main__":
    main()
