"""`arqonbus dlq`: list, correct, replay and discard dead letters of the projector."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arqonbus.cli import USAGE, Failure
from arqonbus.cli.actions import actions_of
from arqonbus.cli.store_options import Opened, add_store_options, positive, run_on_store
from arqonbus.cli.table import print_table, printable, styled

if TYPE_CHECKING:
    from arqonbus.storage.projection import DeadLetter

SUMMARY = "List, replay and discard dead letters of the projector."

EPILOG = """examples:
  arqonbus dlq list --tenant acme --json
  arqonbus dlq show 01KM0000000000000000000000
  arqonbus dlq replay 01KM0000000000000000000000
  arqonbus dlq replay 01KM0000000000000000000000 --payload corrected.json
  arqonbus dlq replay --all
  arqonbus dlq discard 01KM0000000000000000000000 --reason "test record of an agent"

A replay validates the record again and keeps its ids; a second replay changes nothing. Replays and discards
are written to the audit log. exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 unreadable profile"""

PAGE = 200
SHOWN_REASON = 70


def configure(parser: argparse.ArgumentParser) -> None:
    add = actions_of(parser, EPILOG)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = add(name, summary)
        add_store_options(added)
        return added

    listing = action("list", "List dead letters, oldest first.")
    listing.add_argument("--state", choices=("open", "replayed", "discarded", "all"), default="open")
    listing.add_argument("--limit", type=positive, default=50, metavar="N", help="default: 50")
    listing.add_argument(
        "--cursor",
        default="",
        metavar="ID",
        help="start after this dead letter, as the previous page printed it",
    )
    show = action("show", "Show a dead letter with its payload.")
    show.add_argument("id")
    replay = action("replay", "Project dead letters again, unchanged or corrected.")
    replay.add_argument("ids", nargs="*", metavar="id")
    replay.add_argument("--all", action="store_true", help="all open dead letters")
    replay.add_argument(
        "--payload", metavar="FILE", help="corrected payload that replaces the original; - for standard input"
    )
    discard = action("discard", "Discard dead letters.")
    discard.add_argument("ids", nargs="+", metavar="id")
    discard.add_argument("--reason", required=True, metavar="TEXT", help="reason recorded in the audit log")


def run(args: argparse.Namespace) -> int:
    if args.action == "replay":
        if bool(args.ids) == args.all:
            raise Failure("give ids of dead letters, or --all", USAGE)
        if args.payload and len(args.ids) != 1:
            raise Failure("--payload corrects one dead letter; give exactly one id", USAGE)
    work = {"list": _list, "show": _show, "replay": _replay, "discard": _discard}[args.action]
    return run_on_store(args, lambda opened: work(opened, args))


async def _list(opened: Opened, args: argparse.Namespace) -> int:
    from arqonbus.continuum.view import letter_view

    state = None if args.state == "all" else args.state
    letters = await opened.store.dead_letters(opened.one_tenant, state, args.cursor, args.limit + 1)
    page, more = letters[: args.limit], len(letters) > args.limit
    if args.json:
        shown: dict[str, Any] = {"dead_letters": [letter_view(letter) for letter in page]}
        print(json.dumps(shown | ({"cursor": page[-1].id} if more else {}), indent=2))
    elif not page:
        print("No dead letters.")
    else:
        print_table(("ID", "AT", "STATE", "CODE", "AGENT", "REASON"), [_cells(letter) for letter in page])
        if more:
            print(styled(f"more results: --cursor {page[-1].id}", "dim"))
    return 0


def _cells(letter: DeadLetter) -> tuple[str, ...]:
    at = f"{letter.at:%Y-%m-%d %H:%M:%SZ}" if letter.at else ""
    reason = letter.reason if len(letter.reason) <= SHOWN_REASON else f"{letter.reason[:SHOWN_REASON]}…"
    return letter.id, at, letter.state, letter.code, letter.agent, reason


async def _show(opened: Opened, args: argparse.Namespace) -> int:
    from arqonbus.continuum.view import letter_view

    letter = await opened.store.dead_letter(opened.one_tenant, args.id)
    if letter is None:
        raise Failure(f"no dead letter {printable(args.id)} in tenant {opened.tenant}")
    shown = letter_view(letter, payload=True)
    if args.json:
        print(json.dumps(shown, indent=2))
        return 0
    payload = shown.pop("payload", None)
    for name, value in shown.items():
        text = value if isinstance(value, str) else json.dumps(value)
        print(f"{styled(f'{name:12}', 'bold')}  {printable(text)}")
    if payload is not None:
        print("\n".join(map(printable, ["", *_pretty(payload).splitlines()])))
    return 0


def _pretty(payload: str) -> str:
    try:
        return json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return payload


async def _replay(opened: Opened, args: argparse.Namespace) -> int:
    from arqonbus.protocol.errors import BusError

    payload = _payload(args.payload) if args.payload else None
    outcomes: dict[str, str] = {}
    refused = False
    for id in await _open_ones(opened) if args.all else args.ids:
        try:
            outcomes[id] = await opened.control.replay(id, payload)
        except BusError as error:
            outcomes[id], refused = f"{error.code}: {error.message}", True
        if not args.json:
            print(f"{printable(id)}  {printable(outcomes[id])}", flush=True)
    if args.json:
        print(json.dumps({"outcomes": outcomes}, indent=2))
    elif not outcomes:
        print("No dead letters.")
    return int(refused)


async def _open_ones(opened: Opened) -> list[str]:
    """All dead letters that are open now. One that is refused again stays open and is not tried twice."""
    found: list[str] = []
    after = ""
    while page := await opened.store.dead_letters(opened.one_tenant, "open", after, PAGE):
        found += [letter.id for letter in page]
        after = found[-1]
    return found


def _payload(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Failure(f"the file {name} cannot be read: {error.strerror}") from error


async def _discard(opened: Opened, args: argparse.Namespace) -> int:
    for id in args.ids:
        await opened.control.discard(id, args.reason)
        if not args.json:
            print(f"{id}  discarded", flush=True)
    if args.json:
        print(json.dumps({"discarded": args.ids}, indent=2))
    return 0


__all__ = ["EPILOG", "SUMMARY", "configure", "run"]
