"""`arqonbus publish`: send messages and say what became of each."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from arqonbus.cli import Failure
from arqonbus.cli.connect_options import add_connect_options, run_client

if TYPE_CHECKING:
    from arqonbus.client import Ack, Client

SUMMARY = "Publish messages to a room."

EPILOG = """examples:
  arqonbus publish hello '{"text": "hi"}'
  arqonbus publish orders '{"id": 7}' --name order.created --channel eu
  arqonbus publish logs 'plain words' --text
  tail -F app.log | arqonbus publish logs - --text

With - each line of standard input is a message.
exit codes: 0 all acked, 1 refused or no bus, 2 wrong usage"""

AT_ONCE = 256


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", help="room to publish to")
    parser.add_argument("payload", help="JSON value, or - for one message per line of standard input")
    parser.add_argument("--text", action="store_true", help="the payload is plain text, not JSON")
    parser.add_argument("--name", default="", metavar="NAME", help="event type, such as order.created")
    parser.add_argument("--channel", default="", metavar="NAME", help="channel within the room")
    parser.add_argument("--id", default="", metavar="ID", help="message id; the same id is stored only once")
    parser.add_argument(
        "--header", action="append", default=[], metavar="KEY=VALUE", help="a header; may be repeated"
    )
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    options = _options(args)
    if args.payload != "-":
        payload = _payload(args.payload, text=args.text)

        async def once(client: Client) -> int:
            _print(await client.publish(args.room, payload, message_id=args.id, **options), as_json=args.json)
            return 0

        return run_client(args, once)
    if args.id:
        raise Failure("--id is for a single message; leave it out when reading standard input", 2)
    return run_client(args, lambda client: _publish_lines(client, args, options))


async def _publish_lines(client: Client, args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Publish each line as it comes, some at once, and print the acks in order."""
    under_way: list[asyncio.Task[Ack]] = []
    lines = _lines()
    while True:
        line = await asyncio.to_thread(next, lines, None)
        if line is None:
            break
        payload = _payload(line, text=args.text)
        under_way.append(asyncio.create_task(client.publish(args.room, payload, **options)))
        while under_way and (under_way[0].done() or len(under_way) >= AT_ONCE):
            _print(await under_way.pop(0), as_json=args.json)
    for task in under_way:
        _print(await task, as_json=args.json)
    return 0


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        if text := line.rstrip("\r\n"):
            yield text


def _payload(written: str, *, text: bool) -> bytes:
    """The bytes to send: as they were written, so that no number in JSON changes on the way."""
    if not text:
        try:
            json.loads(written)
        except ValueError as error:
            raise Failure(
                f"the payload is not JSON ({error}); quote it, or send it with --text", 2
            ) from error
    return written.encode()


def _options(args: argparse.Namespace) -> dict[str, Any]:
    headers = {}
    for pair in args.header:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Failure(f"--header {pair!r} is not KEY=VALUE", 2)
        headers[key] = value
    return {
        "channel": args.channel,
        "name": args.name,
        "headers": headers,
        "content_type": "text/plain; charset=utf-8" if args.text else "application/json",
    }


def _print(ack: Ack, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(ack)), flush=True)
    else:
        again = ", stored before" if ack.duplicate else ""
        print(f"{ack.room} {ack.sequence}  {ack.durability}{again}  {ack.id}", flush=True)
