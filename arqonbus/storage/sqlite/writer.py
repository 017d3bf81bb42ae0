"""The thread that writes an SQLite file: all waiting work becomes one transaction (group commit).

Work is passed with `submit`; its result is set on the event loop after the commit. One thread, one
connection; nothing else in this process writes the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from arqonbus.storage.ports import StorageError

_MOST_PER_COMMIT = 512  # calls; bounds how long the first of them waits for the commit
_FULL = 2  # of PRAGMA synchronous

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    flush: bool


class Writer:
    """Runs work in order on a separate thread, many calls per transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        on_rollback: Callable[[], None] = lambda: None,
        on_commit: Callable[[int], None] = lambda _rows: None,
        name: str = "SQLite log",
    ) -> None:
        """`on_commit` gets the total of rows changed so far. `name`: the file's name in messages."""
        self._name = name
        self._connection = connection
        self._on_rollback = on_rollback
        self._on_commit = on_commit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._flushes = connection.execute("PRAGMA synchronous").fetchone()[0] >= _FULL  # every commit
        self._thread = threading.Thread(target=self._run, name="arqonbus-sqlite-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T], *, flush: bool = False) -> asyncio.Future[T]:
        """The result of the work after its commit, or StorageError. `flush`: after it is on disk.

        Work that raises StorageError must have changed nothing: the rest of the transaction is still
        committed.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(StorageError(f"The {self._name} is closed; nothing was written."))
        else:
            self._jobs.put(_Job(work, future, flush))
        return future

    async def close(self) -> None:
        """Commit all submitted work, then end the thread and close the connection."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == _MOST_PER_COMMIT or self._jobs.empty():
                self._commit(group)
                group = []
            job = self._jobs.get()
        if group:
            self._commit(group)
        self._connection.close()

    def _commit(self, group: list[_Job]) -> None:
        committing = False
        flushing = not self._flushes and any(job.flush for job in group)
        answers: list[tuple[asyncio.Future[Any], Any]]
        try:
            if flushing:  # flushes the write-ahead log, including earlier commits
                self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("BEGIN IMMEDIATE")
            answers = [(job.future, _outcome(job)) for job in group]
            committing = True
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the thread must survive, and every caller must get the error
            failure = self._roll_back(error, committing)
            answers = [(job.future, failure) for job in group]
        if flushing:
            with contextlib.suppress(sqlite3.Error):  # more flushes than needed do no harm
                self._connection.execute("PRAGMA synchronous = NORMAL")
        self._loop.call_soon_threadsafe(_answer, answers)
        self._on_commit(self._connection.total_changes)

    def _roll_back(self, error: Exception, committing: bool) -> StorageError:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as second:
            error.add_note(f"The rollback failed too: {second}")
        self._on_rollback()
        return StorageError(
            f"The {self._name} could not write: {error}. Nothing of this transaction was stored"
            + (", as far as SQLite reports." if committing else ".")
            + " Check the disk's space and health.",
            outcome_unknown=committing,
        )


def _outcome(job: _Job) -> Any:
    try:
        return job.work()
    except StorageError as refusal:
        return refusal


def _answer(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, value in answers:
        if future.done():  # the caller was cancelled
            continue
        if isinstance(value, StorageError):
            future.set_exception(value)
        else:
            future.set_result(value)


__all__ = ["Writer"]
