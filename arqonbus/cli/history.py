"""`arqonbus history`: read stored messages of a room, or of all rooms that match a pattern."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

from arqonbus.cli import message_view
from arqonbus.cli.connect_options import add_connect_options, run_client
from arqonbus.cli.table import styled

if TYPE_CHECKING:
    from arqonbus.client import Client

SUMMARY = "Read stored messages of a room."

EPILOG = """examples:
  arqonbus history orders
  arqonbus history orders --limit 5 --oldest-first
  arqonbus history orders --from 2030-01-31T12:00:00Z --to 2030-01-31T13:00:00Z --all --json
  arqonbus history orders --strict-sequence --all
  arqonbus history 'orders.*' --all --json > orders.ndjson

ROOM may be a pattern: every matching room of the tenant is read, ordered by name. The time window includes
--from and excludes --to. exit codes: 0 done, 1 refused, bus unreachable, or a gap in the log with
--strict-sequence, 2 wrong usage"""

ROOMS_AT_ONCE = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", help="room to read; * matches any characters")
    parser.add_argument("--channel", default="", metavar="NAME", help="only this channel")
    parser.add_argument("--from", dest="begin", type=_moment, metavar="TIME", help="RFC 3339 with a zone")
    parser.add_argument(
        "--to", dest="end", type=_moment, metavar="TIME", help="RFC 3339 with a zone; exclusive"
    )
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="messages per room; default: 20")
    parser.add_argument("--all", action="store_true", help="all messages in the time window")
    parser.add_argument("--oldest-first", action="store_true", help="default: newest first")
    parser.add_argument(
        "--strict-sequence", action="store_true", help="oldest first; fail at a gap in the sequence"
    )
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    return run_client(args, lambda client: _read(client, args))


def _moment(text: str) -> datetime:
    from arqonbus.protocol.errors import Invalid
    from arqonbus.protocol.wire_json import parse_time

    try:
        parse_time("it", text)
    except Invalid as error:
        raise argparse.ArgumentTypeError(error.message) from error
    return datetime.fromisoformat(text)


async def _read(client: Client, args: argparse.Namespace) -> int:
    shown = rooms = 0
    more = False
    async with aclosing(_rooms(client, args.room)) as named:
        async for room in named:
            count, cut = await _read_room(client, room, args)
            shown += count
            rooms += 1
            more = more or cut
    if not args.json:
        messages = f"{shown} message{'' if shown == 1 else 's'}"
        where = f" in {rooms} room{'' if rooms == 1 else 's'}" if "*" in args.room else ""
        print(styled(f"{messages}{where}{'; for more, use --limit or --all' if more else ''}", "dim"))
    return 0


async def _read_room(client: Client, room: str, args: argparse.Namespace) -> tuple[int, bool]:
    """The number of messages shown, and whether there are more."""
    shown = 0
    messages = client.history(
        room,
        channel=args.channel,
        begin=args.begin,
        end=args.end,
        newest_first=not (args.oldest_first or args.strict_sequence),
        strict_sequence=args.strict_sequence,
        page=1000 if args.all else max(1, min(1000, args.limit + 1)),
    )
    async with aclosing(messages):
        async for message in messages:
            if shown == args.limit and not args.all:
                return shown, True
            shown += 1
            print(message_view.as_json(message) if args.json else message_view.line(message))
    return shown, False


async def _rooms(client: Client, pattern: str) -> AsyncGenerator[str, None]:
    """The selected rooms. Their names are read page by page."""
    from arqonbus.config.globs import Glob

    if "*" not in pattern:
        yield pattern
        return
    glob = Glob(pattern)
    after: str | None = ""
    while after is not None:
        page = await client.command("op.rooms.list", {"after": after, "limit": ROOMS_AT_ONCE}, again=True)
        for room in page["rooms"]:
            if glob.matches(room):
                yield room
        after = page.get("cursor")
