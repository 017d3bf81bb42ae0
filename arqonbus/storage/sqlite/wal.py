"""Copies the write-ahead log of an SQLite file into the file itself, on a thread of its own.

Left to the writer, the copy of thousands of pages falls into one commit, and whoever waits for that commit
waits for the copy too. Here most pages are copied beside the commits, and the writer is left with the last
few, after which it begins the log anew. <https://sqlite.org/wal.html#avoiding_excessively_large_wal_files>
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

ROWS = 4000  # changed since the last copy: a few hundred pages


class WalCopier:
    """Started at once; the file has to be there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = 0
        self._due = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="arqonbus-sqlite-wal", daemon=True)
        self._thread.start()

    def committed(self, rows: int) -> None:
        """So many rows were changed by the writer since it opened the file. For the writer's thread."""
        if rows - self._rows >= ROWS:
            self._rows = rows
            self._due.set()

    def close(self) -> None:
        """Return when the file is no longer open here."""
        self._closed = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while self._is_due():
            # The writer meets the same disk, and has somebody to tell.
            with suppress(sqlite3.Error), closing(sqlite3.connect(self._path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _is_due(self) -> bool:
        """Wait for enough to copy. False: it is closed."""
        if not self._closed:
            self._due.wait()
            self._due.clear()
        return not self._closed


__all__ = ["WalCopier"]
