"""Migrations on a real Postgres: a step is done or not done, whoever else is at work and whatever dies."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from arqonbus.cli import main
from arqonbus.config.stores import Postgres
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.access import PostgresUnavailable
from arqonbus.storage.postgres.migrate import MigrationFailed, MigrationRefused, Patience
from arqonbus.storage.postgres.migrations.steps import Step, own_steps, read_steps
from tests.integration.waiting import until
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.processes import free_port

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
FIRST = Step(1, "first", "CREATE TABLE first (number integer)", "expand")
SECOND = Step(2, "second", "CREATE TABLE second (number integer); INSERT INTO first VALUES (2)")

# A runner in a process of its own, to be killed: its second step has written when it says nothing more.
_RUNNER = """
import asyncio, sys
from pathlib import Path
from arqonbus.config.stores import Postgres
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.migrations.steps import read_steps
store = Postgres.model_validate_json(sys.stdin.read())
asyncio.run(migrate.apply(store, read_steps(Path(sys.argv[1])), on_done=lambda d: print(d.step, flush=True)))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as started:
        yield started


@pytest.fixture
def database(server: PostgresServer) -> Iterator[str]:
    with server.database() as name:
        yield name


@pytest.fixture
def store(server: PostgresServer, database: str) -> Postgres:
    return server.settings(database).datastores.postgres


def _states(positions: object) -> list[str]:
    return [position.state for position in positions]  # type: ignore[attr-defined]


async def test_apply_brings_an_empty_database_to_this_version(
    server: PostgresServer, database: str, store: Postgres
) -> None:
    """All steps are pending before, applied after, and a second apply has nothing to do."""
    assert set(_states(await migrate.status(store))) == {"pending"}
    assert await migrate.plan(store) == own_steps()
    seen: list[migrate.Done] = []
    done = await migrate.apply(store, on_done=seen.append)
    assert [each.step for each in done] == list(own_steps())
    assert seen == done
    assert set(_states(await migrate.status(store))) == {"applied"}
    assert await migrate.apply(store) == []
    assert server.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'arqonbus'", database) == "1"


async def test_looking_changes_nothing(server: PostgresServer, database: str, store: Postgres) -> None:
    """Status and plan leave an empty database empty."""
    await migrate.status(store)
    await migrate.plan(store)
    assert server.ask("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'arqonbus%'", database) == "0"


async def test_a_step_that_fails_leaves_nothing_and_keeps_those_before(
    server: PostgresServer, database: str, store: Postgres
) -> None:
    """The ledger and the tables agree on what was done."""
    broken = Step(2, "second", "CREATE TABLE second (number integer); SELECT 1/0")
    with pytest.raises(MigrationFailed, match="0002_second failed and was rolled back: division by zero"):
        await migrate.apply(store, [FIRST, broken])
    assert _states(await migrate.status(store, [FIRST, SECOND])) == ["applied", "pending"]
    assert server.ask("SELECT to_regclass('second') IS NULL", database) == "t"
    assert [each.step for each in await migrate.apply(store, [FIRST, SECOND])] == [SECOND]


async def test_a_newer_database_is_refused(store: Postgres) -> None:
    """With the sentence that says which version to run; the database stays as it is."""
    await migrate.apply(store, [FIRST, SECOND])
    for attempt in (migrate.apply, migrate.plan):
        with pytest.raises(
            MigrationRefused, match=r"The database is newer than this version.*at 0002_second"
        ):
            await attempt(store, [FIRST])
    assert _states(await migrate.status(store, [FIRST])) == ["applied", "unknown"]


async def test_a_changed_step_is_refused(store: Postgres) -> None:
    """Even if only a comment changed, and although later steps are pending."""
    await migrate.apply(store, [FIRST])
    changed = Step(1, "first", FIRST.sql + " -- harmless")
    with pytest.raises(MigrationRefused, match=r"0001_first was applied by version .* with other contents"):
        await migrate.apply(store, [changed, SECOND])
    assert _states(await migrate.status(store, [changed, SECOND])) == ["changed", "pending"]


