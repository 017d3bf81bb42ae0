"""Transactions in Postgres as arqonbus_writer, the role that changes rows and no table.

Failures are StorageErrors with a sentence; a transaction that Postgres ended for the sake of another one is
tried again.
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
TRIES = 5  # of a transaction that Postgres ended for the sake of another one

# Refusals of the data itself: SQLSTATE classes 22 (data exception), 23 (integrity), 54 (limits).
_DATA_CLASSES = ("22", "23", "54")

# InternalClientError: asyncpg rolls back on a connection that a dying server left half-way.
_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

T = TypeVar("T")


class NoPartition(StorageError):
    """A row of a time without a partition."""


class Transactions:
    """The connections of one use of Postgres. They are opened by whoever needs one first."""

    def __init__(self, store: Postgres, application: str) -> None:
        """`application`: the name under which Postgres lists the connections."""
        self.place = place(store)
        self._store = store
        self._application = application
        self._pool: Pool | None = None
        self._closed = False
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect. Raises MigrationRefused where the schema is not this version's, or PostgresUnavailable."""
        self._closed = False
        await self._opened()

    def close(self) -> None:
        """End the connections, without waiting for them."""
        self._closed = True
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def _opened(self) -> Pool:
        if self._closed:
            raise StorageError(f"{self.place} is not open here.")
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
        """Do the work in a transaction. Raises Unprojectable for data that Postgres refuses."""
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
                    raise NoPartition(f"{self.place} has no place for it: {error}") from error
                if (error.sqlstate or "")[:2] in _DATA_CLASSES:
                    raise Unprojectable(f"{self.place} refuses the data: {error}") from error
                raise StorageError(f"{self.place} answers with an error: {error}") from error
            except (asyncpg.DataError, UnicodeError, msgspec.EncodeError) as error:  # it was not sent
                raise Unprojectable(f"The data cannot be written to {self.place}: {error}") from error
            except _LOST as error:
                raise StorageError(f"The connection to {self.place} was lost: {error}") from error
        raise AssertionError("unreachable")


__all__ = ["WRITER", "NoPartition", "Transactions"]
