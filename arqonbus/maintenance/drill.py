"""Restores the newest backup to servers of its own and asks whether the bus could live on it.

The books balance, every audit chain holds and still has the rows that it had, and the episodes are what their
events say; Valkey reads every key of its snapshot. The receipt is what preflight reads: a backup that was
never restored is a hope.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from arqonbus.config.stores import Postgres
from arqonbus.config.url import Url
from arqonbus.maintenance.backup import SNAPSHOT, BackupRefused, Manifest, newest, read
from arqonbus.maintenance.restore import restore_dump, unpack_base
from arqonbus.maintenance.store_programs import ProgramFailed, program, run, server_user
from arqonbus.maintenance.valkey_snapshot import loaded_keys
from arqonbus.storage.audit_chain import Walk
from arqonbus.storage.postgres.projection import PostgresProjection
from arqonbus.storage.projection import Selection, Subject

RECEIPT = "drill.json"
START_SECONDS = 300
PAGE = 1000
ROLES = ("arqonbus", "arqonbus_writer", "arqonbus_reader")


@dataclass(slots=True)
class Drill:
    """A receipt. `faults` are sentences; the drill passed when there is none."""

    backup: str
    began_at: str
    finished_at: str = ""
    seconds: float = 0.0
    passed: bool = False
    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def drill(directory: Path, name: str | None = None) -> Drill:
    """Restore a backup (else the newest) elsewhere, judge it, and write the receipt.

    Raises BackupRefused where there is nothing to restore, ProgramFailed where it cannot be tried.
    """
    chosen = name or newest(directory)
    result = Drill(chosen, datetime.now(UTC).isoformat())
    began = time.monotonic()
    try:
        manifest = read(directory, chosen)
        if manifest.has_postgres:
            with scratch_server(directory, manifest) as store:
                asyncio.run(_judge(store, manifest, result))
        if manifest.keys is not None:
            _judge_snapshot(directory / chosen / SNAPSHOT, manifest.keys, result)
    except BackupRefused as error:
        result.faults.append(str(error))
    result.passed = not result.faults
    result.finished_at = datetime.now(UTC).isoformat()
    result.seconds = round(time.monotonic() - began, 3)
    fresh = directory / f".{RECEIPT}"
    fresh.write_text(json.dumps(asdict(result), indent=2) + "\n", "utf-8")
    fresh.replace(directory / RECEIPT)
    return result


@contextmanager
def scratch_server(directory: Path, manifest: Manifest) -> Iterator[Postgres]:
    """A server with the backup in it, reachable through a socket only, gone afterwards."""
    owner = server_user()
    place = Path(tempfile.mkdtemp(prefix="arqonbus-drill-"))
    data = place / "data"
    try:
        if owner is not None:
            shutil.chown(place, owner.pw_uid, owner.pw_gid)
        if manifest.kind == "base":
            unpack_base(directory, manifest.name, data, owner=owner)
            (data / "pg_hba.conf").write_text("local all all trust\n", "utf-8")
        else:
            options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=scratch", "--no-sync"]
            run(["initdb", f"--pgdata={data}", *options], owner=owner, cwd=place)
        with _running(data, place) as admin:
            roles = "".join(_CREATE.format(role=role) for role in ROLES)
            run(["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--command={roles}"], admin)
            store = _store(place, admin["PGUSER"], admin["PGDATABASE"])
            if manifest.kind == "logical":
                restore_dump(store, directory, manifest.name, replace=False)
            yield store
    finally:
        shutil.rmtree(place, ignore_errors=True)


_CREATE = (
    "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') "
    "THEN CREATE ROLE {role}; END IF; END $$;"
)


@contextmanager
def _running(data: Path, place: Path) -> Iterator[dict[str, str]]:
    """The server in this data directory; how a superuser reaches it."""
    owner = server_user()
    identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={place}", "-c", "archive_mode=off"]
    options += ["-c", "fsync=off", "-c", "ssl=off", "-c", f"hba_file={data / 'pg_hba.conf'}", "-p", "5432"]
    with (place / "server.log").open("wb") as log:
        server = subprocess.Popen(  # noqa: S603
            [program("postgres"), "-D", str(data), *options], stdout=log, stderr=log, cwd=place, **identity
        )  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            admin = _superuser(place)
            if admin is not None:
                break
            if server.poll() is not None or time.monotonic() > deadline:
                said = (place / "server.log").read_text("utf-8", "replace").strip().splitlines()[-1:]
                raise BackupRefused(f"a server does not start from it: {' '.join(said) or 'no reason given'}")
            time.sleep(0.1)
        yield admin
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(30)


def _superuser(place: Path) -> dict[str, str] | None:
    """The first role that lets us in, and the database of the bus."""
    for role in ("scratch", "postgres", "arqonbus"):
        admin = {"PGHOST": str(place), "PGPORT": "5432", "PGUSER": role, "PGDATABASE": "postgres"}
        command = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet"]
        try:
            if run([*command, f"--command={_IS_SUPERUSER}"], admin).strip() != "t":
                continue
            names = run([*command, f"--command={_DATABASES}"], admin).split()
        except ProgramFailed:
            continue
        for name in names:
            there = {**admin, "PGDATABASE": name}
            if run([*command, f"--command={_HAS_SCHEMA}"], there).strip() == "t":
                return there
        return admin
    return None


_IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
_HAS_SCHEMA = "SELECT to_regnamespace('arqonbus') IS NOT NULL"
_DATABASES = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"


def _store(place: Path, user: str, database: str) -> Postgres:
    url = f"postgresql://{quote(user)}@/{quote(database)}?host={quote(str(place), safe='')}&port=5432"
    return Postgres(url=Url(url), sslmode="disable")


async def _judge(store: Postgres, manifest: Manifest, result: Drill) -> None:
    projection = PostgresProjection(store, application="arqonbus drill")
    try:
        await projection.open()
        result.counts = dict(await projection.counts(None))
        books = await projection.books(None)
        if books.difference:
            result.faults.append(f"the books do not balance: {books.difference} records are unaccounted for")
        for tenant, (number, digest) in manifest.heads.items():
            fault = await _audit_fault(projection, tenant, number, digest)
            if fault:
                result.faults.append(f"the audit of {tenant}: {fault}")
        changed = await _differing(projection)
        if changed:
            result.faults.append(f"{changed} episodes are not what their events say; rebuild them")
    finally:
        await projection.close()


def _judge_snapshot(snapshot: Path, keys: int, result: Drill) -> None:
    try:
        result.counts["keys"] = loaded_keys(snapshot)
    except ProgramFailed as error:
        result.faults.append(str(error))
        return
    if result.counts["keys"] != keys:
        result.faults.append(f"Valkey reads {result.counts['keys']} keys and the backup has {keys}")


async def _audit_fault(projection: PostgresProjection, tenant: str, number: int, digest: str) -> str:
    walk, after = Walk(), 0
    while page := await projection.audit(tenant, after, PAGE):
        verdict = walk.take(page)
        if verdict is not None:
            return verdict.fault
        for entry in page:
            if entry.number == number and entry.hash != digest:
                return f"row {number} is another than when the backup was taken"
        after = page[-1].number
    if after < number:
        return f"row {after + 1} to {number} are missing"
    return walk.end(*await projection.audit_head(tenant)).fault


async def _differing(projection: PostgresProjection) -> int:
    changed, after = 0, Subject()
    while True:
        step = await projection.reproject(Selection(), after, PAGE, rebuild=True, dry_run=True)
        changed += step.changed
        if step.next is None:
            return changed
        after = step.next


__all__ = ["RECEIPT", "Drill", "drill", "scratch_server"]
