"""`arqonbus backup`: back up Postgres and Valkey."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.cli import Failure
from arqonbus.cli.profile_options import add_profile_options, load_profile

if TYPE_CHECKING:
    from arqonbus.config import Resolved, Settings
    from arqonbus.config.stores import Postgres, Valkey
    from arqonbus.maintenance.backup import Sources

SUMMARY = "Back up Postgres and Valkey."

EPILOG = """examples:
  arqonbus backup --profile prod --valkey-user backup --valkey-credential valkey_backup_password
  arqonbus backup --profile prod --part postgres --kind base --host /run/postgresql --user postgres
  arqonbus backup --profile prod --list

A backup contains the datastores of the profile, and the profile itself. A dump of Postgres (logical) is
restored in minutes. A base backup, together with the archived log, can be restored to any second; it needs
a role with REPLICATION, such as the superuser on the host of the data. Valkey needs a user that may
replicate, too; the user of the bus may not. A backup is complete or does not exist. Verify it with
arqonbus drill.
exit codes: 0 done, 1 failed, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=("logical", "base"), default="logical", help="default: logical")
    parser.add_argument(
        "--keep", type=int, default=7, metavar="N", help="backups to keep of each kind; 0: all (default: 7)"
    )
    parser.add_argument(
        "--part",
        choices=("postgres", "valkey"),
        action="append",
        help="datastore to back up; may be repeated; default: both, if configured",
    )
    parser.add_argument("--valkey-user", metavar="USER", help="user for Valkey; default: that of the profile")
    parser.add_argument(
        "--valkey-credential", metavar="NAME", help="credential that holds the password of --valkey-user"
    )
    parser.add_argument(
        "--receipt", type=Path, metavar="FILE", help="receipt of a preflight to include in the backup"
    )
    parser.add_argument("--list", action="store_true", help="list existing backups")
    add_backup_options(parser)


def add_backup_options(parser: argparse.ArgumentParser) -> None:
    """Add --directory, --host, --user, --json and the profile's options."""
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="default: backup.directory of the profile"
    )
    parser.add_argument(
        "--host", help="host of Postgres, or the directory of its socket; default: that of the profile"
    )
    parser.add_argument("--user", help="role for Postgres; default: that of the profile")
    parser.add_argument("--json", action="store_true", help="write JSON")
    add_profile_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.maintenance.backup import backups, prune, read, take

    parts = [] if args.list else args.part or ["postgres", "valkey"]
    followed = [f"datastores.{part}." for part in parts if part == "postgres" or not args.valkey_credential]
    resolved = load_profile(args, secrets_of=followed)
    directory = directory_of(args, resolved.settings)
    if args.list:
        names = backups(directory)
        print(json.dumps(list(names)) if args.json else "\n".join(names) or f"no backup in {directory}")
        return 0
    with sentences():
        manifest = take(_sources(args, resolved), directory, args.kind)
        gone = prune(directory, args.keep)
        read(directory, manifest.name)
    if args.json:
        print(json.dumps(asdict(manifest) | {"directory": str(directory), "removed": list(gone)}))
        return 0
    size = sum(path.stat().st_size for path in (directory / manifest.name).iterdir())
    keys = f", {manifest.keys} keys" if manifest.keys is not None else ""
    print(f"{directory / manifest.name}: {size} bytes, schema {manifest.schema:04}{keys}")
    for name in gone:
        print(f"removed {name}")
    return 0


def _sources(args: argparse.Namespace, resolved: Resolved) -> Sources:
    """The selected parts, of those that the profile configures."""
    from arqonbus.maintenance.backup import Sources

    settings = resolved.settings
    used = {
        "postgres": settings.datastores.postgres.configured,
        "valkey": settings.storage.backend == "valkey",
    }
    parts = args.part or [part for part, is_used in used.items() if is_used]
    if not parts:
        raise Failure(
            "the profile configures neither Postgres nor Valkey; copy the file of the embedded engine"
        )
    return Sources(
        store_of(args, settings) if "postgres" in parts else None,
        _valkey_of(args, settings) if "valkey" in parts else None,
        _papers(args, resolved),
    )


def _valkey_of(args: argparse.Namespace, settings: Settings) -> Valkey:
    """Valkey of the profile, with the user from the options."""
    from pydantic import SecretStr

    from arqonbus.config.secrets import Reference, Vault, secrets_directories

    store = settings.datastores.valkey
    if not store.configured:
        raise Failure("no Valkey is configured; set datastores.valkey")
    changes: dict[str, object] = {"user": args.valkey_user} if args.valkey_user else {}
    if args.valkey_credential:
        vault = Vault(os.environ, secrets_directories(args.secrets_dir, os.environ))
        try:
            secret = vault.resolve(Reference("credential", (args.valkey_credential,)))
        except ValueError as error:
            raise Failure(f"the password of {args.valkey_user or store.user} {error}") from error
        changes["password"] = SecretStr(secret)
    return store.model_copy(update=changes)


def _papers(args: argparse.Namespace, resolved: Resolved) -> dict[str, Path]:
    """The profile files, its waivers, and the receipt of its preflight."""
    sources = [Path(layer.source) for layer in resolved.provenance.layers]
    files = [source for source in sources if source.is_file()]
    files += [path for file in files if (path := file.with_name("waivers.yaml")).is_file()]
    papers = {str(file.absolute()).lstrip("/"): file for file in files}
    if args.receipt and args.receipt.is_file() and args.receipt.stat().st_size:
        papers["receipt.json"] = args.receipt
    return papers


@contextmanager
def sentences() -> Iterator[None]:
    """Turn errors of a backup into a Failure."""
    from arqonbus.maintenance.backup import BackupRefused
    from arqonbus.maintenance.store_programs import ProgramFailed
    from arqonbus.storage.ports import StorageError

    try:
        yield
    except (BackupRefused, ProgramFailed, StorageError) as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"{error.filename or 'the directory'}: {error.strerror}") from error


def store_of(args: argparse.Namespace, settings: Settings) -> Postgres:
    """Postgres of the profile, with host and user from the options."""
    store = settings.datastores.postgres
    if not store.configured:
        raise Failure("no Postgres is configured; set datastores.postgres")
    changes: dict[str, object] = {}
    if args.user:
        changes |= {"user": args.user, "password": None}
    if args.host:
        changes |= {"host": args.host, "url": None}
        if args.host.startswith("/"):
            from urllib.parse import quote

            from arqonbus.config.url import Url

            database = quote(store.database_name or store.database, safe="")
            socket = f"postgresql:///{database}?host={quote(args.host, safe='')}&port={store.port}"
            changes |= {"host": None, "url": Url(socket), "sslmode": "disable"}
    return store.model_copy(update=changes)


def directory_of(args: argparse.Namespace, settings: Settings) -> Path:
    """The directory of the backups."""
    directory = args.directory or settings.backup.directory
    if directory is None:
        raise Failure("backup.directory is not set; set it, or give --directory")
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
