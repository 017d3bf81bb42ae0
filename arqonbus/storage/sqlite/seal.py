"""Whether an SQLite log is the file that was closed last, with all that it had.

The seal stands beside the log: the life that the log is in, which its header has too, on which boot of the
host, and whether it was closed. Each opening and each closing begins a new life. A copy that was put back is
in another one, and a log that was open when its host went down lacks what was not flushed: rooms go on in new
epochs.
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
    """`lives`: those that the file may be in, two while it moves from one to the next."""

    lives: tuple[int, ...]
    boot: str
    flushes: bool
    closed: bool


def break_seal(connection: sqlite3.Connection, path: Path, durability: Durability) -> str:
    """Begin a life of the log, and new epochs where it may lack something: why, or an empty string.

    Raises sqlite3.Error or OSError.
    """
    reason = _doubt(_life(connection), _read(path), _boot())
    if reason:
        rooms = begin_epochs(connection)
        logger.warning("rooms go on in new epochs: %s", reason, extra={"path": str(path), "rooms": rooms})
    _move(connection, path, flushes=durability is Durability.DURABLE, closed=False)
    return reason


def seal(path: Path, durability: Durability) -> None:
    """End the life of a log that is closed and has all that it had."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        _move(connection, path, flushes=durability is Durability.DURABLE, closed=True)


def begin_epochs(connection: sqlite3.Connection) -> int:
    """Let every room go on in a new epoch, and its consumer groups with it; how many rooms."""
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
        return "the log came without its seal" if life else ""
    if life not in kept.lives:
        return "the log is not the one that was closed last"
    if not kept.closed and not kept.flushes and kept.boot != boot:
        return "the host went down before everything was flushed"
    return ""


def _move(connection: sqlite3.Connection, path: Path, *, flushes: bool, closed: bool) -> None:
    """To another life. At any moment the seal names the one that the file is in."""
    life, fresh = _life(connection), secrets.randbelow(2**31 - 1) + 1
    _write(path, Seal((life, fresh), _boot(), flushes, closed))
    connection.execute(f"PRAGMA application_id = {fresh}")
    _write(path, Seal((fresh,), _boot(), flushes, closed))


def _life(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA application_id").fetchone()[0])


def _boot() -> str:
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:  # not Linux: nothing is known of boots
        return ""


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal")


def _read(path: Path) -> Seal | None:
    """None if there is none, or if it is not one."""
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
