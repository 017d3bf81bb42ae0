"""`arqonbus export`: publish pending events from Continuum's outbox."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.cli import INTERRUPTED, Failure
from arqonbus.cli.connect_options import add_connect_options, client_of

if TYPE_CHECKING:
    from arqonbus.continuum.exporter import Exported

SUMMARY = "Publish pending events from Continuum's outbox."

EPILOG = """examples:
  arqonbus export memory.db
  arqonbus export memory.db --once --json
  arqonbus export memory.db --url wss://bus.example.org/v1/ws --token-file token

It resumes from the position in memory.db.cursor, also after a kill. While the bus is unreachable, it waits
and retries; Continuum is not affected. Invalid events that the bus refuses are kept with the reason in
memory.db.refused. exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("outbox", type=Path, help="SQLite file with the table continuum_outbox")
    parser.add_argument("--cursor", type=Path, metavar="FILE", help="default: OUTBOX.cursor")
    parser.add_argument("--refused", type=Path, metavar="FILE", help="default: OUTBOX.refused")
    parser.add_argument("--once", action="store_true", help="exit when all pending events are published")
    parser.add_argument(
        "--from-begin", action="store_true", help="publish all events again from the beginning"
    )
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.continuum.exporter import Exporter
    from arqonbus.continuum.outbox import Cursor, Outbox, OutboxError, Place

    beside = args.outbox.name
    cursor = Cursor(args.cursor or args.outbox.with_name(f"{beside}.cursor"))
    refused = args.refused or args.outbox.with_name(f"{beside}.refused")
    try:
        outbox = Outbox(args.outbox)
        if args.from_begin:
            cursor.write(Place())
        exporter = Exporter(
            outbox, cursor, lambda: client_of(args), refused, lambda done: _progress(done, as_json=args.json)
        )
        with suppress(asyncio.CancelledError):
            asyncio.run(exporter.run(follow=not args.once))
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutboxError as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"the cursor cannot be written: {error}") from error
    if not args.json:
        print(_sentence(exporter.done))
    return 0


def _progress(done: Exported, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(done)), flush=True)
    elif sys.stdout.isatty():
        print(f"\r{_sentence(done)}", end="", flush=True)


def _sentence(done: Exported) -> str:
    extra = f", {done.repeated} of them repeated" if done.repeated else ""
    aside = f", {done.set_aside} refused and set aside" if done.set_aside else ""
    return f"{done.published} events published{extra}{aside}; the outbox is published up to {done.position}"
