"""Backups of a real Postgres and a real Valkey: whole or not there, restored to the second, judged by a drill
that can fail."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arqonbus.cli import main
from arqonbus.config.stores import Postgres, Valkey
from arqonbus.config.url import Url
from arqonbus.maintenance.backup import BackupRefused, Sources, backups, read, take
from arqonbus.maintenance.drill import drill, scratch_server
from arqonbus.maintenance.restore import restore_dump, unpack_base
from arqonbus.maintenance.store_programs import ProgramFailed
from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import RoomKey, StorageError
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.migrations.steps import own_steps
from arqonbus.storage.postgres.projection import PostgresProjection
from arqonbus.storage.projection import Arrival, DeadLetter, Event, Origin, Subject
from arqonbus.storage.witness import Mark
from tests.servers.certificates import Authority
from tests.servers.episodes import event
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.processes import free_port
from tests.servers.valkey import ValkeyServer, running_server, tls_options

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("backup"), pytest.mark.timeout(180)]

ROOM = RoomKey("acme", "orders")
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
    manifest = take(Sources(store), tmp_path, "logical")
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


def marks(store: Postgres, *given: Mark) -> list[Mark]:
    """What the witness says of a room, after it was told these."""

    async def ask() -> list[Mark]:
        projection = PostgresProjection(store)
        for mark in given:
            await projection.witness({ROOM: mark})
        found = await projection.marks([ROOM])
        await projection.close()
        return list(found.values())

    return asyncio.run(ask())


def test_a_witness_does_not_come_back(store: Postgres, tmp_path: Path) -> None:
    """It would swear that an engine which was restored with it lacks nothing."""
    mark = Mark(new_ulid(), 6, "a run")
    assert marks(store, mark) == [mark]
    manifest = take(Sources(store), tmp_path, "logical")
    restore_dump(store, tmp_path, manifest.name)
    assert marks(store) == []


def test_a_base_backup_and_the_log_lead_to_a_second_between_two_writes(
    postgres: PostgresServer, store: Postgres, tmp_path: Path, archive: Path
) -> None:
    """The write before that moment is there, and the one after it is not."""
    fill(store, 5)
    manifest = take(Sources(store), tmp_path, "base")
    (before,) = fill(store, 1)
    marks(store, Mark(new_ulid(), 6, "a run"))
    until = datetime.fromisoformat(postgres.ask("SELECT clock_timestamp()"))
    (after,) = fill(store, 1)
    postgres.ask("SELECT pg_switch_wal()")
    segment = postgres.ask("SELECT pg_walfile_name(pg_switch_wal())")
    deadline = time.monotonic() + 30
    while not (archive / segment).exists() and time.monotonic() < deadline:
        postgres.ask("SELECT 1")
    with restored(tmp_path, manifest.name, archive, until) as there:
        database = (store.url or "").rpartition("/")[2]
        url = Url((there.url or "").replace("/postgres?", f"/{database}?"))
        found = there.model_copy(update={"url": url})
        assert holds(found, before)
        assert not holds(found, after)
        assert marks(found) == []


@contextmanager
def restored(directory: Path, name: str, archive: Path, until: datetime) -> Iterator[Postgres]:
    """A server that runs in what unpack_base made."""
    from unittest.mock import patch

    from arqonbus.maintenance import drill as module

    def to_the_second(place: Path, backup: str, target: Path, **options: object) -> object:
        return unpack_base(place, backup, target, archive=archive, until=until, owner=options["owner"])  # type: ignore[arg-type]

    manifest = read(directory, name)
    with patch.object(module, "unpack_base", to_the_second), scratch_server(directory, manifest) as there:
        yield there


def test_a_base_backup_passes_its_drill(store: Postgres, tmp_path: Path) -> None:
    """As a dump does."""
    fill(store)
    take(Sources(store), tmp_path, "base")
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
    take(Sources(store), tmp_path, "logical")
    result = drill(tmp_path)
    assert not result.passed
    assert any(TAMPERING[statement] in fault for fault in result.faults), result.faults
    assert json.loads((tmp_path / "drill.json").read_text())["passed"] is False


def test_an_audit_that_was_cut_off_before_the_backup_is_noticed_by_its_head(
    postgres: PostgresServer, store: Postgres, tmp_path: Path
) -> None:
    """Rows and head taken together leave a sound chain; the manifest of an older backup knows better."""
    fill(store)
    manifest = take(Sources(store), tmp_path, "logical")
    tampered(postgres, store, "DELETE FROM arqonbus.audit WHERE number = 3; UPDATE arqonbus.audit_heads SET "
             "number = 2, hash = (SELECT hash FROM arqonbus.audit WHERE number = 2)")  # fmt: skip
    restored_dump = take(Sources(store), tmp_path, "logical", datetime.now(UTC) + timedelta(seconds=5))
    (tmp_path / restored_dump.name / "manifest.json").write_text(
        json.dumps({**json.loads((tmp_path / restored_dump.name / "manifest.json").read_text()),
                    "heads": {tenant: list(head) for tenant, head in manifest.heads.items()}})
    )  # fmt: skip
    result = drill(tmp_path, restored_dump.name)
    assert any("row 3 to 3 are missing" in fault for fault in result.faults), result.faults


def test_a_backup_that_was_changed_is_refused(store: Postgres, tmp_path: Path) -> None:
    """A bit of the dump, a manifest that is none, a name that there is not."""
    fill(store)
    manifest = take(Sources(store), tmp_path, "logical")
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
        take(Sources(nobody), tmp_path, "logical")
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


# -- Valkey's part

PASSWORD = "of-the-backup"


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """With 300 keys, and the user of the backups, who may read no key."""
    with running_server(tmp_path_factory.mktemp("valkey")) as server:
        for number in range(300):
            server.ask("SET", f"tenant:acme:{number}", "x" * 100)
        rights = ("-@all", "+hello", "+auth", "+ping", "+psync", "+sync", "+replconf")
        server.ask("ACL", "SETUSER", "backup", "on", f">{PASSWORD}", *rights)
        yield server


def as_backup(server: ValkeyServer, **changes: object) -> Valkey:
    return Valkey.model_validate({"url": server.url, "user": "backup", "password": PASSWORD, **changes})


def test_a_snapshot_of_valkey_is_read_key_by_key(
    store: Postgres, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Also those that ended meanwhile; it lies beside the dump, under the same manifest."""
    fill(store)
    valkey.ask("PEXPIRE", "tenant:acme:0", 6000)
    manifest = take(Sources(store, as_backup(valkey)), tmp_path, "logical")
    assert manifest.keys == 300
    assert manifest.files.keys() == {"postgres.dump", "valkey.rdb"}
    deadline = time.monotonic() + 30
    while valkey.ask("EXISTS", "tenant:acme:0") and time.monotonic() < deadline:
        time.sleep(0.05)
    result = drill(tmp_path)
    assert result.faults == []
    assert (result.counts["keys"], result.counts["episodes"]) == (300, 40)


