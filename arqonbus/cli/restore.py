"""`arqonbus restore`: restore Postgres from a backup."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from arqonbus.cli import Failure
from arqonbus.cli.backup import add_backup_options, directory_of, sentences, store_of
from arqonbus.cli.profile_options import load_profile
from arqonbus.cli.store_options import time

SUMMARY = "Restore Postgres from a backup."

EPILOG = """examples:
  arqonbus backup --profile prod --list
  arqonbus restore newest --profile prod --check
  arqonbus restore logical-20261121T020000Z --profile prod --yes
  arqonbus restore base-20261121T020000Z --profile prod --to /var/lib/postgresql/17/restored \\
      --archive /var/backups/arqonbus/wal --until 2026-11-21T14:30:05Z

A dump is restored to the profile's database in one transaction: if it fails, nothing changes. A base backup
is restored to a new data directory; a server started there replays the log up to --until. Restore Valkey's
part, valkey.rdb, on Valkey's host. Stop the bus and the projectors first.
exit codes: 0 done, 1 failed, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="BACKUP", help="name from arqonbus backup --list, or newest")
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="restore a base backup to this new data directory"
    )
    parser.add_argument("--archive", type=Path, metavar="DIR", help="directory of the server's archived log")
    parser.add_argument("--until", type=time, metavar="TIME", help="RFC 3339; default: the end of the log")
    parser.add_argument("--check", action="store_true", help="verify the backup, and change nothing")
    parser.add_argument(
        "--yes", action="store_true", help="confirm that the current content of the database is replaced"
    )
    add_backup_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.maintenance.backup import newest, read
    from arqonbus.maintenance.restore import restore_dump, unpack_base

    settings = load_profile(args, secrets_of=("datastores.postgres.",)).settings
    directory = directory_of(args, settings)
    if args.to is None and not (args.yes or args.check):
        raise Failure("this replaces the content of the database; confirm with --yes", 2)
    with sentences():
        name = newest(directory) if args.name == "newest" else args.name
        if args.check:
            manifest = read(directory, name)
            said = f"{name} is intact, as taken at {manifest.taken_at}"
        elif args.to is None:
            manifest = restore_dump(store_of(args, settings), directory, name)
            said = f"the database is restored to {manifest.taken_at}"
        else:
            manifest = unpack_base(directory, name, args.to, archive=args.archive, until=args.until)
            said = f"a server can be started in {args.to}"
    print(json.dumps(asdict(manifest)) if args.json else said)
    return 0
