"""`arqonbus recover`: restore a damaged SQLite log from its last checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from arqonbus.cli import Failure
from arqonbus.cli.profile_options import add_profile_options, load_profile

SUMMARY = "Restore a damaged SQLite log from its last checkpoint."

EPILOG = """examples:
  arqonbus recover
  arqonbus recover --profile staging --json

Use it if the bus reports a damaged log when it starts. The damaged file is kept beside the log. Every room
continues in a new epoch, so that clients learn that messages may be missing. exit codes: 0 done, 1 failed,
nothing was changed, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON")
    add_profile_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.storage.engines import engine_of
    from arqonbus.storage.ports import StorageError
    from arqonbus.storage.sqlite.checkpoint import go_back

    settings = load_profile(args, secrets_of=()).settings
    if not engine_of(settings).checkpoints:
        raise Failure(f"storage.backend is {settings.storage.backend}, which has no checkpoints")
    try:
        done = go_back(Path(settings.sqlite_path))
    except (StorageError, OSError) as error:
        raise Failure(str(error)) from error
    facts = {
        "taken_at": done.taken_at.isoformat(),
        "rooms": done.rooms,
        "messages": done.messages,
        "evidence": str(done.evidence),
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        held = f"{done.messages} messages in {done.rooms} rooms"
        print(f"restored the checkpoint of {done.taken_at:%Y-%m-%d %H:%M:%S} UTC: {held}")
        print(f"the damaged log is kept as {done.evidence}")
    return 0
