"""Background checkpoints of an SQLite write-ahead log, on a separate thread.

If the writer did it, copying thousands of pages would delay one commit and all who wait for it. Here most
pages are copied between commits; the writer copies only the last few and restarts the log.
<https://sqlite.org/wal.html#avoiding_excessively_large_wal_files>
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

ROWS = 4000  # changed since the last copy; a few hundred pages


class WalCopier:
    """Thread that copies the log of an existing file; starts at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = 0
        self._due = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="arqonbus-sqlite-wal", daemon=True)
        self._thread.start()

    def committed(self, rows: int) -> None:
        """Called on the writer's thread after a commit; `rows`: rows changed since the file was opened."""
        if rows - self._rows >= ROWS:
            self._rows = rows
            self._due.set()

    def close(self) -> None:
        """Stop the thread; returns when it has closed the file."""
        self._closed = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while self._is_due():
            # Errors of the same disk reach callers through the writer.
            with suppress(sqlite3.Error), closing(sqlite3.connect(self._path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _is_due(self) -> bool:
        """Wait until enough rows changed. False if closed."""
        if not self._closed:
            self._due.wait()
            self._due.clear()
        return not self._closed


__all__ = ["WalCopier"]
