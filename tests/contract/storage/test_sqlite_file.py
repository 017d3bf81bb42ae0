"""The SQLite log's file: kills, damage, a second process, other schemas."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from arqonbus.storage.ports import FROM_BEGIN, Durability, GroupKey, Retention, RoomKey, StorageError
from arqonbus.storage.sqlite.log import SqliteLog
from arqonbus.storage.sqlite.schema import LOG

from .conftest import ROOT, Ear, append, ids_in

_CHILD = """
import asyncio, sys
from arqonbus.storage.ports import Batch, Durability, Item, Retention, RoomKey
from arqonbus.storage.sqlite.log import SqliteLog

async def publish(log, room, worker):
    number = 0
    while True:
        ids = [f"{worker}-{number:06d}-{index}" for index in range(3)]
        batch = Batch(room, [Item(id_, "", id_.encode()) for id_ in ids], Retention(0, 0))
        (outcome,) = await log.append([batch])
        for id_, sequence in zip(ids, outcome.sequences):
            print(id_, sequence, flush=True)
        number += 1

async def main():
    log = SqliteLog(sys.argv[1], Durability[sys.argv[2]])
    await log.open(None)
    await asyncio.gather(*(publish(log, RoomKey("t", "room"), worker) for worker in range(8)))

asyncio.run(main())
"""


def _acked_before_kill(path: Path, durability: Durability, quantity: int) -> dict[str, int]:
    """Run a publisher until it printed so many acknowledged ids, kill it, and give all that it printed."""
    command = [sys.executable, "-c", _CHILD, str(path), durability.name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(quantity)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return {line.split()[0]: int(line.split()[1]) for line in lines if line.endswith("\n")}


@pytest.mark.parametrize("durability", [Durability.HOT, Durability.DURABLE])
async def test_kill_9(tmp_path: Path, durability: Durability) -> None:
    """After SIGKILL every acknowledged id is readable once, at its number, and numbers have no gap."""
    path = tmp_path / "log.sqlite"
    for kill in range(3):
        acked = await asyncio.to_thread(_acked_before_kill, path, durability, 300 * (kill + 1))
        assert len(acked) >= 300
        log = SqliteLog(path)
        await log.open(Ear())
        held = (await log.read(RoomKey("t", "room"), 0, 0, 1_000_000)).entries
        await log.close()
        assert [entry.sequence for entry in held] == list(range(1, len(held) + 1))
        numbers = {entry.id: entry.sequence for entry in held}
        assert len(numbers) == len(held)
        assert acked.items() <= numbers.items()


async def test_second_log_on_one_file(tmp_path: Path) -> None:
    """A file that a bus has open is refused to another, and free again once it is closed."""
    path = tmp_path / "log.sqlite"
    first, second = SqliteLog(path), SqliteLog(path)
    await first.open(Ear())
    with pytest.raises(StorageError, match="is in use by another process"):
        await second.open(Ear())
    await first.close()
    await second.open(Ear())
    await second.close()


@pytest.mark.parametrize("damage", ["no sqlite at all", "middle overwritten"])
async def test_damaged_file(tmp_path: Path, damage: str) -> None:
    """A damaged file is refused with a sentence, and not changed."""
    path = tmp_path / "log.sqlite"
    log = SqliteLog(path)
    await log.open(Ear())
    await append(log, RoomKey("t", "room"), *(f"id-{number}" for number in range(2000)))
    await log.close()
    content = bytearray(path.read_bytes())
    if damage == "no sqlite at all":
        content = bytearray(b"this is a text file\n" * 500)
    else:
        content[8192 : len(content) - 8192] = b"\xa5" * (len(content) - 16384)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged or no SQLite file"):
        await SqliteLog(path).open(Ear())
    assert path.read_bytes() == content


async def test_newer_schema(tmp_path: Path) -> None:
    """A file of a newer release is refused with both schema numbers."""
    path = tmp_path / "log.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {LOG.version + 1}")
    connection.close()
    with pytest.raises(StorageError, match=f"has schema {LOG.version + 1}, and this release knows up to"):
        await SqliteLog(path).open(Ear())


_VERSION_1 = """
CREATE TABLE rooms (number INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, room TEXT NOT NULL,
    epoch TEXT NOT NULL DEFAULT '', first INTEGER NOT NULL DEFAULT 1, last INTEGER NOT NULL DEFAULT 0,
    time_us INTEGER NOT NULL DEFAULT 0, UNIQUE (tenant, room)) STRICT;
