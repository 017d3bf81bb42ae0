"""The way back: a dump into a database, a base backup and its log into a directory for a server."""

from __future__ import annotations

import os
import pwd
import shlex
from datetime import datetime
from pathlib import Path

from arqonbus.config.stores import Postgres
from arqonbus.maintenance.backup import BASE, DUMP, BackupRefused, Manifest, read
from arqonbus.maintenance.store_programs import environment, pipe, run

_DROP = "DROP SCHEMA IF EXISTS arqonbus CASCADE; DROP SCHEMA IF EXISTS arqonbus_ledger CASCADE"


def restore_dump(store: Postgres, directory: Path, name: str, *, replace: bool = True) -> Manifest:
    """Bring a database back to a logical backup, in one transaction. What came after it is gone.

    Raises BackupRefused, ProgramFailed; then nothing was changed.
    """
    manifest = read(directory, name)
    if manifest.kind != "logical":
        raise BackupRefused(f"{name} is a base backup; restore it to a directory, with --to")
    if not manifest.has_postgres:
        raise BackupRefused(f"{name} holds nothing of Postgres; Valkey's part is put back on its own host")
    # Not pg_restore's own --clean: it takes constraints off partitions that only their parent may give up.
    first = [f"--command={_DROP}"] if replace else []
    pipe(
        ["pg_restore", "--no-owner", "--file=-", str(directory / name / DUMP)],
        ["psql", "--no-psqlrc", "--quiet", "--no-password", "--single-transaction", "--set=ON_ERROR_STOP=1",
         "--output=/dev/null", *first, "--file=-"],
        environment(store),
    )  # fmt: skip
    return manifest


def unpack_base(
    directory: Path,
    name: str,
    target: Path,
    *,
    archive: Path | None = None,
    until: datetime | None = None,
    owner: pwd.struct_passwd | None = None,
) -> Manifest:
    """Make a data directory of a base backup. A server that starts in it reads the log up to `until`.

    Raises BackupRefused. Without `archive` it holds what was committed until the backup ended.
    """
    manifest = read(directory, name)
    if manifest.kind != "base":
        raise BackupRefused(f"{name} is a dump; restore it into a database, without --to")
    if target.exists() and any(target.iterdir()):
        raise BackupRefused(f"{target} is not empty; name a new directory")
    if until is not None and archive is None:
        raise BackupRefused("a point in time needs the archive of the log; name it with --archive")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file, place in ((BASE, target), ("pg_wal.tar.gz", target / "pg_wal")):
        place.mkdir(exist_ok=True)
        run(["tar", "--extract", "--gzip", f"--file={directory / name / file}", f"--directory={place}"])
    if archive is not None:
        lines = [f"restore_command = 'cp {shlex.quote(str(archive))}/%f \"%p\"'"]
        if until is not None:
            lines += [f"recovery_target_time = '{until.isoformat()}'", "recovery_target_action = 'promote'"]
        with (target / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
            settings.write("\n".join(lines) + "\n")
        (target / "recovery.signal").touch()
    target.chmod(0o700)
    if owner is not None:
        for path in (target, *target.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    return manifest


__all__ = ["restore_dump", "unpack_base"]
