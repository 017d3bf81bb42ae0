"""`arqonbus migrate`: migrate the Postgres schema to this version, or show its state."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from arqonbus.cli import Failure
from arqonbus.cli.actions import actions_of
from arqonbus.cli.profile_options import add_profile_options, load_profile
from arqonbus.cli.table import print_table

if TYPE_CHECKING:
    from arqonbus.config.stores import Postgres
    from arqonbus.storage.postgres.migrate import Done
    from arqonbus.storage.postgres.migrations.steps import Step, StepPosition

SUMMARY = "Migrate the Postgres schema to this version."

EPILOG = """examples:
  arqonbus migrate status
  arqonbus migrate plan --sql --profile prod
  arqonbus migrate apply --profile prod
  arqonbus migrate apply --statement-timeout 600
  arqonbus migrate verify --json

Each step is one transaction. A database that is newer than this version, or in which an applied step had a
different text, is refused. If several run at once, one works and the others wait.
exit codes: 0 done, 1 failed or (verify) not at this version's schema, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    add = actions_of(parser, EPILOG)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = add(name, summary)
        added.add_argument("--json", action="store_true", help="write JSON")
        add_profile_options(added)
        return added

    action("status", "List the steps and whether each was applied.")
    plan = action("plan", "Show the steps that apply would run.")
    plan.add_argument("--sql", action="store_true", help="show the SQL statements")
    apply = action("apply", "Apply the pending steps.")
    for name, seconds, what in (
        ("--wait", 300.0, "wait for another migration to finish"),
        ("--lock-timeout", 5.0, "wait for a lock in the database"),
        ("--statement-timeout", 60.0, "limit for one statement"),
    ):
        apply.add_argument(
            name, type=_seconds, default=seconds, metavar="SECONDS", help=f"{what}; default: {seconds:g}"
        )
    action("verify", "Verify that the database has exactly the schema of this version.")


def run(args: argparse.Namespace) -> int:
    from arqonbus.storage.ports import StorageError

    store = load_profile(args, secrets_of=("datastores.postgres.",)).settings.datastores.postgres
    action = {"status": _status, "plan": _plan, "apply": _apply, "verify": _verify}[args.action]
    try:
        return action(store, args)
    except StorageError as error:
        if args.json:
            print(json.dumps({"error": str(error)}, indent=2))
        raise Failure(str(error)) from error


def _status(store: Postgres, args: argparse.Namespace) -> int:
    from arqonbus.storage.postgres import migrate

    positions = asyncio.run(migrate.status(store))
    if args.json:
        print(json.dumps({"steps": [_plain(position) for position in positions]}, indent=2))
    else:
        _print_positions(positions)
    return 0


def _plan(store: Postgres, args: argparse.Namespace) -> int:
    from arqonbus.storage.postgres import migrate

    steps = asyncio.run(migrate.plan(store))
    if args.json:
        print(json.dumps({"pending": [_plain_step(step, sql=args.sql) for step in steps]}, indent=2))
    elif not steps:
        print("Nothing to do: the database has the schema of this version.")
    else:
        print_table(("STEP", "NAME", "PHASE"), [_cells(step) for step in steps])
        for step in steps if args.sql else ():
            print(f"\n-- {step}\n{step.sql.rstrip()}")
    return 0


def _apply(store: Postgres, args: argparse.Namespace) -> int:
    from arqonbus.storage.postgres import migrate

    def say(done: Done) -> None:
        if not args.json:
            print(f"{done.step} applied in {done.seconds * 1000:.0f} ms", flush=True)

    patience = migrate.Patience(args.wait, args.lock_timeout, args.statement_timeout)
    applied = asyncio.run(migrate.apply(store, patience=patience, on_done=say))
    if args.json:
        shown = [_plain_step(done.step, sql=False) | {"seconds": round(done.seconds, 3)} for done in applied]
        print(json.dumps({"applied": shown}, indent=2))
    elif not applied:
        print("Nothing to do: the database has the schema of this version.")
    return 0


def _verify(store: Postgres, args: argparse.Namespace) -> int:
    from arqonbus.storage.postgres import migrate

    steps = asyncio.run(migrate.plan(store))
    if args.json:
        print(json.dumps({"current": not steps, "pending": [str(step) for step in steps]}, indent=2))
    elif steps:
        missing = ", ".join(map(str, steps))
        raise Failure(
            f"the database is older than this version; pending: {missing}. Run `arqonbus migrate apply`"
        )
    else:
        print("The database has the schema of this version.")
    return 1 if steps else 0


def _print_positions(positions: Sequence[StepPosition]) -> None:
    rows = [
        (
            f"{position.number:04}",
            position.name,
            position.phase or "",
            position.state,
            position.applied.applied_at.strftime("%Y-%m-%d %H:%M:%SZ") if position.applied else "",
            position.applied.version if position.applied else "",
        )
        for position in positions
    ]
    print_table(("STEP", "NAME", "PHASE", "STATE", "APPLIED", "BY VERSION"), rows)


def _cells(step: Step) -> tuple[str, str, str]:
    return f"{step.number:04}", step.name, step.phase or ""


def _plain(position: StepPosition) -> dict[str, Any]:
    applied = position.applied
    return {
        "number": position.number,
        "name": position.name,
        "phase": position.phase,
        "state": position.state,
        "applied_at": applied.applied_at.isoformat() if applied else None,
        "version": applied.version if applied else None,
    }


def _plain_step(step: Step, *, sql: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"number": step.number, "name": step.name, "phase": step.phase}
    return shown | {"sql": step.sql} if sql else shown


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError("write seconds, more than 0 and less than a day")
    return seconds


__all__ = ["EPILOG", "SUMMARY", "configure", "run"]
