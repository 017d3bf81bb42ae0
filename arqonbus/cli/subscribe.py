"""`arqonbus subscribe`: print messages of rooms, one per line, for pipes and scripts."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from arqonbus.cli import Failure, message_view
from arqonbus.cli.connect_options import add_connect_options, run_client

if TYPE_CHECKING:
    from arqonbus.client import Client, Message, MessagesLost, Position

SUMMARY = "Print messages of rooms as they arrive, one per line."

EPILOG = """examples:
  arqonbus subscribe orders
  arqonbus subscribe orders payments --count 10
  arqonbus subscribe orders --channel eu --json | jq .payload
  arqonbus subscribe orders --since 01J9ZC0M2Q8F5RB7K3T1V6WXYZ:42

Prints the payload of each message; with --json, the whole envelope. Reconnects and resumes by itself.
exit codes: 0 count reached, 1 refused, bus unreachable, or messages lost, 2 wrong usage, 130 interrupted"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", nargs="+", help="room to read; several may be given")
    parser.add_argument("--channel", default="", metavar="NAME", help="only this channel")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N messages")
    parser.add_argument(
        "--since", metavar="EPOCH:SEQUENCE", help="start with the messages after this position"
    )
    parser.add_argument("--tolerate-loss", action="store_true", help="report lost messages and continue")
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    if args.since and len(args.room) > 1:
        raise Failure("--since is a position in one room; give a single room", 2)
    since = _position(args.since) if args.since else None
    return run_client(args, lambda client: _follow(client, args, since))


async def _follow(client: Client, args: argparse.Namespace, since: Position | None) -> int:
    received: asyncio.Queue[Message] = asyncio.Queue(1000)
    on_lost = _say_loss if args.tolerate_loss else None

    async def read(room: str) -> None:
        subscription = await client.subscribe(room, channel=args.channel, since=since, on_lost=on_lost)
        async for message in subscription:
            await received.put(message)

    async def write() -> None:
        left = args.count
        while left is None or left > 0:
            message = await received.get()
            print(message_view.as_json(message) if args.json else _payload(message), flush=True)
            left = left - 1 if left is not None else None

    writer = asyncio.create_task(write())
    readers = [asyncio.create_task(read(room)) for room in args.room]
    try:
        done, _ = await asyncio.wait([writer, *readers], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (writer, *readers):
            task.cancel()
        await asyncio.gather(writer, *readers, return_exceptions=True)
    return 0


def _payload(message: Message) -> str:
    return message_view.payload_text(message.payload, message.content_type)


def _say_loss(loss: MessagesLost) -> None:
    print(f"arqonbus: {loss}", file=sys.stderr, flush=True)


def _position(text: str) -> Position:
    from arqonbus.client import Position

    epoch, _, number = text.partition(":")
    if not epoch or not number.isdigit():
        raise Failure("--since is not EPOCH:SEQUENCE; take both from the output of --json", 2)
    return Position(epoch, int(number))
