"""`arqonbus drill`: restore a backup to separate servers and verify it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from arqonbus.cli.backup import add_backup_options, directory_of, sentences
from arqonbus.cli.profile_options import load_profile

SUMMARY = "Restore a backup to separate servers, and verify it."

EPILOG = """examples:
  arqonbus drill --profile prod
  arqonbus drill --profile prod --backup base-20261121T020000Z --json

The drill passes if the counts of events balance, the audit log is intact and complete, the episodes match
their events, and Valkey loads every key. It writes the receipt drill.json beside the backups, which preflight
reads. The server programs of PostgreSQL and Valkey must be installed on this host.
exit codes: 0 passed, 1 failed, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backup", metavar="NAME", help="default: the newest")
    add_backup_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.maintenance.drill import drill

    directory = directory_of(args, load_profile(args, secrets_of=()).settings)
    with sentences():
        result = drill(directory, args.backup)
    if args.json:
        print(json.dumps(asdict(result)))
    else:
        counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in result.counts.items())
        print(
            f"{result.backup} {'passed' if result.passed else 'failed'} in {result.seconds:.1f} s: {counts}"
        )
        for fault in result.faults:
            print(f"  {fault}")
    return 0 if result.passed else 1
