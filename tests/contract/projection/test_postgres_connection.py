"""Unreachable Postgres: reported in one sentence; the next call after it is back succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from arqonbus.config.stores import Postgres
from arqonbus.storage.ports import StorageError
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.migrate import MigrationRefused
from arqonbus.storage.postgres.projection import PostgresProjection
from arqonbus.storage.projection import Tally, Unprojectable
from tests.contract.projection.records import arrivals, event, state, subject
from tests.servers.postgres import PostgresServer, running_postgres

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("projection-connection")]

DATABASE = "away"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that the tests stop and start."""
    with running_postgres() as started:
        started.ask(f"CREATE DATABASE {DATABASE}")
        asyncio.run(migrate.apply(started.settings(DATABASE).datastores.postgres))
        yield started


@pytest.fixture
def settings(server: PostgresServer) -> Postgres:
    return server.settings(DATABASE).datastores.postgres


async def test_a_store_that_was_away_at_the_start_is_found_later(
    server: PostgresServer, settings: Postgres
) -> None:
    """`open` says that it is away; every call does, until one finds it."""
    server.stop()
    store = PostgresProjection(settings)
    for attempt in (store.open(), store.probe(), store.project(arrivals(event(1)), [])):
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            await attempt
        assert not isinstance(caught.value, Unprojectable)
        assert server.password not in str(caught.value)
    server.start()
    found = await asyncio.gather(*(store.probe() for _ in range(5)))
    assert all(seconds > 0 for seconds in found)
    await store.close()
    with pytest.raises(StorageError, match="are closed"):
        await store.probe()


async def test_a_store_that_goes_away_fails_and_comes_back(
    server: PostgresServer, settings: Postgres
) -> None:
    """What was committed is there; a batch that is tried again counts its events once."""
    store = PostgresProjection(settings)
    await store.open()
    tenant = "comes-back"
    before, after = event(1, 1, tenant=tenant), event(2, 2, tenant=tenant)
    await store.project(arrivals(before), [])
    server.stop()
    for _ in range(3):
        with pytest.raises(StorageError) as caught:
            await store.project(arrivals(after), [])
        assert not isinstance(caught.value, Unprojectable)
    server.start()
    async with asyncio.timeout(20):
        while True:  # connections that were held may have to be found dead first
            try:
                await store.project(arrivals(before, after), [])
                break
            except StorageError:
                continue
    assert await store.episode(subject(tenant=tenant)) == state(after)
    assert await store.books(tenant) == Tally(arrived=3, projected=2, duplicate=1)
    await store.close()


async def test_a_database_of_another_version_is_refused(server: PostgresServer) -> None:
    """With what to run."""
    with server.database() as name:
        store = PostgresProjection(server.settings(name).datastores.postgres)
        with pytest.raises(MigrationRefused, match=r"lacks the migrations .*Run: arqonbus migrate apply"):
            await store.open()
        await store.close()
