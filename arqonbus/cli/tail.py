"""`arqonbus tail`: follow rooms with readable output."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

from arqonbus.cli import message_view
from arqonbus.cli.connect_options import add_connect_options, run_client
from arqonbus.cli.table import styled

if TYPE_CHECKING:
    from arqonbus.cli.table import Style
    from arqonbus.client import Client, MessagesLost, State, Subscription
    from arqonbus.protocol.envelope import Envelope

SUMMARY = "Follow rooms with readable output."

EPILOG = """examples:
  arqonbus tail hello
  arqonbus tail orders payments --last 20
  arqonbus tail orders --channel eu --presence

Prints the last messages, then new ones as they arrive. Reports lost and restored connections, and lost
messages; with --json, as lines {"state": …, "reason": …} and {"lost": room, "reason": …}.
exit codes: 1 refused or bus unreachable, 2 wrong usage, 130 interrupted (Ctrl-C)"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", nargs="+", help="room to follow; several may be given")
    parser.add_argument("--channel", default="", metavar="NAME", help="only this channel")
    parser.add_argument(
        "--last", type=int, default=10, metavar="N", help="print the last N messages first; default: 10"
    )
    parser.add_argument("--presence", action="store_true", help="show clients that join and leave")
    parser.add_argument("--full", action="store_true", help="do not cut lines to the width of the terminal")
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    return run_client(
        args,
        lambda client: _watch(client, args),
        on_signal=lambda signal: _signal(signal, args),
        on_state=_StateLines(args.json),
    )


class _StateLines:
    """Print when the connection is lost and restored."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._lost = False

    def __call__(self, state: State) -> None:
        if state.name == "rejoining" and not self._lost:
            self._lost = True
            self._say(state, f"{state.reason}; reconnecting", "yellow")
        elif state.name == "online" and self._lost:
            self._lost = False
            self._say(state, "connected again", "green")

    def _say(self, state: State, text: str, style: Style) -> None:
        if self._as_json:
            print(json.dumps({"state": state.name, "reason": state.reason}), flush=True)
        else:
            print(styled(f"--- {text}", style), flush=True)


async def _watch(client: Client, args: argparse.Namespace) -> int:
    subscriptions = []
    for room in args.room:
        subscriptions.append(
            await client.subscribe(
                room, channel=args.channel, presence=args.presence, on_lost=lambda loss: _say(loss, args)
            )
        )
    for subscription in subscriptions:
        await _show_last(client, subscription, args)
    if not args.json:
        print(styled(f"following {', '.join(args.room)}; press Ctrl-C to stop", "dim"), flush=True)
    await asyncio.gather(*(_show(subscription, args) for subscription in subscriptions))
    return 0


async def _show_last(client: Client, subscription: Subscription, args: argparse.Namespace) -> None:
    """The room's last messages up to the start of the subscription."""
    from arqonbus.client import Message, Rejected
    from arqonbus.protocol import wire_json

    start = subscription.position
    if args.last < 1 or start is None or not start.sequence:
        return
    arguments: dict[str, Any] = {
        "room": subscription.room,
        "channel": args.channel,
        "limit": min(args.last, 1000),
        "cursor": f"{start.epoch}:{start.sequence + 1}",
    }
    try:
        page = await client.command("op.history.get", arguments)
    except Rejected as refusal:
        if not args.json:
            print(styled(f"no history of {subscription.room}: {refusal.error.message}", "dim"), flush=True)
        return
    for fields in reversed(page["messages"]):
        envelope = wire_json.decode(json.dumps(fields))[0].envelope
        if envelope is not None:
            _print(Message(envelope), args)


async def _show(subscription: Subscription, args: argparse.Namespace) -> None:
    async for message in subscription:
        _print(message, args)


def _print(message: Any, args: argparse.Namespace) -> None:
    if args.json:
        print(message_view.as_json(message), flush=True)
    else:
        print(message_view.line(message, "full" if args.full else "terminal"), flush=True)


def _say(loss: MessagesLost, args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps({"lost": loss.room, "reason": loss.reason}), flush=True)
    else:
        print(styled(f"--- {loss}", "red"), flush=True)


def _signal(envelope: Envelope, args: argparse.Namespace) -> None:
    if args.json or envelope.name not in ("goaway", "presence.join", "presence.leave"):
        return
    facts = json.loads(envelope.payload)
    if envelope.name == "goaway":
        print(styled("--- the bus is shutting down", "yellow"), flush=True)
    else:
        verb = "joined" if envelope.name == "presence.join" else "left"
        print(styled(f"--- {facts['subject']} {verb} {envelope.room}", "dim"), flush=True)
