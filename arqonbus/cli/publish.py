"""`arqonbus publish`: publish messages and print their acks."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from arqonbus.cli import Failure, print_failure
from arqonbus.cli.connect_options import add_connect_options, failure_of, run_client
from arqonbus.cli.lines import LineReader

if TYPE_CHECKING:
    from arqonbus.client import Ack, Client

SUMMARY = "Publish messages to a room."

EPILOG = """examples:
  arqonbus publish hello '{"text": "hi"}'
  arqonbus publish orders '{"id": 7}' --name order.created --channel eu
  arqonbus publish logs 'plain words' --text
  tail -F app.log | arqonbus publish logs - --text

With -, each line of standard input is a message. A line that cannot be published is reported with its number,
and the following lines are still published. exit codes: 0 all acknowledged, 1 refused or bus unreachable,
2 wrong usage"""

AT_ONCE = 256


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", help="room to publish to")
    parser.add_argument("payload", help="JSON value, or - for one message per line of standard input")
    parser.add_argument("--text", action="store_true", help="the payload is plain text, not JSON")
    parser.add_argument("--name", default="", metavar="NAME", help="event type, such as order.created")
    parser.add_argument("--channel", default="", metavar="NAME", help="channel within the room")
    parser.add_argument(
        "--id", default="", metavar="ID", help="ULID or UUIDv7 of the message; a repeated id is stored once"
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="KEY=VALUE", help="add a header; may be repeated"
    )
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    try:
        return _run(args)
    except Failure as failure:
        failure.as_json = args.json
        raise


def _run(args: argparse.Namespace) -> int:
    options = _options(args)
    if args.payload != "-":
        payload = _payload(args.payload, text=args.text)

        async def once(client: Client) -> int:
            _print(await client.publish(args.room, payload, message_id=args.id, **options), as_json=args.json)
            return 0

        return run_client(args, once)
    if args.id:
        raise Failure("--id is for a single message; omit it when reading standard input", 2)
    return run_client(args, lambda client: _publish_lines(client, args, options))


async def _publish_lines(client: Client, args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Publish each line as it arrives, and print the acks in the order of the lines."""
    lines = LineReader(sys.stdin.fileno())
    under_way: asyncio.Queue[tuple[int, asyncio.Task[Ack]] | None] = asyncio.Queue(AT_ONCE)
    printing = asyncio.create_task(_print_acks(under_way, args))
    number = 0
    try:
        async for line in lines:
            number += 1
            if line.strip():
                await under_way.put((number, asyncio.create_task(_publish_line(client, line, args, options))))
            if printing.done():
                break
        await under_way.put(None)
        failed = await printing
    finally:
        printing.cancel()
        await asyncio.gather(printing, return_exceptions=True)
        while not under_way.empty():
            if (left := under_way.get_nowait()) is not None:
                left[1].cancel()
    if failed and not args.json:
        print(f"arqonbus: {failed} of {number} lines were not published", file=sys.stderr)
    return 1 if failed else 0


async def _publish_line(
    client: Client, line: bytes, args: argparse.Namespace, options: dict[str, Any]
) -> Ack:
    try:
        written = line.decode()
    except UnicodeDecodeError as error:
        raise Failure("the line is not UTF-8") from error
    return await client.publish(args.room, _payload(written, text=args.text), **options)


async def _print_acks(
    under_way: asyncio.Queue[tuple[int, asyncio.Task[Ack]] | None], args: argparse.Namespace
) -> int:
    """Print the result of each line; return the number of failures. Raises errors that end the client."""
    from arqonbus.client import ClientError, Closed

    failed = 0
    while (published := await under_way.get()) is not None:
        number, task = published
        try:
            _print(await task, as_json=args.json)
        except Closed:
            raise
        except (ClientError, Failure) as error:
            failed += 1
            failure = error if isinstance(error, Failure) else failure_of(error, args)
            failure.as_json = args.json
            print_failure(failure, line=number)
    return failed


def _payload(written: str, *, text: bool) -> bytes:
    """The bytes to send, exactly as given: parsing and writing JSON could change numbers."""
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
        again = ", already stored" if ack.duplicate else ""
        print(f"{ack.room} {ack.sequence}  {ack.durability}{again}  {ack.id}", flush=True)
