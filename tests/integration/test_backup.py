"""Backups of a real Postgres: whole or not there, restored to the second, judged by a drill that can fail."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arqonbus.cli import main
from arqonbus.config.stores import Postgres
from arqonbus.ops.backup import BackupRefused, backups, read, take
from arqonbus.ops.drill import drill, scratch_server
from arqonbus.ops.restore import restore_dump, unpack_base
from arqonbus.storage import migrate
from arqonbus.storage.migrations.steps import own_steps
from arqonbus.storage.ports import StorageError
from arqonbus.storage.postgres import PostgresProjection
from arqonbus.storage.projection import Arrival, DeadLetter, Event, Origin, Subject
from tests.servers.episodes import event
from tests.servers.postgres import PostgresServer, running_postgres

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("backup"), pytest.mark.timeout(180)]

ORIGIN = Origin("continuum.episode.v1", "epoch", 1, 1_790_000_000_000_000)


@pytest.fixture
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the server archives its log; it belongs to whoever the server runs as."""
    place = Path("/tmp") / f"arqonbus-wal-{time.time_ns()}"
    place.mkdir()
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def postgres(archive: Path) -> Iterator[PostgresServer]:
    settings = ("archive_mode=on", f"archive_command=cp %p {archive}/%f", "wal_level=replica")
    with running_postgres(*(word for each in settings for word in ("-c", each))) as server:
        yield server


@pytest.fixture
def store(postgres: PostgresServer) -> Iterator[Postgres]:
    with postgres.database() as name:
        settings = postgres.settings(name).datastores.postgres
        asyncio.run(migrate.apply(settings))
        yield settings


def fill(store: Postgres, count: int = 40) -> list[Event]:
    """Events, a dead letter and an audit, as a projector and an operator leave them."""
    events = [event("acme") for _ in range(count)]

    async def put() -> None:
        projection = PostgresProjection(store)
        letter = DeadLetter(
            id="01ARZ3NDEKTSV4RRFFQ69G5FAV", tenant="acme", origin=ORIGIN, code="DECODE_ERROR", reason="r",
            payload=b"\x00\xff",
        )  # fmt: skip
        await projection.project([Arrival(each, ORIGIN) for each in events], [letter])
        for number in range(3):
            await projection.record("acme", "alice", "dlq.replay", {"number": number}, "ok")
        await projection.close()

    asyncio.run(put())
    return events


def holds(store: Postgres, given: Event) -> bool:
    async def ask() -> bool:
        projection = PostgresProjection(store)
        found = await projection.episode(Subject(*given.subject))
        await projection.close()
        return found is not None

    return asyncio.run(ask())


def tampered(postgres: PostgresServer, store: Postgres, statement: str) -> None:
    database = (store.url or "").rpartition("/")[2]
    postgres.ask(f"SET session_replication_role = replica; {statement}", database)


def test_a_dump_brings_everything_back(store: Postgres, tmp_path: Path) -> None:
    """What came after it is gone; what was there is there, and the drill that tried it before passed."""
    first = fill(store)
    manifest = take(store, tmp_path, "logical")
    assert backups(tmp_path) == [manifest.name]
    later = fill(store)
    result = drill(tmp_path)
    assert (result.faults, result.passed) == ([], True)
    assert result.counts == {"events": 40, "episodes": 40, "tombstones": 0, "dead_letters": 1}
    receipt = json.loads((tmp_path / "drill.json").read_text())
    assert receipt["passed"] is True
    assert datetime.fromisoformat(receipt["finished_at"]) > datetime.now(UTC) - timedelta(minutes=5)
    restore_dump(store, tmp_path, manifest.name)
    assert holds(store, first[0])
    assert not holds(store, later[0])


def test_a_base_backup_and_the_log_lead_to_a_second_between_two_writes(
    postgres: PostgresServer, store: Postgres, tmp_path: Path, archive: Path
) -> None:
    """The write before that moment is there, and the one after it is not."""
    fill(store, 5)
    manifest = take(store, tmp_path, "base")
    (before,) = fill(store, 1)
    until = datetime.fromisoformat(postgres.ask("SELECT clock_timestamp()"))
    (after,) = fill(store, 1)
    postgres.ask("SELECT pg_switch_wal()")
    segment = postgres.ask("SELECT pg_walfile_name(pg_switch_wal())")
    deadline = time.monotonic() + 30
    while not (archive / segment).exists() and time.monotonic() < deadline:
        postgres.ask("SELECT 1")
    with restored(tmp_path, manifest.name, archive, until) as there:
        database = (store.url or "").rpartition("/")[2]
        found = there.model_copy(update={"url": (there.url or "").replace("/postgres?", f"/{database}?")})
        assert holds(found, before)
        assert not holds(found, after)


