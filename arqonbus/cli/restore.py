"""`arqonbus restore`: bring Postgres back to a backup."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from arqonbus.cli import Failure
from arqonbus.cli.backup import add_backup_options, directory_of, sentences, store_of
from arqonbus.cli.profile_options import load_profile
from arqonbus.cli.store_options import time

SUMMARY = "Bring Postgres back to a backup."

EPILOG = """examples:
  arqonbus backup --profile prod --list
  arqonbus restore newest --profile prod --check
  arqonbus restore logical-20261121T020000Z --profile prod --yes
  arqonbus restore base-20261121T020000Z --profile prod --to /var/lib/postgresql/17/restored \\
      --archive /var/backups/arqonbus/wal --until 2026-11-21T14:30:05Z

A dump goes into the database of the profile, in one transaction: it is as it was, or nothing changed. A base
backup becomes a new directory; a server that starts in it reads the log up to the second that --until names.
Valkey's part, valkey.rdb, is put back on Valkey's host. Stop the bus and the projectors first.
exit codes: 0 done, 1 failed, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="BACKUP", help="as arqonbus backup --list shows it, or newest")
    parser.add_argument("--to", type=Path, metavar="DIR", help="make a data directory of a base backup")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="where the server archived its log")
    parser.add_argument("--until", type=time, metavar="TIME", help="RFC 3339; default: the end of the log")
    parser.add_argument("--check", action="store_true", help="see that it is as it was taken; change nothing")
    parser.add_argument("--yes", action="store_true", help="what is in the database now may go")
    add_backup_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.maintenance.backup import newest, read
    from arqonbus.maintenance.restore import restore_dump, unpack_base

    settings = load_profile(args, secrets_of=("datastores.postgres.",)).settings
    directory = directory_of(args, settings)
    if args.to is None and not (args.yes or args.check):
        raise Failure("this replaces what is in the database; say so with --yes", 2)
    with sentences():
        name = newest(directory) if args.name == "newest" else args.name
        if args.check:
            manifest = read(directory, name)
            said = f"{name} is as it was taken at {manifest.taken_at}"
        elif args.to is None:
            manifest = restore_dump(store_of(args, settings), directory, name)
            said = f"the database is as it was at {manifest.taken_at}"
        else:
            manifest = unpack_base(directory, name, args.to, archive=args.archive, until=args.until)
            said = f"a server can start in {args.to}"
    print(json.dumps(asdict(manifest)) if args.json else said)
    return 0
