"""`arqonbus audit`: list the audit log of the projection, and verify its hash chain."""

from __future__ import annotations

import argparse
import json

from arqonbus.cli.actions import actions_of
from arqonbus.cli.store_options import Opened, add_store_options, positive, run_on_store
from arqonbus.cli.table import print_table, styled

SUMMARY = "Show the audit log, and verify that it was not changed."

EPILOG = """examples:
  arqonbus audit list --tenant acme
  arqonbus audit list --after 120 --json
  arqonbus audit verify
  arqonbus audit verify --tenant acme --profile prod

The rows of each tenant form a hash chain; actions on all tenants at once are listed under the tenant *.
exit codes: 0 done, 1 failed or (verify) a chain is broken, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    action = actions_of(parser, EPILOG)
    for name, summary in (
        ("list", "List the newest rows of the audit log, oldest first."),
        ("verify", "Verify the hash chain of every tenant, or of one."),
    ):
        added = action(name, summary)
        if name == "list":
            added.add_argument("--limit", type=positive, default=50, metavar="N", help="default: 50")
            added.add_argument("--after", type=positive, metavar="NUMBER", help="only rows after this number")
            added.add_argument("--every-tenant", action="store_true", help="actions on all tenants at once")
        add_store_options(added, every_tenant=name == "verify")


def run(args: argparse.Namespace) -> int:
    work = {"list": _list, "verify": _verify}[args.action]
    return run_on_store(args, lambda opened: work(opened, args))


async def _list(opened: Opened, args: argparse.Namespace) -> int:
    from arqonbus.continuum.control import EVERY_TENANT
    from arqonbus.continuum.view import audit_view

    tenant = EVERY_TENANT if args.every_tenant is True else opened.one_tenant
    newest = (await opened.store.audit_head(tenant))[0]
    after = max(0, newest - args.limit) if args.after is None else args.after
    entries = await opened.store.audit(tenant, after, args.limit)
    if args.json:
        print(json.dumps({"tenant": tenant, "entries": [audit_view(entry) for entry in entries]}, indent=2))
    elif not entries:
        print("No audit rows.")
    else:
        rows = [
            (
                entry.number,
                f"{entry.at:%Y-%m-%d %H:%M:%SZ}",
                entry.actor,
                entry.action,
                entry.outcome,
                json.dumps(entry.arguments, ensure_ascii=False),
            )
            for entry in entries
        ]
        print_table(("ROW", "AT", "WHO", "WHAT", "OUTCOME", "ARGUMENTS"), rows)
    return 0


async def _verify(opened: Opened, args: argparse.Namespace) -> int:
    from arqonbus.continuum.audit import verify

    tenants = await opened.store.audited() if opened.tenant is None else [opened.tenant]
    verdicts = {tenant: await verify(opened.store, tenant) for tenant in tenants}
    broken = {tenant for tenant, verdict in verdicts.items() if verdict.fault}
    if args.json:
        shown = [
            {
                "tenant": tenant,
                "rows": verdict.rows,
                "sound": tenant not in broken,
                "row": verdict.number or None,
                "fault": verdict.fault or None,
            }
            for tenant, verdict in verdicts.items()
        ]
        print(json.dumps({"sound": not broken, "audits": shown}, indent=2))
    elif not verdicts:
        print("The audit log is empty.")
    else:
        for tenant, verdict in verdicts.items():
            said = styled(verdict.fault, "red") if verdict.fault else styled("sound", "green")
            print(f"{tenant}: {verdict.rows} {'row' if verdict.rows == 1 else 'rows'}, {said}")
    return 1 if broken else 0


__all__ = ["EPILOG", "SUMMARY", "configure", "run"]
