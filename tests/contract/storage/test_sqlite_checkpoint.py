"""Checkpoints of the SQLite log: taken under load, always complete, restored after damage."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arqonbus.cli import main
from arqonbus.storage.ports import RoomKey, StorageError
from arqonbus.storage.sqlite.checkpoint import go_back, write_checkpoint
from arqonbus.storage.sqlite.log import SqliteLog

from .conftest import ROOT, Ear, append, ids_in

ROOM = RoomKey("t", "room")


async def opened(path: Path, **options: float) -> SqliteLog:
    log = SqliteLog(path, **options)
    await log.open(Ear())
    return log


def damage(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xa5" * 8192
    path.write_bytes(content)
    return bytes(content)


async def test_back_to_the_last_checkpoint(tmp_path: Path) -> None:
    """What it held is there, what came later is not, no epoch goes on, and the damaged file is kept."""
    path = tmp_path / "log.sqlite"
    log = await opened(path)
    before = await append(log, ROOM, "a", "b")
    write_checkpoint(path)
    await append(log, ROOM, "c")
    await log.close()
    damaged = damage(path)
    with pytest.raises(StorageError, match=r"is damaged.*`arqonbus recover` restores it"):
        await opened(path)

    done = go_back(path)
    assert (done.rooms, done.messages) == (1, 2)
    assert done.evidence.read_bytes() == damaged
    log = await opened(path)
    assert await ids_in(log, ROOM) == ["a", "b"]
    after = await append(log, ROOM, "c", "a")
    assert after.epoch != before.epoch
    assert (list(after.sequences), after.duplicates) == ([3, 1], {1})
    await log.close()


async def test_checkpoints_are_taken_beside_the_writer(tmp_path: Path) -> None:
    """Over and over, while messages are stored; each holds what was acked before it began."""
    path = tmp_path / "log.sqlite"
    log = await opened(path, checkpoint_seconds=0.05)
    copy = tmp_path / "log.sqlite.checkpoint"
    seen: set[int] = set()
    number = 0
    async with asyncio.timeout(60):
        while len(seen) < 3:
            await append(log, ROOM, *(f"{number}-{n}" for n in range(50)))
            number += 1
            if copy.exists():
                seen.add(copy.stat().st_mtime_ns)
    await log.close()
    done = go_back(path)
    log = await opened(path)
    held = await ids_in(log, ROOM)
    await log.close()
    assert len(held) == done.messages > 0
    assert held == [f"{n}-{m}" for n in range(number) for m in range(50)][: len(held)]


_KILLED = """
import sys
from pathlib import Path
from arqonbus.storage.sqlite import checkpoint as sqlite_checkpoint
sqlite_checkpoint.PAGES = 1
path = Path(sys.argv[1])
print("begun", flush=True)
while True:
    sqlite_checkpoint.write_checkpoint(path)
"""


async def test_a_kill_in_the_middle_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """Whenever it comes."""
    path = tmp_path / "log.sqlite"
    log = await opened(path)
    for number in range(10):
        await append(log, ROOM, *(f"{number}-{n}" for n in range(200)))
    write_checkpoint(path)
    for milliseconds in (1, 20, 60, 120, 250):
        command = [sys.executable, "-c", _KILLED, str(path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        assert await child.stdout.readline() == b"begun\n"
        await asyncio.sleep(milliseconds / 1000)
        child.kill()
        await child.wait()
    await log.close()
    assert go_back(path).messages == 2000


async def test_refused_without_changing_anything(tmp_path: Path) -> None:
    """No checkpoint, a checkpoint that is damaged itself, and a log that is in use."""
    path = tmp_path / "log.sqlite"
    log = await opened(path)
    await append(log, ROOM, *(f"id-{n}" for n in range(500)))
    with pytest.raises(StorageError, match="in use by another process"):
        go_back(path)
    write_checkpoint(path)
    await log.close()
    copy = tmp_path / "log.sqlite.checkpoint"
    damage(copy)
    content = path.read_bytes()
    with pytest.raises(StorageError, match="Nothing was changed"):
        go_back(path)
    copy.unlink()
    with pytest.raises(StorageError, match="There is no checkpoint"):
        go_back(path)
    assert path.read_bytes() == content


async def test_recover_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it went back to and where the evidence is; a bus without SQLite has nothing to recover."""
    path = tmp_path / "arqonbus.sqlite"
    log = await opened(path)
    await append(log, ROOM, "a")
    await log.close()
    write_checkpoint(path)
    options = ["--profile", "dev", "--set", f"state_dir={tmp_path}"]
    assert main(["recover", *options, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rooms"], facts["messages"]) == (1, 1)
    assert facts["evidence"].startswith(f"{path}.damaged-")
    assert main(["recover", *options, "--set", "storage.backend=memory"]) == 1
    assert "which has no checkpoints" in capsys.readouterr().err