@contextmanager
def restored(directory: Path, name: str, archive: Path, until: datetime) -> Iterator[Postgres]:
    """A server that runs in what unpack_base made."""
    from unittest.mock import patch

    from arqonbus.ops import drill as module

    def to_the_second(place: Path, backup: str, target: Path, **options: object) -> object:
        return unpack_base(place, backup, target, archive=archive, until=until, owner=options["owner"])  # type: ignore[arg-type]

    manifest = read(directory, name)
    with patch.object(module, "unpack_base", to_the_second), scratch_server(directory, manifest) as there:
        yield there


def test_a_base_backup_passes_its_drill(store: Postgres, tmp_path: Path) -> None:
    """As a dump does."""
    fill(store)
    take(store, tmp_path, "base")
    result = drill(tmp_path)
    assert result.faults == []
    assert result.counts["episodes"] == 40


TAMPERING = {
    "UPDATE arqonbus.books SET arrived = arrived + 3": "3 records are unaccounted for",
    "UPDATE arqonbus.audit SET actor = 'mallory' WHERE number = 2": "row 2 was changed",
    "DELETE FROM arqonbus.audit WHERE number = 2": "row 2 is missing",
    "UPDATE arqonbus.episodes SET content_ref = 'other'": "40 episodes are not what their events say",
}


@pytest.mark.parametrize("statement", TAMPERING)
def test_a_drill_fails_for_what_is_wrong_in_the_backup(
    postgres: PostgresServer, store: Postgres, tmp_path: Path, statement: str
) -> None:
    """And says what; preflight will not take its receipt for a good one."""
    fill(store)
    tampered(postgres, store, statement)
    take(store, tmp_path, "logical")
    result = drill(tmp_path)
    assert not result.passed
    assert any(TAMPERING[statement] in fault for fault in result.faults), result.faults
    assert json.loads((tmp_path / "drill.json").read_text())["passed"] is False


def test_an_audit_that_was_cut_off_before_the_backup_is_noticed_by_its_head(
    postgres: PostgresServer, store: Postgres, tmp_path: Path
) -> None:
    """Rows and head taken together leave a sound chain; the manifest of an older backup knows better."""
    fill(store)
    manifest = take(store, tmp_path, "logical")
    tampered(postgres, store, "DELETE FROM arqonbus.audit WHERE number = 3; UPDATE arqonbus.audit_heads SET "
             "number = 2, hash = (SELECT hash FROM arqonbus.audit WHERE number = 2)")  # fmt: skip
    restored_dump = take(store, tmp_path, "logical", datetime.now(UTC) + timedelta(seconds=5))
    (tmp_path / restored_dump.name / "manifest.json").write_text(
        json.dumps({**json.loads((tmp_path / restored_dump.name / "manifest.json").read_text()),
                    "heads": {tenant: list(head) for tenant, head in manifest.heads.items()}})
    )  # fmt: skip
    result = drill(tmp_path, restored_dump.name)
    assert any("row 3 to 3 are missing" in fault for fault in result.faults), result.faults


def test_a_backup_that_was_changed_is_refused(store: Postgres, tmp_path: Path) -> None:
    """A bit of the dump, a manifest that is none, a name that there is not."""
    fill(store)
    manifest = take(store, tmp_path, "logical")
    dump = tmp_path / manifest.name / "postgres.dump"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    assert any("was changed since" in fault for fault in drill(tmp_path).faults)
    with pytest.raises(BackupRefused, match="was changed since"):
        restore_dump(store, tmp_path, manifest.name)
    with pytest.raises(BackupRefused, match="there is no whole backup"):
        read(tmp_path, "logical-19700101T000000Z")


def test_a_backup_that_fails_leaves_nothing(store: Postgres, tmp_path: Path) -> None:
    """No directory that somebody could take for one."""
    nobody = store.model_copy(update={"user": "nobody"})
    with pytest.raises(StorageError, match="refuses the password"):
        take(nobody, tmp_path, "logical")
    assert not list(tmp_path.iterdir())


def test_the_commands(
    store: Postgres, postgres: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Backup, list, drill and restore, as an operator types them."""
    events = fill(store)
    options = [f"--set=datastores.postgres.{name}={value}" for name, value in (
        ("url", store.url), ("user", store.user), ("password", postgres.password), ("sslmode", "disable"),
    )]  # fmt: skip
    options += ["--directory", str(tmp_path)]
    assert main(["backup", *options]) == 0
    assert f"schema {own_steps()[-1].number:04}" in capsys.readouterr().out
    (name,) = backups(tmp_path)
    assert main(["backup", "--list", *options]) == 0
    assert capsys.readouterr().out.strip() == name
    assert main(["drill", *options]) == 0
    assert f"{name} passed" in capsys.readouterr().out
    assert main(["restore", name, *options]) == 2
    assert main(["restore", name, "--yes", *options]) == 0
    assert holds(store, events[0])
    assert main(["restore", name, "--to", str(tmp_path / "x"), *options]) == 1
    assert "is a dump" in capsys.readouterr().err
    assert postgres.password not in capsys.readouterr().out
