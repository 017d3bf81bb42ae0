"""The file of the embedded projection: refusals and crash safety."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from arqonbus.storage.ports import StorageError
from arqonbus.storage.sqlite.projection import SqliteProjection
from arqonbus.storage.sqlite.projection_schema import LAYOUT
from tests.contract.projection.conftest import SqliteBench
from tests.contract.projection.records import arrivals, event, state, subject


async def test_what_was_projected_is_there_after_a_restart(sqlite: SqliteBench) -> None:
    """For a store that is opened later."""
    first = await sqlite.store()
    await first.project(arrivals(event(1)), [])
    await first.close()
    assert await (await sqlite.store()).episode(subject()) == state(event(1))


async def test_a_store_that_is_closed_refuses_with_a_sentence(sqlite: SqliteBench) -> None:
    """And can be closed twice."""
    store = await sqlite.store()
    await store.close()
    await store.close()
    for work in (store.project(arrivals(event(1)), []), store.counts(None)):
        with pytest.raises(StorageError, match="The projection is not open"):
            await work


async def test_a_file_of_a_newer_release_is_refused(sqlite: SqliteBench) -> None:
    """With both numbers, and unchanged."""
    await (await sqlite.store()).close()
    sqlite.tamper(f"PRAGMA user_version = {LAYOUT.version + 1}")
    with pytest.raises(StorageError, match=f"The SQLite projection .* has schema {LAYOUT.version + 1}"):
        await sqlite.store()
    connection = sqlite3.connect(sqlite.path)
    assert connection.execute("PRAGMA user_version").fetchone() == (LAYOUT.version + 1,)
    connection.close()


async def test_a_damaged_file_is_refused(sqlite: SqliteBench) -> None:
    """What is no database, and one with a page that was overwritten."""
    sqlite.path.write_bytes(b"these are no episodes" * 400)
    with pytest.raises(StorageError, match="is damaged or no SQLite file"):
        await sqlite.store()
    sqlite.path.unlink()
    store = await sqlite.store()
    await store.project(arrivals(*(event(n, n, episode=n) for n in range(400))), [])
    await store.close()
    with sqlite.path.open("r+b") as file:
        file.seek(4096 * 12)
        file.write(b"\xff" * 4096 * 8)
    with pytest.raises(StorageError, match=r"is damaged|did not return|could not"):
        await sqlite.store()


async def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """With the path in the sentence, until it can be made: the next call then finds it."""
    directory = tmp_path / "no-such-directory"
    store = SqliteProjection(directory / "projection.sqlite")
    for attempt in (store.open(), store.probe()):
        with pytest.raises(StorageError, match="no-such-directory"):
            await attempt
    directory.mkdir()
    await asyncio.gather(store.probe(), store.project(arrivals(event(1)), []))
    assert await store.episode(subject()) == state(event(1))
    await store.close()


async def test_the_audit_cannot_be_changed_by_mistake(sqlite: SqliteBench) -> None:
    """Triggers refuse it, even to a program that has the file."""
    store = await sqlite.store()
    await store.record("demo", "alice", "kick", {}, "ok")
    connection = sqlite3.connect(sqlite.path)
    for statement in ("UPDATE audit SET actor = 'mallory'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="the audit is append-only"):
            connection.execute(statement)
    connection.close()
