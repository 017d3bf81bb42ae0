"""`arqonbus serve`: run the bus in this process until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING

from arqonbus.cli import Failure
from arqonbus.cli.profile_options import add_profile_options, load_profile, read_profile
from arqonbus.cli.start_check import add_start_check_options, require_start_check
from arqonbus.cli.table import styled

if TYPE_CHECKING:
    from arqonbus.config import Resolved, Settings
    from arqonbus.service.bus import BusService

SUMMARY = "Run the bus."

EPILOG = """examples:
  arqonbus serve
  arqonbus serve --profile prod
  arqonbus serve --profile prod --receipt /run/arqonbus/receipt.json
  arqonbus serve --set server.port=9200 --set telemetry.port=9201

Outside dev, no port is opened before preflight passes or a fresh receipt is given.
SIGHUP reloads hot settings (see arqonbus profile explain KEY); others need a restart.
SIGTERM or Ctrl-C starts a graceful shutdown: clients reconnect to other nodes, and acknowledged messages are
stored. A second Ctrl-C stops at once. exit codes: 0 stopped, 1 could not start, 2 wrong usage, 3 unreadable
profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print the addresses of the bus as JSON, and log in JSON"
    )
    add_start_check_options(parser)
    add_profile_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.bus.server import PortTaken
    from arqonbus.service import bus as service
    from arqonbus.storage.ports import StorageError
    from arqonbus.telemetry import logs

    resolved = load_profile(args)
    settings = resolved.settings
    logs.configure(settings.telemetry.log_level, "json" if args.json else settings.telemetry.log_format)
    try:
        bypassed = require_start_check(resolved, args, "bus")
        asyncio.run(
            service.run(
                resolved,
                lambda: _acceptable(read_profile(args)),
                lambda up: _announce(up, as_json=args.json),
                preflight_bypassed=bypassed,
            )
        )
    except (PortTaken, StorageError, ValueError) as error:
        raise Failure(f"the bus did not start: {error}") from error
    except OSError as error:
        raise Failure(f"the bus did not start: {error.strerror}: {error.filename}") from error
    return 0


def _acceptable(resolved: Resolved) -> Resolved:
    """Check the settings for a reload. Raises ValueError if preflight does not pass."""
    from arqonbus.preflight import start_check

    if resolved.settings.environment != "dev":
        decision = start_check(resolved, online=False)
        if not decision.allowed:
            assert decision.report is not None
            failed = ", ".join(result.check.id for result in decision.report.failures)
            raise ValueError(f"preflight did not pass: {failed}")
    return resolved


def _announce(up: BusService, *, as_json: bool) -> None:
    settings = up.settings
    facts = {
        "bus": up.url,
        "health": f"http://{settings.telemetry.host}:{settings.telemetry.port}/readyz",
        "storage": f"{up.node.event_log.name}, {up.node.event_log.durability.name.lower()}",
    }
    if settings.environment == "dev":
        facts["token"] = _token(settings)
    if as_json:
        print(json.dumps(facts), flush=True)
        return
    title = f"ArqonBus {up.version} is up ({settings.environment})"
    lines = [styled(title, "bold"), *(f"  {name:8} {value}" for name, value in facts.items())]
    if settings.environment == "dev":
        lines += [
            "",
            "The token is valid for one day, in the tenant demo. In other terminals, try:",
            "  arqonbus tail hello",
            '  arqonbus publish hello \'{"text": "hi"}\'',
        ]
    print("\n".join(lines), flush=True)
    if not sys.stdout.isatty():
        return
    print("\n" + styled("Press Ctrl-C for a graceful shutdown.", "dim"), flush=True)


def _token(settings: Settings) -> str:
    from arqonbus.cli.connect_options import dev_token

    return dev_token(settings)
