"""The tables of the SQLite log, and how its file is opened: settings, version, soundness. No room logic.

A file of a newer schema, a damaged file and a file that another process holds are refused with a sentence;
nothing is ever repaired or migrated backwards here.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from arqonbus.storage.ports import Durability, StorageError

SCHEMA_VERSION = 1

# `entries` is clustered by room and sequence: an append touches the end of one tree, a read is one range.
# `ids` keeps, for the dedup window, the ids of messages whose entries are not held any more.
_SCHEMA = """
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
"""


class FileLock:
    """Holds `<file>.lock` for this process, so that no second one writes the same log."""

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
        """Let another process have the file. The lock file itself stays: removing it would race."""
        os.close(self._descriptor)


def open_writer(path: Path, durability: Durability) -> sqlite3.Connection:
    """The one writing connection, schema in place. Raises StorageError for a file that cannot be used."""
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
            raise StorageError(_damaged(path, verdict))
        _ensure_schema(connection, path)
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(
                f"The SQLite log {path} cannot be opened: {error}. Check the path and rights."
            ) from error
        raise StorageError(_damaged(path, str(error))) from error
    except StorageError:
        if connection is not None:
            connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, for reads beside the writer."""
    uri = path.absolute().as_uri() + "?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def _ensure_schema(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"The SQLite log {path} has schema {version}, and this release knows up to {SCHEMA_VERSION}. "
            "Run the release that wrote it, or a newer one."
        )
    if version == 0:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


def _damaged(path: Path, reason: str) -> str:
    return (
        f"The SQLite log {path} is damaged or no SQLite file ({reason}). Nothing was changed. "
        "Restore it from a backup, or move it away to begin with an empty log."
    )


__all__ = ["SCHEMA_VERSION", "FileLock", "open_reader", "open_writer"]
