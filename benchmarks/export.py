"""How much memory the export of very many streams takes, in the bus and in the command that reads them.

python -m benchmarks.export [--streams 1000000] [--file /var/tmp/streams.sqlite]

Fills a SQLite log with streams of one message each (kept in --file, to be read again without filling it),
starts a bus over it and runs `arqonbus history 'stream-*' --all --json`. Prints the resident memory of both
at every tenth of the way; fails unless each stream comes once, in the order of names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from arqonbus.protocol import replies, wire_protobuf
from arqonbus.protocol.envelope import JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import Batch, Item, Retention, RoomKey
from arqonbus.storage.sqlite.log import SqliteLog
from tests.servers.bus import BusProcess

TENANT = "demo"  # that of the token
AT_ONCE = 1000


async def fill(path: Path, streams: int) -> None:
    """A message in each of the rooms stream-0000000, stream-0000001, …"""
    stamp = wire_protobuf.sender_stamp(TENANT, "publisher")
    log = SqliteLog(path, dedup_max=1)
    await log.open(lambda *_: None)
    try:
        for begin in range(0, streams, AT_ONCE):
            batches = []
            for number in range(begin, min(begin + AT_ONCE, streams)):
                envelope = Envelope(
                    id=new_ulid(),
                    kind=MESSAGE,
                    room=f"stream-{number:07}",
                    time_us=replies.now_us(),
                    content_type=JSON_CONTENT,
                    payload=json.dumps({"n": number}).encode(),
                )
                item = Item(envelope.id, "", envelope.SerializeToString() + stamp)
                batches.append(Batch(RoomKey(TENANT, envelope.room), [item], Retention(0, 0)))
            outcomes = await log.append(batches)
            failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            if failed:
                raise failed[0]
    finally:
        await log.close()


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def export(path: Path, streams: int) -> None:
    """Read all of it through a bus, and print what that took."""
    with tempfile.TemporaryDirectory() as directory:
        bus = BusProcess(
            Path(directory) / "bus",
            "storage.backend=sqlite",
            f"storage.sqlite.path={path}",
            "limits.messages_per_second=0",
        )
        began = time.monotonic()
        bus.start()
        print(f"the bus was up after {time.monotonic() - began:.1f} s", flush=True)
        try:
            read(bus, streams)
        finally:
            bus.stop()


def read(bus: BusProcess, streams: int) -> None:
    began, step = time.monotonic(), max(1, streams // 10)
    expected = 0
    with subprocess.Popen(
        [sys.executable, "-m", "arqonbus", "history", "stream-*", "--all", "--json", "--url", bus.url],
        env={**os.environ, "ARQONBUS_TOKEN": bus.token("bench", seconds=86_400)},
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        for line in reader.stdout:
            room = json.loads(line)["room"]
            if room != f"stream-{expected:07}":
                raise RuntimeError(f"stream-{expected:07} was expected, and {room} came")
            expected += 1
            if expected % step == 0:
                seconds = time.monotonic() - began
                print(
                    f"{expected:9,} streams   {seconds:7.1f} s   {expected / seconds:7,.0f}/s   command "
                    f"{resident_mib(reader.pid):6.1f} MiB   bus {resident_mib(bus.pid):6.1f} MiB",
                    flush=True,
                )
    if reader.returncode or expected != streams:
        raise RuntimeError(f"{expected} of {streams} streams came; exit code {reader.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--file", type=Path, help="where the log is kept; else it is gone afterwards")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        path = args.file or Path(directory) / "log.sqlite"
        if not path.exists():
            began = time.monotonic()
            asyncio.run(fill(path, args.streams))
            print(f"{args.streams:,} streams were written in {time.monotonic() - began:.0f} s", flush=True)
        export(path, args.streams)
    return 0


if __name__ == "__main__":
    sys.exit(main())
