"""Checkpoints of an SQLite log: verified copies beside it, and recovery from them.

A copy is written to `<file>.checkpoint.new`, checked, flushed to disk and renamed, so `<file>.checkpoint` is
always complete. Recovery keeps the damaged files under a new name, as evidence.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from arqonbus.storage.ports import StorageError
from arqonbus.storage.sqlite.schema import FileLock, checkpoint_of
from arqonbus.storage.sqlite.seal import begin_epochs

PAGES = 256  # copied at a time; writers continue in between
PAUSE = 0.002  # seconds between them

_BESIDE = ("", "-wal", "-shm")


class Recovered(NamedTuple):
    """Result of a recovery. `rooms`: number of recovered rooms, each in a new epoch."""

    taken_at: datetime
    rooms: int
    messages: int
    evidence: Path


def write_checkpoint(path: Path) -> None:
    """Copy the file while it may be written. Raises StorageError; the previous checkpoint is kept then."""
    copy, new = checkpoint_of(path), path.with_name(f"{path.name}.checkpoint.new")
    try:
        new.unlink(missing_ok=True)
        with closing(_read_only(path)) as source, closing(sqlite3.connect(new)) as target:
            source.backup(target, pages=PAGES, sleep=PAUSE)
            verdict = target.execute("PRAGMA quick_check(1)").fetchone()[0]
            target.execute("PRAGMA journal_mode = DELETE")  # a single file without a WAL
        if verdict != "ok":
            raise StorageError(
                f"The checkpoint of {path} would be damaged ({verdict}); the previous one is kept."
            )
        _flush(new)
        new.replace(copy)
        _flush(path.parent)
    except (OSError, sqlite3.Error) as error:
        new.unlink(missing_ok=True)
        raise StorageError(
            f"No checkpoint of {path} could be taken: {error}. The previous one is kept."
        ) from error


def go_back(path: Path) -> Recovered:
    """Replace the log by its last checkpoint, with all rooms in new epochs.

    The log's files are renamed with the suffix `.damaged-<time>`. Raises StorageError if the log is in use,
    or if there is no intact checkpoint; nothing is changed then.
    """
    copy = checkpoint_of(path)
    lock = FileLock(path)
    try:
        if not copy.exists():
            raise StorageError(
                f"There is no checkpoint {copy}. Nothing was changed; restore a backup instead."
            )
        taken_at = datetime.fromtimestamp(copy.stat().st_mtime, UTC)
        new = path.with_name(f"{path.name}.recovering")
        rooms, messages = _prepare(copy, new)
        evidence = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        for suffix in _BESIDE:
            file = path.with_name(path.name + suffix)
            if file.exists():
                file.rename(evidence.with_name(evidence.name + suffix))
        new.replace(path)
        _flush(path.parent)
        return Recovered(taken_at, rooms, messages, evidence)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"The checkpoint {copy} cannot be used: {error}. Nothing was changed.") from error
    finally:
        lock.release()


def _prepare(copy: Path, new: Path) -> tuple[int, int]:
    """Copy the checkpoint, with its rooms in new epochs. Returns its numbers of rooms and messages."""
    new.unlink(missing_ok=True)
    with closing(_read_only(copy)) as source, closing(sqlite3.connect(new, isolation_level=None)) as target:
        source.backup(target)
        verdict = target.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StorageError(f"The checkpoint {copy} is damaged too ({verdict}). Nothing was changed.")
        begin_epochs(target)
        (rooms,) = target.execute("SELECT count(*) FROM rooms").fetchone()
        (messages,) = target.execute("SELECT count(*) FROM entries").fetchone()
    _flush(new)
    return rooms, messages


def _read_only(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["Recovered", "go_back", "write_checkpoint"]
