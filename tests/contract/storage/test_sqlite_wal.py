"""The write-ahead log is checkpointed beside the commits and stays bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

from arqonbus.storage.ports import Batch, Durability, Item, Retention, RoomKey
from arqonbus.storage.sqlite import wal as sqlite_wal
from arqonbus.storage.sqlite.log import SqliteLog
from tests.integration.waiting import until

from .conftest import Ear

ROOM = RoomKey("t", "room")


async def fill(log: SqliteLog, messages: int, *, begin: int = 0) -> None:
    for first in range(begin, begin + messages, 100):
        items = [Item(f"id-{number}", "", b"x" * 1000) for number in range(first, first + 100)]
        await log.append([Batch(ROOM, items, Retention(0, 0))])


async def test_pages_are_copied_before_the_writer_has_to(tmp_path: Path) -> None:
    """Into the file, while the log is a fraction of what makes the writer copy it."""
    path = tmp_path / "log.sqlite"
    log = SqliteLog(path, Durability.HOT)
    await log.open(Ear())
    try:
        before = path.stat().st_size
        await fill(log, sqlite_wal.ROWS // 2)
        assert path.stat().st_size == before
        await fill(log, sqlite_wal.ROWS, begin=sqlite_wal.ROWS)
        await until(lambda: path.stat().st_size > before + 1000 * sqlite_wal.ROWS // 2)
    finally:
        await log.close()


async def test_the_log_begins_anew_under_load(tmp_path: Path) -> None:
    """Messages for three times its bound, without a pause, and it stays at that bound."""
    path = tmp_path / "log.sqlite"
    log = SqliteLog(path, Durability.HOT)
    await log.open(Ear())
    try:
        await asyncio.gather(*(fill(log, 6_000, begin=part * 6_000) for part in range(8)))
        assert path.with_name(f"{path.name}-wal").stat().st_size < 32_000_000
        assert path.stat().st_size > 32_000_000
    finally:
        await log.close()
