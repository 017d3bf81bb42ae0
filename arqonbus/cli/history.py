"""`arqonbus history`: what a room holds, a window at a time."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from arqonbus.cli import message_view
from arqonbus.cli.connect_options import add_connect_options, run_client
from arqonbus.cli.table import styled

if TYPE_CHECKING:
    from arqonbus.client import Client

SUMMARY = "Read what a room holds."

EPILOG = """examples:
  arqonbus history orders
  arqonbus history orders --limit 5 --oldest-first
  arqonbus history orders --from 2030-01-31T12:00:00Z --to 2030-01-31T13:00:00Z --all --json
  arqonbus history orders --strict-sequence --all

The window is half-open: from <= t < to. exit codes: 0 done, 1 refused, no bus, or a hole in the log with
--strict-sequence, 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", help="room to read")
    parser.add_argument("--channel", default="", metavar="NAME", help="only this channel")
    parser.add_argument("--from", dest="from_", metavar="TIME", help="RFC 3339 with a zone")
    parser.add_argument("--to", metavar="TIME", help="RFC 3339 with a zone; itself not included")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="messages; default: 20")
    parser.add_argument("--all", action="store_true", help="everything in the window, page after page")
    parser.add_argument("--oldest-first", action="store_true", help="default: newest first")
    parser.add_argument("--strict-sequence", action="store_true", help="oldest first, and fail at a hole")
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    return run_client(args, lambda client: _read(client, args))


async def _read(client: Client, args: argparse.Namespace) -> int:
    replay = args.oldest_first or args.strict_sequence
    operation = "op.history.replay" if replay else "op.history.get"
    arguments: dict[str, Any] = {"room": args.room, "channel": args.channel}
    if args.from_:
        arguments["from"] = args.from_
    if args.to:
        arguments["to"] = args.to
    if args.strict_sequence:
        arguments["strict_sequence"] = True
    shown = 0
    while True:
        arguments["limit"] = 500 if args.all else max(1, min(1000, args.limit - shown))
        page = await client.command(operation, arguments)
        for fields in page["messages"]:
            _print(fields, args)
        shown += len(page["messages"])
        cursor = page.get("cursor")
        if cursor is None or (not args.all and shown >= args.limit):
            break
        arguments["cursor"] = cursor
    if not args.json:
        more = "" if cursor is None else "; there is more: --limit or --all"
        print(styled(f"{shown} message{'' if shown == 1 else 's'}{more}", "dim"))
    return 0


def _print(fields: dict[str, Any], args: argparse.Namespace) -> None:
    from arqonbus.client import Message
    from arqonbus.protocol import wire_json

    text = json.dumps(fields)
    envelope = wire_json.decode(text)[0].envelope
    if envelope is not None:
        print(wire_json.encode(envelope).decode() if args.json else message_view.line(Message(envelope)))