CREATE TABLE entries (number INTEGER NOT NULL, sequence INTEGER NOT NULL, time_us INTEGER NOT NULL,
    id TEXT NOT NULL, channel TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (number, sequence))
    STRICT, WITHOUT ROWID;
CREATE TABLE ids (number INTEGER NOT NULL, sequence INTEGER NOT NULL, time_us INTEGER NOT NULL,
    id TEXT NOT NULL, PRIMARY KEY (number, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE probes (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO rooms VALUES (1, 't', 'room', '01JD0000000000000000000000', 2, 3, 1700000000000003);
INSERT INTO entries VALUES (1, 2, 1700000000000002, 'b', '', x'62'), (1, 3, 1700000000000003, 'c', '', x'63');
PRAGMA user_version = 1;
"""


async def test_file_of_version_1(tmp_path: Path) -> None:
    """A file of the first schema is brought forward: its messages stay, and groups can be made in it."""
    path, room = tmp_path / "log.sqlite", RoomKey("t", "room")
    connection = sqlite3.connect(path)
    connection.executescript(_VERSION_1)
    connection.close()
    for _ in range(2):
        log = SqliteLog(path)
        await log.open(Ear())
        assert await log.head(room) == ("01JD0000000000000000000000", 2, 3)
        assert await ids_in(log, room) == ["b", "c"]
        assert list(await log.tenants_of("room", "", 10)) == ["t"]
        assert log.groups is not None
        await log.groups.ensure(GroupKey(room, "group"), FROM_BEGIN, 5)
        assert (await log.groups.state(GroupKey(room, "group"))).lag == 2
        await log.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (LOG.version,)
    connection.close()


async def test_directory_is_missing(tmp_path: Path) -> None:
    """A path in a directory that does not exist is refused with the path."""
    with pytest.raises(StorageError, match=r"missing/log\.sqlite cannot be opened"):
        await SqliteLog(tmp_path / "missing" / "log.sqlite").open(Ear())


async def test_before_open_and_after_close(tmp_path: Path) -> None:
    """A log that is not open refuses, as an outcome or an error, and never hangs."""
    log, room = SqliteLog(tmp_path / "log.sqlite"), RoomKey("t", "room")
    with pytest.raises(AssertionError, match="not open"):
        await append(log, room, "a")
    with pytest.raises(StorageError, match="not open"):
        await log.head(room)
    await log.open(Ear())
    await log.close()
    with pytest.raises(StorageError, match="not open"):
        await log.create_room(room)


async def test_write_failure(tmp_path: Path) -> None:
    """A write that SQLite refuses is an outcome; nothing of it is stored, and the log goes on."""
    path, room = tmp_path / "log.sqlite", RoomKey("t", "room")
    log = SqliteLog(path)
    await log.open(Ear())
    await append(log, room, "a")
    log._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(AssertionError, match="could not write"):
        await append(log, room, *(f"id-{number}" for number in range(5000)))
    log._connection.execute("PRAGMA max_page_count = 1000000")
    stored = await append(log, room, "id-0", "a")
    assert (list(stored.sequences), stored.duplicates) == ([2, 1], {1})
    assert await ids_in(log, room) == ["a", "id-0"]
    await log.close()


async def test_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    """What retention trimmed is deleted from the file, ids after the dedup window too."""
    path, room = tmp_path / "log.sqlite", RoomKey("t", "room")
    log = SqliteLog(path, dedup_seconds=120, dedup_max=1000)
    await log.open(Ear())
    for start in range(0, 20_000, 200):
        ids = [f"id-{number}" for number in range(start, start + 200)]
        await append(log, room, *ids, retention=Retention(100, 0))
    await log.close()
    connection = sqlite3.connect(path)
    entries = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
    ids = connection.execute("SELECT count(*) FROM ids").fetchone()[0]
    connection.close()
    assert 100 <= entries < 1000
    assert ids < 2000