async def test_a_gap_in_the_ledger_is_refused(server: PostgresServer, database: str, store: Postgres) -> None:
    """A row that somebody removed is not taken for a step to be done again."""
    await migrate.apply(store, [FIRST, SECOND])
    server.ask("DELETE FROM arqonbus_ledger.migrations WHERE number = 1", database)
    with pytest.raises(MigrationRefused, match="gap: 0001 is missing below 0002"):
        await migrate.apply(store, [FIRST, SECOND])


async def test_of_runners_at_once_one_works_and_the_others_find_nothing_to_do(store: Postgres) -> None:
    """Each step is applied exactly once."""
    slow = Step(2, "second", f"SELECT pg_sleep(0.3); {SECOND.sql}")
    runs = await asyncio.gather(*(migrate.apply(store, [FIRST, slow]) for _ in range(5)))
    assert sorted(len(run) for run in runs) == [0, 0, 0, 0, 2]


async def test_a_runner_gives_up_waiting_for_another(store: Postgres) -> None:
    """After its patience, with a sentence, having changed nothing."""
    slow = Step(1, "first", "SELECT pg_sleep(30)")
    other = asyncio.create_task(migrate.apply(store, [slow]))
    connection = await _connect(store)
    try:
        await until(lambda: _one_holds_the_lock(connection))
        with pytest.raises(
            MigrationFailed, match=r"Another `arqonbus migrate` has been running in .* for 0\.1 s"
        ):
            await migrate.apply(store, [FIRST], patience=Patience(runner=0.1))
    finally:
        other.cancel()
        await asyncio.wait([other])
        await connection.close()


async def test_a_lock_that_somebody_holds_ends_the_step(
    server: PostgresServer, database: str, store: Postgres
) -> None:
    """A migration never queues behind a long transaction, where all others would queue behind it."""
    await migrate.apply(store, [FIRST])
    connection = await _connect(store)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE first IN ACCESS SHARE MODE")
            alter = Step(2, "second", "ALTER TABLE first ADD COLUMN text text")
            with pytest.raises(MigrationFailed, match=r"waited 0.1 s for a lock that another session holds"):
                await migrate.apply(store, [FIRST, alter], patience=Patience(lock=0.1))
    finally:
        await connection.close()
    assert len(await migrate.apply(store, [FIRST, alter])) == 1


async def test_a_statement_that_takes_too_long_is_cancelled(store: Postgres) -> None:
    """And the step is rolled back."""
    with pytest.raises(MigrationFailed, match=r"was cancelled .* One statement may take 0.1 s"):
        await migrate.apply(store, [Step(1, "slow", "SELECT pg_sleep(30)")], patience=Patience(statement=0.1))
    assert _states(await migrate.status(store, [FIRST])) == ["pending"]


async def test_a_step_that_commits_by_itself_is_found_out(store: Postgres) -> None:
    """It could be half done, so it is never entered into the ledger as done."""
    with pytest.raises(
        MigrationFailed, match=r"0001_first ends its own transaction|failed and was rolled back"
    ):
        await migrate.apply(
            store, [Step(1, "first", "CREATE TABLE a (n int); COMMIT; CREATE TABLE b (n int)")]
        )
    assert _states(await migrate.status(store, [FIRST])) == ["pending"]


async def test_a_runner_killed_in_a_step_leaves_it_undone_for_the_next(
    server: PostgresServer, database: str, store: Postgres, tmp_path: Path
) -> None:
    """After kill -9 the next runner gets the lock, finds the first step done and does the second."""
    (tmp_path / "0001_first.sql").write_text(FIRST.sql)
    second = tmp_path / "0002_second.sql"
    second.write_text(f"{SECOND.sql}; SELECT pg_sleep(60)")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _RUNNER, str(tmp_path),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    connection = await _connect(store)
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(_json(store).encode())
        child.stdin.close()
        assert await child.stdout.readline() == b"0001_first\n"
        await until(lambda: _sleeps(connection))
    finally:
        child.kill()
        await child.wait()
        await connection.close()
    second.write_text(SECOND.sql)
    done = await migrate.apply(store, read_steps(tmp_path), patience=Patience(runner=20, lock=20))
    assert [str(each.step) for each in done] == ["0002_second"]
    assert server.ask("SELECT count(*) FROM first", database) == "1"


