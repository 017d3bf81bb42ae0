"""Checkpoints of an SQLite file: a sound copy beside it, kept fresh, and the way back to it.

A copy is written to `<file>.checkpoint.new`, checked, flushed to disk and renamed, so `<file>.checkpoint` is
whole at any moment. Going back keeps what was damaged, under a name of its own: it is the evidence.
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

PAGES = 256  # copied at a time; writers go on in between
PAUSE = 0.002  # seconds between them

_BESIDE = ("", "-wal", "-shm")


class Recovered(NamedTuple):
    """What going back did. `rooms`: how many hold what the checkpoint held, each in a new epoch."""

    taken_at: datetime
    rooms: int
    messages: int
    evidence: Path


def write_checkpoint(path: Path) -> None:
    """Copy the file as it is now, beside whoever writes it. Raises StorageError; the old copy stays then."""
    copy, new = checkpoint_of(path), path.with_name(f"{path.name}.checkpoint.new")
    try:
        new.unlink(missing_ok=True)
        with closing(_read_only(path)) as source, closing(sqlite3.connect(new)) as target:
            source.backup(target, pages=PAGES, sleep=PAUSE)
            verdict = target.execute("PRAGMA quick_check(1)").fetchone()[0]
            target.execute("PRAGMA journal_mode = DELETE")  # one file is all there is of it
        if verdict != "ok":
            raise StorageError(
                f"The checkpoint of {path} would be damaged ({verdict}); the one before stays."
            )
        _flush(new)
        new.replace(copy)
        _flush(path.parent)
    except (OSError, sqlite3.Error) as error:
        new.unlink(missing_ok=True)
        raise StorageError(
            f"No checkpoint of {path} could be taken: {error}. The one before stays."
        ) from error


def go_back(path: Path) -> Recovered:
    """Put the last checkpoint in the place of the log, in new epochs: what came after it is not pretended.

    The log's own files stay beside it with `.damaged-<time>` behind their names. Raises StorageError when the
    log is in use, or there is no sound checkpoint; nothing is changed then.
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
    """A copy of the checkpoint whose rooms are in new epochs; how many rooms and messages it holds."""
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
