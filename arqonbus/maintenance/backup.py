"""Backups of Postgres and Valkey: taken whole or not at all, with checksums and what was true at the time.

A backup is a directory with a `manifest.json`. Of Postgres, `logical` is a dump, for databases that are read
back in minutes; `base` is a copy of the cluster, from which the archive of its write-ahead log leads to any
second after it. Of Valkey it holds a snapshot, and beside both the files that say how they were used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from arqonbus import __version__
from arqonbus.config.stores import Postgres, Valkey
from arqonbus.maintenance.store_programs import environment, run
from arqonbus.maintenance.valkey_snapshot import take_snapshot
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.projection import PostgresProjection

Kind = Literal["logical", "base"]

MANIFEST = "manifest.json"
DUMP = "postgres.dump"
BASE = "base.tar.gz"
SNAPSHOT = "valkey.rdb"
PAPERS = "profile.tar.gz"


class BackupRefused(Exception):
    """A backup that is none, or was changed; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of a backup: the configured stores, and further files by their names in the archive."""

    postgres: Postgres | None = None
    valkey: Valkey | None = None
    papers: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a backup. `heads` are number and hash of each tenant's newest audit row.

    `keys` is how many the snapshot of Valkey has; None where Valkey is no part of it. Without Postgres,
    `schema` is 0.
    """

    name: str
    kind: Kind
    taken_at: str
    version: str
    schema: int
    heads: Mapping[str, tuple[int, str]]
    files: Mapping[str, str]
    keys: int | None = None

    @property
    def has_postgres(self) -> bool:
        return not self.files.keys().isdisjoint((DUMP, BASE))


def take(sources: Sources, directory: Path, kind: Kind, now: datetime | None = None) -> Manifest:
    """Take a backup into a new directory below this one. Raises ProgramFailed, StorageError, OSError."""
    moment = now or datetime.now(UTC)
    name = f"{kind}-{moment:%Y%m%dT%H%M%SZ}"
    target = directory / name
    if target.exists():
        raise BackupRefused(f"{target} is there already; wait a second")
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    store = sources.postgres
    heads, schema = asyncio.run(_state(store)) if store else ({}, 0)
    fresh = Path(tempfile.mkdtemp(prefix=".fresh-", dir=directory))
    try:
        fresh.chmod(0o750)
        # The log first: what a projector has acked there must stand in Postgres.
        keys = take_snapshot(sources.valkey, fresh / SNAPSHOT) if sources.valkey else None
        if store and kind == "logical":
            options = ["--format=custom", "--no-unlogged-table-data", "--no-password"]
            run(["pg_dump", f"--file={fresh / DUMP}", *options], environment(store))
        elif store:
            options = ["--format=tar", "--gzip", "--wal-method=stream", "--checkpoint=fast", "--no-password"]
            run(["pg_basebackup", f"--pgdata={fresh}", *options], environment(store))
        if sources.papers:
            _archive(sources.papers, fresh / PAPERS)
        files = {file.name: checksum(file) for file in sorted(fresh.iterdir())}
        manifest = Manifest(name, kind, moment.isoformat(), __version__, schema, heads, files, keys)
        (fresh / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", "utf-8")
        _flush(fresh)
        fresh.rename(target)
        _flush(directory)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return manifest


def _archive(papers: Mapping[str, Path], target: Path) -> None:
    with tarfile.open(target, "w:gz") as archive:
        for name, path in sorted(papers.items()):
            archive.add(path, name)


async def _state(store: Postgres) -> tuple[dict[str, tuple[int, str]], int]:
    """The heads of the audits, and the number of the schema."""
    steps = [each.number for each in await migrate.status(store) if each.state == "applied"]
    projection = PostgresProjection(store, application="arqonbus backup")
    try:
        heads = {tenant: await projection.audit_head(tenant) for tenant in await projection.audited()}
        return heads, max(steps, default=0)
    finally:
        await projection.close()


def backups(directory: Path) -> Sequence[str]:
    """The names of the backups of a directory, oldest first."""
    found = (file.parent for file in directory.glob(f"*/{MANIFEST}"))
    return [path.name for path in sorted(found, key=lambda path: path.name.partition("-")[2])]


def newest(directory: Path) -> str:
    """The name of the newest backup. Raises BackupRefused where there is none."""
    known = backups(directory)
    if not known:
        raise BackupRefused(f"there is no backup in {directory}; take one: arqonbus backup")
    return known[-1]


def read(directory: Path, name: str) -> Manifest:
    """A backup that is whole. Raises BackupRefused for one that is missing, incomplete or changed."""
    place = directory / name
    try:
        data = json.loads((place / MANIFEST).read_text("utf-8"))
        heads = {tenant: (int(number), str(digest)) for tenant, (number, digest) in data.pop("heads").items()}
        manifest = Manifest(**data, heads=heads)
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(backups(directory)) or "none"
        raise BackupRefused(f"there is no whole backup {name} in {directory}; there is: {known}") from error
    for file, expected in manifest.files.items():
        path = place / file
        if not path.is_file() or checksum(path) != expected:
            raise BackupRefused(f"{path} is missing or was changed since it was written; use another backup")
    return manifest


def prune(directory: Path, keep: int) -> Sequence[str]:
    """Remove all but the newest backups of each kind; the names of those that are gone."""
    gone: list[str] = []
    for kind in ("logical", "base"):
        names = [name for name in backups(directory) if name.startswith(f"{kind}-")]
        gone += names[:-keep] if keep else []
    for name in gone:
        shutil.rmtree(directory / name)
    return gone


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(directory: Path) -> None:
    """A backup that a power cut takes away is none."""
    for path in (*directory.iterdir(), directory):
        if path.is_dir() and path != directory:
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = [
    "BASE",
    "DUMP",
    "SNAPSHOT",
    "BackupRefused",
    "Kind",
    "Manifest",
    "Sources",
    "backups",
    "newest",
    "prune",
    "read",
    "take",
]
