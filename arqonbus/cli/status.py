"""`arqonbus status`: show the state of a running bus."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from arqonbus.cli import message_view
from arqonbus.cli.connect_options import add_connect_options, run_client
from arqonbus.cli.table import print_table

if TYPE_CHECKING:
    from arqonbus.client import Client

SUMMARY = "Show the state of a running bus."

EPILOG = """examples:
  arqonbus status
  arqonbus status --json
  arqonbus status --url wss://bus.example.org/v1/ws --token-file token.txt

exit codes: 0 the bus answers, 1 refused or bus unreachable, 2 wrong usage"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    return run_client(args, lambda client: _show(client, args))


async def _show(client: Client, args: argparse.Namespace) -> int:
    status = await client.command("op.status")
    if args.json:
        message_view.print_json(status)
        return 0
    rows = []
    for name, value in status.items():
        if isinstance(value, dict):
            rows += [(f"{name} {inner}".replace("_", " "), str(fact)) for inner, fact in value.items()]
        else:
            rows.append((name.replace("_", " "), str(value)))
    print_table(("FACT", "VALUE"), rows)
    return 0
