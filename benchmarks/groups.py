"""How fast one consumer empties a room through a consumer group: read and ack in batches, one at a time.

`python benchmarks/groups.py [entries]` starts its own Valkey servers and works in a temporary directory.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arqonbus.storage.ports import (
    FROM_BEGIN,
    Batch,
    Durability,
    EventLog,
    GroupKey,
    Item,
    LogListener,
    Retention,
    RoomKey,
)
from arqonbus.storage.sqlite.log import SqliteLog
from arqonbus.storage.valkey.log import ValkeyLog
from tests.servers.valkey import running_server

ENTRY_BYTES = 350


async def measure(name: str, log: EventLog, entries: int, batch: int) -> None:
    await log.open(LogListener())
    assert log.groups is not None
    group = GroupKey(RoomKey("bench", "room"), "group")
    await log.groups.ensure(group, FROM_BEGIN, 0)
    data = os.urandom(ENTRY_BYTES)
    for begin in range(0, entries, 500):
        items = [Item(f"{number:026d}", "", data) for number in range(begin, begin + 500)]
        await log.append([Batch(group.room, items, Retention(0, 0))])  # type: ignore[misc]
    began, done, seconds = time.perf_counter(), 0, []
    while done < entries:
        at = time.perf_counter()
        given = await log.groups.read(group, "worker", batch, 30_000_000, 1 << 30)
        done += await log.groups.ack(group, given.epoch, [job.entry.sequence for job in given.jobs])
        seconds.append(time.perf_counter() - at)
    rate = entries / (time.perf_counter() - began)
    seconds.sort()
    median, late = (seconds[int(len(seconds) * share)] * 1000 for share in (0.5, 0.99))
    print(
        f"{name:32} batch {batch:4} {rate:10,.0f}/s   p50 {median:6.2f} ms   p99 {late:6.2f} ms", flush=True
    )
    await log.close()


async def main(entries: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for durability in (Durability.HOT, Durability.DURABLE):
            path = Path(directory) / f"{durability.name}.sqlite"
            await measure(f"sqlite {durability.name.lower()}", SqliteLog(path, durability), entries, 500)
        for flush in ("always", "everysec"):
            for batch in (500, 100):
                place = Path(directory) / f"{flush}-{batch}"
                with running_server(place, "--appendfsync", flush) as server:
                    log = ValkeyLog([server.url], node_id="bench")
                    await measure(f"valkey appendfsync {flush}", log, entries, batch)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
