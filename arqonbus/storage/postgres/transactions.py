"""Transactions in Postgres as arqonbus_writer, the role that may change rows but not tables.

Failures are raised as StorageError; deadlocks and serialization failures are retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import asyncpg
import msgspec

from arqonbus.config.stores import Postgres
from arqonbus.storage.ports import StorageError
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.access import Connection, Pool, open_pool, place
from arqonbus.storage.projection import Unprojectable

WRITER = "arqonbus_writer"
TRIES = 5  # of a transaction that ended with a deadlock or serialization failure

# SQLSTATE classes that refuse the data itself: 22 (data exception), 23 (integrity), 54 (limits).
_DATA_CLASSES = ("22", "23", "54")

# InternalClientError: raised by asyncpg's rollback if the server died during the transaction.
_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

T = TypeVar("T")


class NoPartition(StorageError):
    """No partition exists for the time of a row."""


class Transactions:
    """Pool of Postgres connections for one purpose, opened on first use."""

    def __init__(self, store: Postgres, application: str) -> None:
        """`application`: the name under which Postgres lists the connections."""
        self.place = place(store)
        self._store = store
        self._application = application
        self._pool: Pool | None = None
        self._closed = False
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect. Raises MigrationRefused if the schema is not this version's, or PostgresUnavailable."""
        self._closed = False
        await self._opened()

    def close(self) -> None:
        """Terminate the connections without waiting."""
        self._closed = True
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def _opened(self) -> Pool:
        if self._closed:
            raise StorageError(f"The connections to {self.place} are closed.")
        async with self._opening:
            if self._pool is None:
                self._pool = await self._connect()
            return self._pool

    async def _connect(self) -> Pool:
        steps = await migrate.plan(self._store)
        if steps:
            missing = ", ".join(map(str, steps))
            raise migrate.MigrationRefused(
                f"{self.place} lacks the migrations {missing}. Run: arqonbus migrate apply"
            )
        return await open_pool(self._store, application=self._application, role=WRITER)

    async def fetch(self, query: str, *arguments: Any) -> Sequence[Any]:
        """The rows of one statement."""

        async def read(connection: Connection) -> Sequence[Any]:
            return await connection.fetch(query, *arguments)

        return await self.run(read)

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `work` in a transaction. Raises StorageError; Unprojectable if Postgres refuses the data."""
        pool = self._pool or await self._opened()
        for tries in range(1, TRIES + 1):
            try:
                async with pool.acquire() as connection, connection.transaction():
                    return await work(cast("Connection", connection))
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
                if tries == TRIES:
                    raise StorageError(f"{self.place} gave up {tries} times: {error}") from error
                await asyncio.sleep(0.01 * 2**tries)
            except asyncpg.PostgresError as error:
                if isinstance(error, asyncpg.CheckViolationError) and not error.constraint_name:
                    raise NoPartition(f"{self.place} has no partition for the row: {error}") from error
                if (error.sqlstate or "")[:2] in _DATA_CLASSES:
                    raise Unprojectable(f"{self.place} refuses the data: {error}") from error
                raise StorageError(f"{self.place} answers with an error: {error}") from error
            except (asyncpg.DataError, UnicodeError, msgspec.EncodeError) as error:  # before it was sent
                raise Unprojectable(f"The data cannot be written to {self.place}: {error}") from error
            except _LOST as error:
                raise StorageError(f"The connection to {self.place} was lost: {error}") from error
        raise AssertionError("unreachable")


__all__ = ["WRITER", "NoPartition", "Transactions"]
