"""`arqonbus projector`: run the projector, and show and rebuild its projection."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

from arqonbus.cli import Failure
from arqonbus.cli.actions import actions_of
from arqonbus.cli.backfill import add_backfill_options, run_backfill
from arqonbus.cli.profile_options import add_profile_options, load_profile
from arqonbus.cli.start_check import add_start_check_options, require_start_check
from arqonbus.cli.store_options import Opened, add_store_options, positive, run_on_store
from arqonbus.cli.table import print_table, printable, styled

if TYPE_CHECKING:
    from arqonbus.config import Settings

SUMMARY = "Project episodes, and show projected episodes."

EPILOG = """examples:
  arqonbus projector run --profile prod
  arqonbus projector status --tenant acme
  arqonbus projector list --tenant acme --agent agent-1
  arqonbus projector get agent-1 01KM0000000000000000000000 --json
  arqonbus projector backfill --from 2026-03-01T00:00:00Z --to 2026-04-01T00:00:00Z --dry-run
  arqonbus projector rebuild --tenant acme
  arqonbus projector rebuild --from-cursor acme:agent-1:01KM0000000000000000000000

`run` needs Valkey: with the embedded storage engine, `arqonbus serve` projects by itself. Several projectors
share the work. The other actions use the projection store of the profile and need no running bus. A backfill
projects the events of a time window again; older events never replace newer ones. A rebuild recreates
episodes from all of their events. Both can be interrupted, and print how to resume.
exit codes: 0 done, 1 failed, 2 wrong usage, 3 unreadable profile, 130 interrupted"""


def configure(parser: argparse.ArgumentParser) -> None:
    action = actions_of(parser, EPILOG)
    run_ = action("run", "Run the projector until SIGTERM or SIGINT.")
    run_.add_argument(
        "--json",
        action="store_true",
        help="print the address of its health endpoint as JSON, and log in JSON",
    )
    add_start_check_options(run_)
    add_profile_options(run_)
    add_store_options(
        action("status", "Show counts of episodes and events, and whether they balance."), every_tenant=True
    )
    get = action("get", "Show one episode.")
    get.add_argument("agent")
    get.add_argument("episode")
    add_store_options(get)
    listing = action("list", "List episodes, by agent and id.")
    listing.add_argument("--agent", metavar="ID", help="only episodes of this agent")
    listing.add_argument("--deleted", action="store_true", help="include tombstones")
    listing.add_argument("--limit", type=positive, default=50, metavar="N", help="default: 50")
    listing.add_argument("--cursor", default="", help="cursor that the previous page printed")
    add_store_options(listing)
    add_backfill_options(action("backfill", "Project the events of a time window again."))
    add_backfill_options(action("rebuild", "Recreate episodes from all of their events."))


def run(args: argparse.Namespace) -> int:
    if args.action == "run":
        return _run(args)
    return run_on_store(args, lambda opened: _ON_STORE[args.action](opened, args))


def _run(args: argparse.Namespace) -> int:
    from arqonbus.bus.server import PortTaken
    from arqonbus.service.projector import run_projector
    from arqonbus.storage.ports import StorageError
    from arqonbus.telemetry import logs

    resolved = load_profile(args)
    settings = resolved.settings
    logs.configure(settings.telemetry.log_level, "json" if args.json else settings.telemetry.log_format)
    try:
        require_start_check(resolved, args, "projector")
        asyncio.run(run_projector(resolved, lambda up: _announce(up, as_json=args.json)))
    except (PortTaken, StorageError, ValueError) as error:
        raise Failure(f"the projector did not start: {error}") from error
    return 0


def _announce(settings: Settings, *, as_json: bool) -> None:
    host, port = settings.telemetry.host, settings.projector.telemetry_port
    facts = {"health": f"http://{host}:{port}/readyz", "metrics": f"http://{host}:{port}/metrics"}
    if as_json:
        print(json.dumps(facts), flush=True)
        return
    lines = [styled("The projector is up", "bold"), *(f"  {name:8} {value}" for name, value in facts.items())]
    print("\n".join(lines), flush=True)


async def _status(opened: Opened, args: argparse.Namespace) -> int:
    from arqonbus.continuum.view import books_view

    store, tenant = opened.store, opened.tenant
    facts = {"held": dict(await store.counts(tenant)), "books": books_view(await store.books(tenant))}
    if args.json:
        print(json.dumps({"store": store.name, "tenant": tenant} | facts, indent=2))
        return 0
    print(f"store         {store.name}\ntenant        {tenant or 'all'}")
    for heading, numbers in facts.items():
        print(f"\n{styled(heading, 'bold')}")
        for name, number in numbers.items():
            wrong = name == "difference" and number
            print(styled(f"  {name:12}{number:>14,}", "red") if wrong else f"  {name:12}{number:>14,}")
    return 0


async def _get(opened: Opened, args: argparse.Namespace) -> int:
    from arqonbus.continuum.view import episode_view
    from arqonbus.storage.projection import Subject

    episode = await opened.store.episode(Subject(opened.one_tenant, args.agent, args.episode))
    if episode is None:
        raise Failure(f"no such episode in tenant {opened.tenant}")
    shown = episode_view(episode)
    if args.json:
        print(json.dumps(shown, indent=2))
        return 0
    for name, value in shown.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"{styled(f'{name:14}', 'bold')}{printable(text)}")
    return 0


async def _list(opened: Opened, args: argparse.Namespace) -> int:
    from arqonbus.continuum.control import format_cursor, parse_cursor
    from arqonbus.continuum.view import episode_view
    from arqonbus.storage.projection import Subject

    found = await opened.store.episodes(
        opened.one_tenant, args.agent, parse_cursor(args.cursor), args.limit + 1, deleted=args.deleted
    )
    page = found[: args.limit]
    last = page[-1] if page else None
    cursor = format_cursor(Subject(last.tenant, last.agent, last.episode)) if last else ""
    more = len(found) > len(page)
    if args.json:
        shown: dict[str, Any] = {"episodes": [episode_view(episode) for episode in page]}
        print(json.dumps(shown | ({"cursor": cursor} if more else {}), indent=2))
    elif not page:
        print("No episodes.")
    else:
        rows = [
            (
                each.agent,
                each.episode,
                f"{each.source_ts:%Y-%m-%d %H:%M:%SZ}",
                each.type.removeprefix("episode."),
                each.content_ref,
                " ".join(each.tags),
            )
            for each in page
        ]
        print_table(("AGENT", "EPISODE", "AT", "STATE", "CONTENT", "TAGS"), rows)
        if more:
            print(styled(f"more results: --cursor {cursor}", "dim"))
    return 0


async def _backfill(opened: Opened, args: argparse.Namespace) -> int:
    return await run_backfill(opened, args, rebuild=args.action == "rebuild")


_ON_STORE = {"status": _status, "get": _get, "list": _list, "backfill": _backfill, "rebuild": _backfill}

__all__ = ["EPILOG", "SUMMARY", "configure", "run"]
