"""Fixtures of the projection contract: both backends, on a real file and a real Postgres."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[3]
if str(ROOT) not in sys.path:  # so that tests.servers can be imported however pytest was started
    sys.path.insert(0, str(ROOT))

from arqonbus.config.stores import Postgres  # noqa: E402
from arqonbus.storage.postgres import migrate  # noqa: E402
from arqonbus.storage.postgres.projection import PostgresProjection  # noqa: E402
from arqonbus.storage.projection import ProjectionStore  # noqa: E402
from arqonbus.storage.sqlite.projection import SqliteProjection  # noqa: E402
from tests.servers.postgres import PostgresServer, running_postgres  # noqa: E402

TEMPLATE = "arqonbus_template"


class Bench(Protocol):
    """One projection. Several stores may work on it, and somebody with all rights may tamper with it."""

    async def store(self) -> ProjectionStore:
        """A store of its own, opened."""

    def tamper(self, statement: str) -> None:
        """Run SQL as one whom neither rights nor triggers stop."""

    async def close(self) -> None: ...


class SqliteBench:
    """A projection in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stores: list[ProjectionStore] = []

    async def store(self) -> ProjectionStore:
        store = SqliteProjection(self.path)
        await store.open()
        self._stores.append(store)
        return store

    def tamper(self, statement: str) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        for trigger in ("append_only", "never_removed"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        connection.execute(statement)
        connection.close()

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


class PostgresBench:
    """A projection in a database of its own."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server = server
        self.database = database
        self.settings: Postgres = server.settings(
            database, "datastores.postgres.pool.max=4"
        ).datastores.postgres
        self._stores: list[ProjectionStore] = []

    async def store(self) -> ProjectionStore:
        store = PostgresProjection(self.settings, bucket=len(self._stores))
        await store.open()
        self._stores.append(store)
        return store

    def tamper(self, statement: str) -> None:
        self.ask(f"SET session_replication_role = replica; SET search_path = arqonbus; {statement}")

    def ask(self, statement: str) -> str:
        """What psql prints, as a superuser."""
        return self.server.ask(statement, self.database)

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server with a database that has the own migrations, to be copied."""
    with running_postgres() as server:
        server.ask(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(migrate.apply(server.settings(TEMPLATE).datastores.postgres))
        yield server


@pytest.fixture
async def postgres(postgres_server: PostgresServer) -> AsyncIterator[PostgresBench]:
    """A projection in Postgres."""
    with postgres_server.database(TEMPLATE) as name:
        bench = PostgresBench(postgres_server, name)
        yield bench
        await bench.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteBench]:
    """A projection in a file."""
    bench = SqliteBench(tmp_path / "projection.sqlite")
    yield bench
    await bench.close()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=[pytest.mark.servers, pytest.mark.xdist_group("projection")]),
    ]
)
def bench(request: pytest.FixtureRequest) -> Bench:
    """Every backend."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
async def store(bench: Bench) -> ProjectionStore:
    """One open store of every backend."""
    return await bench.store()
