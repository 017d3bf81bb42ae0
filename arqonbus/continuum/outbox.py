"""Continuum's outbox, read and never written: events in SQLite that wait to be told to the bus.

Its schema is one table, which Continuum fills in the transaction of its own write (with triggers, say):

    CREATE TABLE continuum_outbox (
        position INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, ascending in the order of commits
        event    TEXT NOT NULL                       -- the event, as JSON: the contract's fields and payload
    );

Rows may be deleted once they are exported: `Cursor` is the file that says how far that is.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from arqonbus.protocol.ids import is_message_id

TABLE = "continuum_outbox"


class OutboxError(Exception):
    """The outbox or its cursor cannot be gone on from; the message is a sentence."""


class Record(NamedTuple):
    """One row. `id` is the event's where it has a valid one, so that the bus knows a repetition."""

    position: int
    id: str
    event: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Progress of the export: the position and the event there. 0: nothing was exported."""

    position: int = 0
    id: str = ""


class Outbox:
    """A reader of one outbox. Its connection is read-only and holds locks only briefly."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise OutboxError(f"There is no outbox at {path}; name the SQLite file of Continuum.")
        self._path = path
        uri = f"{path.absolute().as_uri()}?mode=ro"
        try:
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA busy_timeout = 2000")
            self._connection.execute(f"SELECT position, event FROM {TABLE} LIMIT 0")  # noqa: S608
        except sqlite3.Error as error:
            raise OutboxError(
                f"{path} has no table {TABLE} with position and event ({error}); "
                "make it as docs/reference/outbox.md says."
            ) from error

    def close(self) -> None:
        self._connection.close()

    def after(self, position: int, limit: int) -> Sequence[Record]:
        """The next rows, oldest first. Raises OutboxError when the file cannot be read."""
        try:
            rows = self._connection.execute(
                f"SELECT position, event FROM {TABLE} WHERE position > ? ORDER BY position LIMIT ?",  # noqa: S608
                (position, limit),
            ).fetchall()
        except sqlite3.Error as error:
            raise OutboxError(f"{self._path} cannot be read: {error}") from error
        return [_record(*row) for row in rows]

    def waiting(self, position: int) -> int:
        """Number of rows after a position."""
        (count,) = self._connection.execute(
            f"SELECT count(*) FROM {TABLE} WHERE position > ?",  # noqa: S608
            (position,),
        ).fetchone()
        return int(count)

    def check(self, place: Place) -> None:
        """Raise OutboxError if this is another outbox than the one that the place was in."""
        if not place.position:
            return
        found = self._connection.execute(
            f"SELECT position, event FROM {TABLE} WHERE position = ?",  # noqa: S608
            (place.position,),
        ).fetchone()
        (last,) = self._connection.execute(
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = ?), 0)", (TABLE,)
        ).fetchone()
        if last < place.position or (found is not None and _record(*found).id != place.id):
            raise OutboxError(
                f"The outbox {self._path} is not the one that was exported up to position {place.position}: "
                "it was created again, or restored from a backup. Export it from its beginning with "
                "--from-begin; what the projection has already is known there, and changes nothing."
            )


class Cursor:
    """The file that says how far the export is. Written as a whole and flushed, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Place:
        """The place, at the beginning where there is no file. Raises OutboxError for a file that is none."""
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            return Place()
        except (OSError, UnicodeDecodeError) as error:
            raise OutboxError(f"The cursor {self._path} cannot be read: {error}") from error
        try:
            data = json.loads(text)
            return Place(int(data["position"]), str(data["id"]))
        except (ValueError, KeyError, TypeError) as error:
            raise OutboxError(
                f"The cursor {self._path} is damaged; delete it to export from the beginning."
            ) from error

    def write(self, place: Place) -> None:
        """Keep the place. Raises OSError."""
        fresh = self._path.with_name(self._path.name + ".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({"position": place.position, "id": place.id}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


def _record(position: int, event: object) -> Record:
    raw = event if isinstance(event, bytes) else str(event).encode("utf-8", "surrogateescape")
    try:
        id = json.loads(raw)["event_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        id = ""
    return Record(position, id if isinstance(id, str) and is_message_id(id) else "", raw)


__all__ = ["TABLE", "Cursor", "Outbox", "OutboxError", "Place", "Record"]
