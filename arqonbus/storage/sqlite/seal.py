"""Seal of an SQLite log: detects a restored copy, and a log that may have lost unflushed commits.

The seal is a file beside the log. It holds the log's life (a random number, also in the log's header), the
boot id of the host, and whether the log was closed. Each opening and each closing begins a new life. A
restored copy has another life; a log that was open when the host went down may lack unflushed commits. In
both cases all rooms continue in new epochs.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from arqonbus.protocol.ids import ulid_after
from arqonbus.storage.ports import Durability

_BOOT = Path("/proc/sys/kernel/random/boot_id")

logger = logging.getLogger(__name__)


class Seal(NamedTuple):
    """Contents of a seal. `lives`: the lives that the file may have, two while it changes."""

    lives: tuple[int, ...]
    boot: str
    flushes: bool
    closed: bool


def break_seal(connection: sqlite3.Connection, path: Path, durability: Durability) -> str:
    """Begin a new life of the log, and new epochs if it may lack messages. Returns the reason, or "".

    Raises sqlite3.Error or OSError.
    """
    reason = _doubt(_life(connection), _read(path), _boot())
    if reason:
        rooms = begin_epochs(connection)
        logger.warning("rooms continue in new epochs: %s", reason, extra={"path": str(path), "rooms": rooms})
    _move(connection, path, flushes=durability is Durability.DURABLE, closed=False)
    return reason


def seal(path: Path, durability: Durability) -> None:
    """Seal a closed log that is complete."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        _move(connection, path, flushes=durability is Durability.DURABLE, closed=True)


def begin_epochs(connection: sqlite3.Connection) -> int:
    """Continue every room and its consumer groups in a new epoch. Returns the number of rooms."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        rooms = connection.execute(
            "SELECT number, tenant, room, epoch FROM rooms WHERE epoch <> ''"
        ).fetchall()
        for number, tenant, room, epoch in rooms:
            fresh = ulid_after(epoch)
            connection.execute("UPDATE rooms SET epoch = ? WHERE number = ?", (fresh, number))
            connection.execute(
                "UPDATE groups SET epoch = ? WHERE tenant = ? AND room = ? AND epoch = ?",
                (fresh, tenant, room, epoch),
            )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return len(rooms)


def _doubt(life: int, kept: Seal | None, boot: str) -> str:
    if kept is None:
        return "the log has no seal" if life else ""
    if life not in kept.lives:
        return "the log is not the one that was closed last"
    if not kept.closed and not kept.flushes and kept.boot != boot:
        return "the host went down before everything was flushed"
    return ""


def _move(connection: sqlite3.Connection, path: Path, *, flushes: bool, closed: bool) -> None:
    """Change to a new life. The seal names the file's life at any moment."""
    life, fresh = _life(connection), secrets.randbelow(2**31 - 1) + 1
    _write(path, Seal((life, fresh), _boot(), flushes, closed))
    connection.execute(f"PRAGMA application_id = {fresh}")
    _write(path, Seal((fresh,), _boot(), flushes, closed))


def _life(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA application_id").fetchone()[0])


def _boot() -> str:
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:  # not Linux: no boot id
        return ""


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal")


def _read(path: Path) -> Seal | None:
    """The seal; None if missing, one without lives if unreadable."""
    try:
        kept = json.loads(_seal_of(path).read_text("utf-8"))
        return Seal(
            tuple(map(int, kept["lives"])), str(kept["boot"]), kept["flushes"] is True, kept["closed"] is True
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return Seal((), "", flushes=False, closed=False)


def _write(path: Path, kept: Seal) -> None:
    target = _seal_of(path)
    new = target.with_name(target.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(kept._asdict(), file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(target)


__all__ = ["begin_epochs", "break_seal", "seal"]