def test_a_snapshot_that_takes_long_to_load_is_read_to_its_end(valkey: ValkeyServer, tmp_path: Path) -> None:
    """A server answers while it loads, with the keys that it has so far."""
    for number in range(600):
        valkey.ask("SET", f"tenant:acme:large:{number}", os.urandom(200_000))
    assert take(Sources(valkey=as_backup(valkey)), tmp_path, "logical").keys == 900
    result = drill(tmp_path)
    assert (result.faults, result.counts["keys"]) == ([], 900)


def test_a_snapshot_is_taken_over_tls(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From a server whose certificate is the authority's, and from no other."""
    authority = Authority(tmp_path_factory.mktemp("authority") / "ca")
    certificate, key = authority.server("localhost", host="localhost")
    port = free_port()
    options = tls_options(port, certificate, key, authority.file)
    with running_server(tmp_path_factory.mktemp("valkey"), *options) as server:
        server.ask("SET", "tenant:acme:1", "x")
        tls = {"enabled": True, "ca_file": str(authority.file)}
        there = Valkey.model_validate({"url": f"valkeys://localhost:{port}", "tls": tls})
        assert take(Sources(valkey=there), tmp_path, "logical").keys == 1
        other = Authority(tmp_path_factory.mktemp("other") / "ca")
        wrong = Valkey.model_validate(
            {"url": f"valkeys://localhost:{port}", "tls": tls | {"ca_file": str(other.file)}}
        )
        with pytest.raises(ProgramFailed, match="valkey-cli did not succeed"):
            take(Sources(valkey=wrong), tmp_path, "logical", datetime.now(UTC) + timedelta(seconds=5))


def test_valkey_alone_is_a_backup_and_nothing_of_postgres(valkey: ValkeyServer, tmp_path: Path) -> None:
    """Where a profile has no Postgres. Then there is nothing that restore could put into a database."""
    manifest = take(Sources(valkey=as_backup(valkey)), tmp_path, "logical")
    assert drill(tmp_path).passed
    with pytest.raises(BackupRefused, match="holds nothing of Postgres"):
        restore_dump(Postgres(), tmp_path, manifest.name)


def test_a_drill_fails_for_a_snapshot_that_is_not_read_as_it_was(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Another number of keys, or a file that Valkey does not read; checksums alone would not tell."""
    name = take(Sources(valkey=as_backup(valkey)), tmp_path, "logical").name
    place = tmp_path / name / "manifest.json"
    honest = json.loads(place.read_text())
    place.write_text(json.dumps(honest | {"keys": 301}))
    assert drill(tmp_path).faults == ["Valkey reads 300 keys and the backup has 301"]
    snapshot = tmp_path / name / "valkey.rdb"
    snapshot.write_bytes(snapshot.read_bytes()[:-2000])
    files = {"valkey.rdb": hashlib.sha256(snapshot.read_bytes()).hexdigest()}
    place.write_text(json.dumps(honest | {"files": files}))
    (fault,) = drill(tmp_path).faults
    assert "a server does not read the snapshot" in fault


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": "wrong"}, "valkey-cli did not succeed"),
        ({"user": "reader"}, "valkey-cli did not succeed"),
        ({"cluster": True}, "Valkey is a cluster, which has no one snapshot"),
    ],
)
def test_a_snapshot_that_cannot_be_taken_leaves_nothing(
    valkey: ValkeyServer, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    """Another password, a user without the right, a cluster."""
    valkey.ask("ACL", "SETUSER", "reader", "on", f">{PASSWORD}", "~*", "+@read", "+ping")
    with pytest.raises(ProgramFailed, match=words):
        take(Sources(valkey=as_backup(valkey, **changes)), tmp_path, "logical")
    assert not list(tmp_path.iterdir())


def test_the_command_takes_what_the_profile_has(
    store: Postgres,
    postgres: PostgresServer,
    valkey: ValkeyServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both stores and the profile, with a receipt; the password of the backups is a credential."""
    secrets, backups_ = tmp_path / "secrets", tmp_path / "backups"
    secrets.mkdir()
    for name, secret in (("of_backup", PASSWORD), ("of_postgres", postgres.password)):
        (secrets / name).write_text(secret)
        (secrets / name).chmod(0o600)
    profile = tmp_path / "profiles" / "dev" / "profile.yaml"
    profile.parent.mkdir(parents=True)
    datastores = {
        "valkey": {"url": valkey.url, "user": "arqonbus", "password": {"from": "credential", "name": "none"}},
        "postgres": {
            "url": store.url,
            "user": store.user,
            "password": {"from": "credential", "name": "of_postgres"},
            "sslmode": "disable",
        },
    }
    settings = {"environment": "dev", "storage": {"backend": "valkey"}, "datastores": datastores}
    profile.write_text(json.dumps(settings))
    (tmp_path / "receipt").write_text("{}")
    options = ["--profile", "dev", "--profiles-dir", str(profile.parents[1]), "--secrets-dir", str(secrets)]
    options += ["--directory", str(backups_)]
    ours = ["--valkey-user", "backup", "--valkey-credential", "of_backup"]
    assert main(["backup", *options, *ours, "--receipt", str(tmp_path / "receipt")]) == 0
    assert ", 300 keys" in capsys.readouterr().out
    (name,) = backups(backups_)
    with tarfile.open(backups_ / name / "profile.tar.gz") as papers:
        assert {"receipt.json", str(profile).lstrip("/")} <= set(papers.getnames())
    assert main(["restore", "newest", "--check", *options]) == 0
    assert f"{name} is intact, as taken at" in capsys.readouterr().out
    assert main(["backup", *options, "--valkey-credential", "elsewhere"]) == 1
    said = capsys.readouterr().err
    assert "the password of arqonbus is to come from the credential elsewhere, which is not in" in said
    assert main(["backup", *options, "--part", "postgres"]) == 0
    assert "keys" not in capsys.readouterr().out
