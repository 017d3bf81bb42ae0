"""The seal of the SQLite log: copies put back and crashed hosts begin new epochs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from arqonbus.storage.ports import FROM_BEGIN, Durability, GroupKey, RoomKey
from arqonbus.storage.sqlite.log import SqliteLog

from .conftest import Ear, append, ids_in

ROOM = RoomKey("t", "room")
GROUP = GroupKey(ROOM, "workers")


async def opened(path: Path, durability: Durability = Durability.HOT) -> SqliteLog:
    log = SqliteLog(path, durability)
    await log.open(Ear())
    return log


def copied(source: Path, target: Path) -> Path:
    """The log's own files, as somebody copies them who knows of nothing else."""
    target.mkdir()
    for suffix in ("", "-wal"):
        file = source.with_name(source.name + suffix)
        if file.exists():
            shutil.copy(file, target / file.name)
    return target


def put_back(copy: Path, path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    for file in copy.iterdir():
        shutil.copy(file, path.parent / file.name)


async def test_a_restart_keeps_the_epochs(tmp_path: Path) -> None:
    """Closed and opened as often as one likes."""
    log = await opened(tmp_path / "log.sqlite")
    before = await append(log, ROOM, "a")
    for number in range(3):
        await log.close()
        log = await opened(tmp_path / "log.sqlite")
        assert (await append(log, ROOM, f"b{number}")).epoch == before.epoch
    await log.close()


@pytest.mark.parametrize("taken", ["while it was open", "while it was closed"])
async def test_an_older_copy_begins_new_epochs(tmp_path: Path, taken: str) -> None:
    """Positions of before are not answered by it; its numbers, ids and groups go on."""
    path = tmp_path / "log.sqlite"
    log = await opened(path)
    assert log.groups is not None
    before = await append(log, ROOM, "a", "b")
    await log.groups.ensure(GROUP, FROM_BEGIN, 0)
    given = await log.groups.read(GROUP, "ann", 1, 60_000_000, 1 << 20)
    await log.groups.ack(GROUP, given.epoch, [1])
    if taken == "while it was closed":
        await log.close()
    copy = copied(path, tmp_path / "copy")
    if taken == "while it was closed":
        log = await opened(path)
    await append(log, ROOM, "c")
    await log.close()
    put_back(copy, path)

    log = await opened(path)
    assert log.groups is not None
    assert await ids_in(log, ROOM) == ["a", "b"]
    after = await append(log, ROOM, "d", "a")
    assert after.epoch > before.epoch
    assert (list(after.sequences), after.duplicates) == ([3, 1], {1})
    jobs = (await log.groups.read(GROUP, "ann", 10, 60_000_000, 1 << 20)).jobs
    assert [job.entry.id for job in jobs] == ["b", "d"]
    await log.close()


async def test_a_log_of_another_host(tmp_path: Path) -> None:
    """Moved without its seal, it is not believed."""
    path = tmp_path / "here" / "log.sqlite"
    path.parent.mkdir()
    log = await opened(path)
    before = await append(log, ROOM, "a")
    await log.close()
    put_back(copied(path, tmp_path / "copy"), tmp_path / "log.sqlite")
    there = await opened(tmp_path / "log.sqlite")
    assert (await append(there, ROOM, "b")).epoch > before.epoch
    await there.close()


@pytest.mark.parametrize("durability", [Durability.HOT, Durability.DURABLE])
async def test_a_host_that_went_down(tmp_path: Path, durability: Durability) -> None:
    """What hot promises does not outlive a power cut, and then nobody is told that it did."""
    path, crashed = tmp_path / "log.sqlite", tmp_path / "crashed"
    log = await opened(path, durability)
    before = await append(log, ROOM, "a", "b")
    copied(path, crashed)
    shutil.copy(tmp_path / "log.sqlite.seal", crashed)
    await log.close()
    put_back(crashed, path)
    seal = json.loads((tmp_path / "log.sqlite.seal").read_text())
    assert seal["closed"] is False
    (tmp_path / "log.sqlite.seal").write_text(json.dumps(seal | {"boot": "an earlier one"}))
    log = await opened(path, durability)
    after = await append(log, ROOM, "c")
    assert (after.epoch == before.epoch) is (durability is Durability.DURABLE)
    assert list(after.sequences) == [3]
    await log.close()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"lives": ["x"]}', b"0" * 100_000])
async def test_a_seal_that_is_none(tmp_path: Path, content: bytes) -> None:
    """It proves nothing, and the log opens all the same."""
    path = tmp_path / "log.sqlite"
    log = await opened(path)
    before = await append(log, ROOM, "a")
    await log.close()
    path.with_name("log.sqlite.seal").write_bytes(content)
    log = await opened(path)
    assert (await append(log, ROOM, "b")).epoch > before.epoch
    await log.close()
