"""Opening of SQLite files (pragmas, version, integrity check), and the tables of the log. No room logic.

A file of a newer schema, a damaged file and a log in use by another process are refused with StorageError;
nothing is repaired or downgraded here.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from arqonbus.storage.ports import Durability, StorageError


class Layout(NamedTuple):
    """Schema of a file: its name for messages, and the statements that each version adds."""

    name: str
    steps: Sequence[str]

    @property
    def version(self) -> int:
        """The newest version, to which files are upgraded."""
        return len(self.steps)


# The statements that each version adds; a file is upgraded step by step. 1: `entries` is clustered by room
# and sequence: an append writes at the end of one tree, a read is one range. `ids` keeps, for the dedup
# window, the ids of messages whose entries were trimmed. 2: `jobs` are delivered and not acknowledged; an
# empty consumer means nacked. A group outlives its room, so it refers to the room by name, not by number.
_STEPS = (
    """
CREATE TABLE rooms (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant   TEXT NOT NULL,
    room     TEXT NOT NULL,
    epoch    TEXT NOT NULL DEFAULT '',
    first    INTEGER NOT NULL DEFAULT 1,
    last     INTEGER NOT NULL DEFAULT 0,
    time_us  INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant, room)
) STRICT;
CREATE TABLE entries (
    number   INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    time_us  INTEGER NOT NULL,
    id       TEXT NOT NULL,
    channel  TEXT NOT NULL,
    data     BLOB NOT NULL,
    PRIMARY KEY (number, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE ids (
    number   INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    time_us  INTEGER NOT NULL,
    id       TEXT NOT NULL,
    PRIMARY KEY (number, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE probes (
    name     TEXT PRIMARY KEY,
    value    BLOB NOT NULL
) STRICT, WITHOUT ROWID;
""",
    """
CREATE INDEX rooms_by_name ON rooms (room, tenant);
CREATE TABLE groups (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant   TEXT NOT NULL,
    room     TEXT NOT NULL,
    name     TEXT NOT NULL,
    epoch    TEXT NOT NULL,
    given    INTEGER NOT NULL,
    pending  INTEGER NOT NULL DEFAULT 0,
    missed   INTEGER NOT NULL DEFAULT 0,
    most     INTEGER NOT NULL,
    UNIQUE (tenant, room, name)
) STRICT;
CREATE TABLE jobs (
    number       INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    consumer     TEXT NOT NULL,
    deliveries   INTEGER NOT NULL,
    delivered_us INTEGER NOT NULL,
    due_us       INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    PRIMARY KEY (number, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_by_due ON jobs (number, due_us, sequence);
""",
)
LOG = Layout("SQLite log", _STEPS)


class FileLock:
    """Lock on `<file>.lock`, so that only one process writes the log."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(
            path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StorageError(
                f"The SQLite log {path} is in use by another process; one file serves one bus. "
                "Stop the other one or give this one its own storage.sqlite.path."
            ) from None

    def release(self) -> None:
        """Release the lock. The lock file itself stays: removing it would race."""
        os.close(self._descriptor)


def open_writer(path: Path, durability: Durability, layout: Layout = LOG) -> sqlite3.Connection:
    """Open the writing connection and upgrade the schema. Raises StorageError for an unusable file."""
    connection = None
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability is Durability.DURABLE else 'NORMAL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA cache_size = -32768")
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StorageError(_damaged(path, verdict, layout))
        _ensure_schema(connection, path, layout)
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(
                f"The {layout.name} {path} cannot be opened: {error}. Check the path and rights."
            ) from error
        raise StorageError(_damaged(path, str(error), layout)) from error
    except StorageError:
        if connection is not None:
            connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a read-only connection beside the writer."""
    uri = path.absolute().as_uri() + "?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def _ensure_schema(connection: sqlite3.Connection, path: Path, layout: Layout) -> None:
    if _version(connection) == layout.version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)  # again: another process may have upgraded meanwhile
        if version > layout.version:
            raise StorageError(
                f"The {layout.name} {path} has schema {version}, and this release knows up to "
                f"{layout.version}. Run the release that wrote it, or a newer one."
            )
        for statement in _statements("".join(layout.steps[version:])):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {layout.version}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements, because sqlite3 commits before it runs a script."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def checkpoint_of(path: Path) -> Path:
    """Path of the last checkpoint of a log."""
    return path.with_name(f"{path.name}.checkpoint")


def _damaged(path: Path, reason: str, layout: Layout) -> str:
    remedy = "Restore it from a backup, or move it away to begin with an empty one."
    copy = checkpoint_of(path)
    if layout is LOG and copy.exists():
        taken = datetime.fromtimestamp(copy.stat().st_mtime, UTC)
        remedy = (
            f"Its last checkpoint is of {taken:%Y-%m-%d %H:%M:%S} UTC: `arqonbus recover` restores it "
            "and keeps the damaged file."
        )
    found = " ".join(reason.split())
    return f"The {layout.name} {path} is damaged or no SQLite file ({found}). Nothing was changed. {remedy}"


__all__ = ["LOG", "FileLock", "Layout", "checkpoint_of", "open_reader", "open_writer"]
