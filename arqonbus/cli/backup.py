"""`arqonbus backup`: keep what Postgres holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.cli import Failure
from arqonbus.cli.profile_options import add_profile_options, load_profile

if TYPE_CHECKING:
    from arqonbus.config import Settings
    from arqonbus.config.stores import Postgres

SUMMARY = "Take a backup of what Postgres holds."

EPILOG = """examples:
  arqonbus backup --profile prod
  arqonbus backup --profile prod --kind base --host /run/postgresql --user postgres
  arqonbus backup --profile prod --list

A dump (logical) is read back in minutes; a base backup, with the archive of the log, leads back to any
second. It needs a role that may replicate, such as the superuser on the host of the data. A backup is there
whole or not at all. Try it afterwards: arqonbus drill.
exit codes: 0 done, 1 failed, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=("logical", "base"), default="logical", help="default: logical")
    parser.add_argument("--keep", type=int, default=7, metavar="N", help="of each kind; 0: all (default: 7)")
    parser.add_argument("--list", action="store_true", help="show what there is, and take none")
    add_backup_options(parser)


def add_backup_options(parser: argparse.ArgumentParser) -> None:
    """Add --directory, --host, --user, --json and the profile's options."""
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="default: backup.directory of the profile"
    )
    parser.add_argument("--host", help="another way to the server, such as the directory of its socket")
    parser.add_argument("--user", help="another role")
    parser.add_argument("--json", action="store_true", help="write JSON")
    add_profile_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.ops.backup import backups, prune, read, take

    settings = load_profile(args, secrets_of=("datastores.postgres.",)).settings
    directory = directory_of(args, settings)
    if args.list:
        names = backups(directory)
        print(json.dumps(list(names)) if args.json else "\n".join(names) or f"there is none in {directory}")
        return 0
    with sentences():
        manifest = take(store_of(args, settings), directory, args.kind)
        gone = prune(directory, args.keep)
        read(directory, manifest.name)
    if args.json:
        print(json.dumps(asdict(manifest) | {"directory": str(directory), "removed": list(gone)}))
        return 0
    size = sum(path.stat().st_size for path in (directory / manifest.name).iterdir())
    print(f"{directory / manifest.name}: {size} bytes, schema {manifest.schema:04}")
    for name in gone:
        print(f"removed {name}")
    return 0


@contextmanager
def sentences() -> Iterator[None]:
    """Turns what can go wrong with a backup into the end of a command."""
    from arqonbus.ops.backup import BackupRefused
    from arqonbus.ops.postgres_programs import ProgramFailed
    from arqonbus.storage.ports import StorageError

    try:
        yield
    except (BackupRefused, ProgramFailed, StorageError) as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"{error.filename or 'the directory'}: {error.strerror}") from error


def store_of(args: argparse.Namespace, settings: Settings) -> Postgres:
    """The server of the profile, reached as the options say."""
    store = settings.datastores.postgres
    if not store.configured:
        raise Failure("no Postgres is configured; set datastores.postgres")
    changes: dict[str, object] = {}
    if args.user:
        changes |= {"user": args.user, "password": None}
    if args.host:
        changes |= {"host": args.host, "url": None}
        if args.host.startswith("/"):
            from urllib.parse import quote, urlsplit

            database = urlsplit(store.dsn() or "").path.lstrip("/") or store.database
            url = f"postgresql:///{database}?host={quote(args.host, safe='')}&port={store.port}"
            changes |= {"host": None, "url": url, "sslmode": "disable"}
    return store.model_copy(update=changes)


def directory_of(args: argparse.Namespace, settings: Settings) -> Path:
    """Where the backups are."""
    directory = args.directory or settings.backup.directory
    if directory is None:
        raise Failure("backup.directory is not set; set it, or name one with --directory")
    return Path(directory)


__all__ = [
    "EPILOG",
    "SUMMARY",
    "add_backup_options",
    "configure",
    "directory_of",
    "run",
    "sentences",
    "store_of",
]