async def test_a_lost_connection_is_a_sentence(server: PostgresServer, store: Postgres) -> None:
    """The server ended the session in the middle of a step: the outcome is told honestly."""
    slow = Step(1, "first", "SELECT pg_sleep(30)")
    run = asyncio.create_task(migrate.apply(store, [slow]))
    connection = await _connect(store)
    try:
        await until(lambda: _sleeps(connection))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' "
            "AND pid <> pg_backend_pid() AND datname = current_database()"
        )
        with pytest.raises(MigrationFailed, match=r"connection to Postgres at 127.0.0.1:\d+ was lost"):
            await run
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ("password=wrong",),
            "refuses the password of the role arqonbus. If the database was created with another",
        ),
        (("user=nobody-here",), "refuses the password of the role nobody-here"),
        (("url=postgresql://127.0.0.1:{free}/x",), "cannot be reached"),
        (("url=postgresql://127.0.0.1:{port}/nowhere",), "has no database nowhere"),
        (("sslmode=require",), "rejected SSL upgrade|SSL|cannot be made"),
    ],
)
async def test_a_connection_that_cannot_be_made_is_a_sentence(
    server: PostgresServer, database: str, changes: tuple[str, ...], sentence: str
) -> None:
    """It says what to do, and never the password."""
    filled = [
        f"datastores.postgres.{change.format(free=free_port(), port=server.port)}" for change in changes
    ]
    store = server.settings(database, *filled).datastores.postgres
    with pytest.raises(PostgresUnavailable, match=sentence) as caught:
        await migrate.status(store)
    assert server.password not in str(caught.value)


async def test_a_store_that_is_not_configured_is_a_sentence() -> None:
    """With the name of the setting."""
    with pytest.raises(PostgresUnavailable, match=r"set datastores.postgres.url, or ARQONBUS_POSTGRES_URL"):
        await migrate.status(Postgres())


def test_the_command_shows_plans_applies_and_verifies(
    server: PostgresServer,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Tables for people, JSON for programs, and exit codes for scripts."""
    (tmp_path / "datastores.postgres.password").write_text(server.password)
    (tmp_path / "datastores.postgres.password").chmod(0o600)
    monkeypatch.chdir(ROOT)
    options = [
        "--profile", "dev", "--secrets-dir", str(tmp_path), "--set", "datastores.postgres.user=arqonbus",
        "--set", f"datastores.postgres.url=postgresql://127.0.0.1:{server.port}/{database}",
    ]  # fmt: skip

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["migrate", *arguments, *options])
        return code, capsys.readouterr().out

    code, out = run("verify", "--json")
    assert (code, json.loads(out)["current"]) == (1, False)
    code, out = run("plan", "--sql")
    assert code == 0
    assert "CREATE SCHEMA arqonbus;" in out
    code, out = run("apply")
    assert code == 0
    assert "0001_schema applied in" in out
    code, out = run("apply", "--json")
    assert (code, json.loads(out)) == (0, {"applied": []})
    code, out = run("status")
    assert code == 0
    assert out.splitlines()[1].split()[:4] == ["0001", "schema", "expand", "applied"]
    assert run("verify") == (0, "The database has the schema of this version.\n")


def _json(store: Postgres) -> str:
    password = store.password.get_secret_value() if store.password else None
    return json.dumps(store.model_dump(mode="json", exclude={"password"}) | {"password": password})


async def _connect(store: Postgres) -> asyncpg.Connection[asyncpg.Record]:
    assert store.password is not None
    return await asyncpg.connect(
        store.url, user=store.user, password=store.password.get_secret_value(), ssl=False
    )


async def _sleeps(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
    )


async def _one_holds_the_lock(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    )
