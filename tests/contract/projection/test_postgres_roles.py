"""Roles in Postgres: the writer changes rows but no table, a reader reads its tenant only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from arqonbus.storage.postgres.access import Connection, connect
from tests.contract.projection.conftest import TEMPLATE, PostgresBench
from tests.contract.projection.records import NOON, arrivals, event, letter
from tests.servers.postgres import PostgresServer

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("projection")]


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer) -> Iterator[PostgresBench]:
    """A projection of two tenants, in which no test of this module changes anything."""
    with postgres_server.database(TEMPLATE) as name:
        bench = PostgresBench(postgres_server, name)
        asyncio.run(_fill(bench))
        bench.ask("ANALYZE")
        yield bench


async def _fill(bench: PostgresBench) -> None:
    store = await bench.store()
    for tenant in ("ours", "theirs"):
        made = [event(n, n, episode=n, tenant=tenant) for n in range(3)]
        await store.project(arrivals(*made), [letter(1, tenant)])
        await store.record(tenant, "alice", "kick", {}, "ok")
    await bench.close()


@pytest.fixture
def reader(filled: PostgresBench) -> Iterator[str]:
    """A login role of an analyst of the tenant `ours`."""
    role = f"analyst_{secrets.token_hex(4)}"
    filled.ask(f"CREATE ROLE {role} LOGIN PASSWORD 'analyst' IN ROLE arqonbus_reader")
    filled.ask(f"INSERT INTO arqonbus.tenant_readers VALUES ('{role}', 'ours')")
    yield role
    filled.ask(f"DROP OWNED BY {role}")
    filled.ask(f"DROP ROLE {role}")


@asynccontextmanager
async def _login(bench: PostgresBench, role: str) -> AsyncIterator[Connection]:
    settings = bench.server.settings(
        bench.database, f"datastores.postgres.user={role}", "datastores.postgres.password=analyst"
    )
    connection = await connect(settings.datastores.postgres, application="analyst")
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _writer(bench: PostgresBench) -> AsyncIterator[Connection]:
    connection = await connect(bench.settings, application="writer")
    try:
        await connection.execute("SET ROLE arqonbus_writer")
        yield connection
    finally:
        await connection.close()


READABLE = ("events", "episodes", "dead_letters")


async def test_a_reader_sees_its_tenant(filled: PostgresBench, reader: str) -> None:
    """Events, episodes and dead letters, and of those its own only."""
    async with _login(filled, reader) as connection:
        for table, rows in zip(READABLE, (3, 3, 1), strict=True):
            found = await connection.fetch(f"SELECT tenant_id FROM arqonbus.{table}")
            assert [row[0] for row in found] == ["ours"] * rows


@pytest.mark.parametrize(
    "query",
    [
        "SELECT tenant_id FROM arqonbus.{table} WHERE tenant_id = 'theirs'",
        "SELECT tenant_id FROM arqonbus.{table} WHERE tenant_id <> 'ours' OR true",
        "SELECT tenant_id FROM arqonbus.episodes UNION ALL SELECT tenant_id FROM arqonbus.{table}",
        "SELECT a.tenant_id FROM arqonbus.{table} a RIGHT JOIN arqonbus.{table} b USING (tenant_id)",
        "WITH all_of AS MATERIALIZED (SELECT * FROM arqonbus.{table}) SELECT tenant_id FROM all_of",
        "SELECT query_to_xml('SELECT * FROM arqonbus.{table}', true, true, '')::text",
        "SELECT unnest(most_common_vals::text::text[]) FROM pg_stats WHERE attname = 'tenant_id'",
    ],
)
@pytest.mark.parametrize("table", READABLE)
async def test_no_query_of_a_reader_shows_another_tenant(
    filled: PostgresBench, reader: str, query: str, table: str
) -> None:
    """Neither as it logs in, nor as the role it is a member of, nor with other settings."""
    before = (
        "SET ROLE arqonbus_reader",
        "SET row_security = on",
        "SET search_path = pg_temp, arqonbus",
        "SET arqonbus.tenant = 'theirs'",
        f"SET ROLE {reader}",
    )
    async with _login(filled, reader) as connection:
        for preparation in before:
            await connection.execute(preparation)
            found = await connection.fetch(query.format(table=table))
            assert "theirs" not in str(found)


async def test_a_reader_cannot_look_past_the_policy_with_a_function_of_its_own(
    filled: PostgresBench, reader: str
) -> None:
    """A cheap function in the condition is not asked about rows that the policy hides."""
    seen: list[str] = []
    async with _login(filled, reader) as connection:
        connection.add_log_listener(lambda _, message: seen.append(str(message)))
        await connection.execute(
            "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS "
            "$$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$"
        )
        await connection.fetch("SELECT * FROM arqonbus.events WHERE pg_temp.leak(tenant_id)")
    assert seen
    assert "theirs" not in " ".join(seen)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM arqonbus.events_2026_03",
        "SELECT * FROM arqonbus.books",
        "SELECT * FROM arqonbus.audit",
        "SELECT * FROM arqonbus.audit_heads",
        "SELECT * FROM arqonbus.tenant_readers",
        "UPDATE arqonbus.tenant_readers SET tenant_id = 'theirs'",
        "INSERT INTO arqonbus.tenant_readers VALUES ('arqonbus_reader', 'theirs')",
        "SET row_security = off; SELECT * FROM arqonbus.events",
        "SET ROLE arqonbus_writer",
        "SET SESSION AUTHORIZATION arqonbus",
        "UPDATE arqonbus.episodes SET summary = ''",
        "DELETE FROM arqonbus.events",
        "INSERT INTO arqonbus.dead_letters SELECT * FROM arqonbus.dead_letters",
        "TRUNCATE arqonbus.episodes",
        "SELECT arqonbus.retire_partitions(now())",
        "SELECT arqonbus.ensure_partition('2030-01-01')",
        "ALTER TABLE arqonbus.events DISABLE ROW LEVEL SECURITY",
        "DROP POLICY own_tenant ON arqonbus.events",
        "CREATE TABLE arqonbus.mine (n int)",
        "CREATE FUNCTION arqonbus.reader_tenant() RETURNS text LANGUAGE sql AS $$ SELECT 'theirs' $$",
        "CREATE OR REPLACE FUNCTION arqonbus.reader_tenant() RETURNS text LANGUAGE sql "
        "AS $$ SELECT 'theirs' $$",
    ],
)
async def test_a_reader_is_refused_everything_else(
    filled: PostgresBench, reader: str, statement: str
) -> None:
    """Partitions directly, books and audit, other roles, and every change."""
    async with _login(filled, reader) as connection:
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.DuplicateFunctionError)):
            await connection.execute(statement)


async def test_a_reader_that_stands_for_no_tenant_sees_nothing(filled: PostgresBench, reader: str) -> None:
    """Membership in the role alone gives no row."""
    filled.ask(f"DELETE FROM arqonbus.tenant_readers WHERE role = '{reader}'")
    async with _login(filled, reader) as connection:
        for table in READABLE:
            assert await connection.fetchval(f"SELECT count(*) FROM arqonbus.{table}") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE arqonbus.episodes ADD COLUMN more text",
        "DROP TABLE arqonbus.episodes",
        "CREATE TABLE arqonbus.mine (n int)",
        "TRUNCATE arqonbus.episodes",
        "UPDATE arqonbus.events SET tenant_id = 'ours'",
        "DELETE FROM arqonbus.events",
        "UPDATE arqonbus.events_2026_03 SET tenant_id = 'ours'",
        "DROP TABLE arqonbus.events_2026_03",
        "UPDATE arqonbus.audit SET actor = 'mallory'",
        "DELETE FROM arqonbus.audit",
        "TRUNCATE arqonbus.audit",
        "DELETE FROM arqonbus.audit_heads",
        "ALTER TABLE arqonbus.audit DISABLE TRIGGER ALL",
        "DELETE FROM arqonbus.dead_letters",
        "DELETE FROM arqonbus.books",
        "INSERT INTO arqonbus.tenant_readers VALUES ('arqonbus_reader', 'theirs')",
        "UPDATE arqonbus_ledger.migrations SET checksum = ''",
    ],
)
async def test_the_writer_changes_rows_and_no_table(filled: PostgresBench, statement: str) -> None:
    """Neither events nor the audit can be changed by what the projector works as."""
    async with _writer(filled) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


@pytest.mark.parametrize("statement", ["UPDATE arqonbus.audit SET actor = 'm'", "DELETE FROM arqonbus.audit"])
async def test_the_owner_cannot_change_the_audit_by_mistake(filled: PostgresBench, statement: str) -> None:
    """The triggers hold for everybody who does not switch them off."""
    connection = await connect(filled.settings, application="owner")
    with pytest.raises(asyncpg.RaiseError, match="the audit is append-only"):
        await connection.execute(statement)
    with pytest.raises(asyncpg.RaiseError, match="the audit is append-only"):
        await connection.execute("TRUNCATE arqonbus.audit")
    await connection.close()


async def test_retention_drops_partitions_and_not_rows(postgres: PostgresBench) -> None:
    """The month's table is gone; nothing is left to vacuum."""
    await _fill(postgres)
    tables = "SELECT relname FROM pg_class WHERE relname LIKE 'events_2%' AND relkind = 'r'"
    assert postgres.ask(tables) == "events_2026_03"
    store = await postgres.store()
    await store.retire(NOON.replace(month=4, day=1))
    assert postgres.ask(tables) == ""
    assert (await store.counts(None))["episodes"] == 6
