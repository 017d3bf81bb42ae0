"""`arqonbus projector`, `dlq` and `audit` on the store that the profile names, as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arqonbus.config.stores import Postgres
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.projection import PostgresProjection
from arqonbus.storage.projection import ProjectionStore, Selection, Subject
from arqonbus.storage.sqlite.projection import SqliteProjection
from tests.contract.projection.records import arrivals, event, letter, state
from tests.servers.postgres import PostgresServer, running_postgres

ROOT = Path(__file__).parents[2]


class Place(NamedTuple):
    """A store, the options and the variables that lead a command to it, and somebody with all rights."""

    make: Callable[[], ProjectionStore]
    options: list[str]
    environ: dict[str, str]
    tamper: Callable[[str], object]

    @asynccontextmanager
    async def store(self) -> AsyncIterator[ProjectionStore]:
        store = self.make()
        await store.open()
        yield store
        await store.close()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "arqonbus", *arguments, *self.options]

    def run(self, *arguments: str, code: int = 0, **options: Any) -> str:
        """What it writes; it must end with the code."""
        done = subprocess.run(
            self.command(*arguments), env=self.environ, capture_output=True, text=True, timeout=60, **options
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout + done.stderr

    def json(self, *arguments: str, code: int = 0, **options: Any) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code, **options).partition("\narqonbus:")[0])


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as started:
        yield started


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=[pytest.mark.servers, pytest.mark.xdist_group("projection-cli")]),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "HOME": str(tmp_path)}
    options = ["--profiles-dir", str(ROOT / "profiles"), "--set", f"state_dir={tmp_path}"]
    if request.param == "sqlite":
        path = tmp_path / "projection.sqlite"
        yield Place(lambda: SqliteProjection(path), options, environ, lambda sql: _in_file(path, sql))
        return
    server: PostgresServer = request.getfixturevalue("server")
    with server.database() as name:
        settings = server.settings(name).datastores.postgres
        asyncio.run(migrate.apply(settings))
        options += _leading_to(server, settings, tmp_path)
        tamper = "SET session_replication_role = replica; SET search_path = arqonbus; {}".format
        yield Place(
            lambda: PostgresProjection(settings), options, environ, lambda sql: server.ask(tamper(sql), name)
        )


def _leading_to(server: PostgresServer, settings: Postgres, directory: Path) -> list[str]:
    secret = directory / "datastores.postgres.password"
    secret.write_text(server.password)
    secret.chmod(0o600)
    options = ["--secrets-dir", str(directory)]
    for key in ("url", "user", "sslmode"):
        options += ["--set", f"datastores.postgres.{key}={getattr(settings, key)}"]
    return options


def _in_file(path: Path, statement: str) -> None:
    import sqlite3

    connection = sqlite3.connect(path, isolation_level=None)
    for trigger in ("append_only", "never_removed"):
        connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    connection.execute(statement)
    connection.close()


def _raw(number: int, **fields: Any) -> bytes:
    one = event(number)
    record = {
        "event_id": one.event, "event_type": one.type, "tenant_id": "demo", "agent_id": one.agent,
        "episode_id": one.episode, "source_ts": "2026-03-15T12:00:00Z", "schema_version": 1,
        "payload": {"content_ref": "ram://1", "tags": [], "metadata": {}},
    }  # fmt: skip
    return json.dumps(record | fields).encode()


async def test_what_is_there_is_shown(place: Place) -> None:
    """Counts, books, episodes as a table and as JSON, with a cursor."""
    made = [event(n, n, episode=n) for n in range(3)]
    async with place.store() as store:
        await store.project(arrivals(*made, event(9, 9, tenant="other")), [letter(1)])
    status = place.json("projector", "status", "--tenant", "demo")
    assert status["held"] == {"events": 3, "episodes": 3, "tombstones": 0, "dead_letters": 1}
    assert status["books"]["difference"] == 0
    assert place.json("projector", "status")["held"]["events"] == 4
    assert "dead_lettered" in place.run("projector", "status")
    table = place.run("projector", "list").splitlines()
    assert table[0].split() == ["AGENT", "EPISODE", "AT", "STATE", "CONTENT", "TAGS"]
    assert len(table) == 4
    page = place.json("projector", "list", "--limit", "2")
    rest = place.json("projector", "list", "--cursor", page["cursor"])
    ids = [each["episode_id"] for each in (*page["episodes"], *rest["episodes"])]
    assert ids == sorted(each.episode for each in made)
    shown = place.json("projector", "get", "agent", made[1].episode)
    assert (shown["event_id"], shown["metadata"]) == (made[1].event, {"number": 1})
    assert "no such episode" in place.run("projector", "get", "agent", "nobody", code=1)


async def test_a_dead_letter_is_corrected_replayed_and_audited(place: Place, tmp_path: Path) -> None:
    """From the list to the episode; what is refused again stays, and the exit code says so."""
    bad = _raw(1, schema_version="1")
    async with place.store() as store:
        await store.project(
            [], [letter(1, payload=bad), letter(2, payload=b"\x00"), letter(3, payload=_raw(3))]
        )
    assert place.run("dlq", "list").count("VALIDATION_ERROR") == 3
    shown = place.json("dlq", "show", letter(1).id)
    assert shown["payload"].encode() == bad
    assert '"schema_version": "1"' in place.run("dlq", "show", letter(1).id)
    said = place.run("dlq", "replay", "--all", code=1)
    assert f"{letter(1).id}  VALIDATION_ERROR: it is no event: schema_version is text" in said
    assert f"{letter(2).id}  DECODE_ERROR: it is no event: the payload is no JSON in UTF-8" in said
    assert f"{letter(3).id}  projected" in said
    corrected = tmp_path / "corrected.json"
    corrected.write_bytes(_raw(1))
    done = place.json("dlq", "replay", letter(1).id, "--payload", str(corrected))
    assert done["outcomes"] == {letter(1).id: "stale"}
    assert place.json("dlq", "replay", letter(1).id)["outcomes"] == {letter(1).id: "replayed already"}
    place.run("dlq", "discard", letter(2).id, "--reason", "line noise")
    again = place.run("dlq", "discard", letter(2).id, "--reason", "again", code=1)
    assert "was discarded by" in again
    assert "line noise" in again
    assert place.run("dlq", "list").strip() == "No dead letters."
    assert len(place.json("dlq", "list", "--state", "all")["dead_letters"]) == 3
    rows = place.json("audit", "list")["entries"]
    assert [row["action"] for row in rows] == ["dlq.replay"] * 5 + ["dlq.discard"] * 2
    assert place.run("audit", "list", "--limit", "2").count("dlq.discard") == 2
    assert place.run("audit", "verify") == "demo: 7 rows, sound\n"
    for wrong in (
        ["replay"],
        ["replay", "a", "--all"],
        ["replay", "a", "b", "--payload", "x"],
        ["discard", "a"],
    ):
        place.run("dlq", *wrong, code=2)


async def test_a_broken_chain_is_named_and_fails(place: Place) -> None:
    """Exit code 1, the tenant and the row; the others are sound."""
    async with place.store() as store:
        for tenant in ("demo", "other"):
            for _ in range(3):
                await store.record(tenant, "alice", "kick", {}, "ok")
    assert place.json("audit", "verify")["sound"] is True
    place.tamper("UPDATE audit SET actor = 'mallory' WHERE number = 2 AND tenant_id = 'demo'")
    said = place.run("audit", "verify", code=1)
    assert said == "demo: 1 row, row 2 was changed after it was written\nother: 3 rows, sound\n"
    verdict = place.json("audit", "verify", code=1)
    assert verdict["audits"][0]["row"] == 2
    place.run("audit", "verify", "--tenant", "other")


async def test_a_lost_projection_is_rebuilt_and_the_dry_run_tells_before(place: Place) -> None:
    """Identical; plain lines without a terminal, and both ends in the audit of all tenants."""
    made = [event(n, n, episode=n) for n in range(25)]
    async with place.store() as store:
        await store.project(arrivals(*made), [])
        place.tamper("DELETE FROM episodes")
        assert "25 would change" in place.run("projector", "rebuild", "--dry-run")
        assert (await store.counts(None))["episodes"] == 0
        done = place.json("projector", "backfill", "--to", "2026-03-15T12:00:10Z", "--step", "3")
        assert (done["episodes"], done["changed"]) == (10, 10)
        said = place.run("projector", "rebuild")
        assert re.fullmatch(r"25 episodes from 25 events in \S+ s: 15 changed\n", said)
        found = await store.episodes("demo", None, Subject(), 100, deleted=True)
        assert sorted(found) == sorted(state(each) for each in made)
    rows = place.json("audit", "list", "--every-tenant")["entries"]
    assert [row["outcome"].split()[0] for row in rows] == ["begun", "25", "begun", "10", "begun", "15"]
    assert "time has no zone" in place.run("projector", "backfill", "--from", "2026-03-15T12:00:00", code=2)
    assert "cursor is not one" in place.run("projector", "rebuild", "--from-cursor", "x", code=1)


async def test_an_interrupted_rebuild_goes_on_from_its_cursor(place: Place) -> None:
    """Ctrl-C on a terminal: progress with a rate, the cursor, exit code 130; and the rest is done later."""
    async with place.store() as store:
        for start in range(0, 6000, 1000):
            batch = [event(n, n, episode=n) for n in range(start, start + 1000)]
            await store.project(arrivals(*batch), [])
    place.tamper("DELETE FROM episodes")
    leader, child = _on_a_terminal(place, "projector", "rebuild", "--step", "1")
    shown = await asyncio.to_thread(_read_until, leader, b"/s  eta ")
    assert b" of 6,000 (" in shown
    child.send_signal(signal.SIGINT)
    _, errors = await asyncio.to_thread(child.communicate, None, 30)
    os.close(leader)
    assert child.returncode == 130
    cursor = re.search(r"the same command with --from-cursor (\S+)", errors)
    assert cursor is not None, errors
    async with place.store() as store:
        before = (await store.counts(None))["episodes"]
        assert 0 < before < 6000
        rest = place.json("projector", "rebuild", "--from-cursor", cursor[1])
        assert rest["changed"] == 6000 - before
        assert await store.select(Selection()) == (6000, (await store.counts(None))["episodes"])
        rows = await store.audit("*", 0, 10)
    assert [row.outcome.partition(" at ")[0] for row in rows[:2]] == ["begun", "interrupted"]


def _on_a_terminal(place: Place, *arguments: str) -> tuple[int, subprocess.Popen[str]]:
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        # A suite that runs in the background ignores SIGINT, and its children would inherit that.
        ["env", "--default-signal=INT", *place.command(*arguments)],
        env=place.environ, stdout=follower, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(follower)
    return leader, child


def _read_until(descriptor: int, words: bytes) -> bytes:
    shown = b""
    while words not in shown:
        shown += os.read(descriptor, 4096)
    return shown


def test_a_tenant_is_a_name(place: Place) -> None:
    """Anything else is wrong usage."""
    assert "a tenant is 1-128 of" in place.run("dlq", "list", "--tenant", "a/b", code=2)


@pytest.mark.servers
@pytest.mark.xdist_group("projection-cli")
def test_a_database_without_the_migrations_is_refused(server: PostgresServer, tmp_path: Path) -> None:
    """With what to run."""
    with server.database() as name:
        settings = server.settings(name).datastores.postgres
        options = ["--profiles-dir", str(ROOT / "profiles"), "--set", f"state_dir={tmp_path}"]
        options += _leading_to(server, settings, tmp_path)
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        place = Place(lambda: PostgresProjection(settings), options, environ, print)
        assert "Run: arqonbus migrate apply" in place.run("projector", "status", code=1)
