"""`arqonbus drift`: compare deployed hosts with the profile."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.cli import Failure
from arqonbus.cli.profile_options import add_profile_options, load_profile
from arqonbus.cli.table import print_table, styled

if TYPE_CHECKING:
    from arqonbus.deploy.drift.deployment import Deployment
    from arqonbus.deploy.drift.model import Difference, Looked, Machine

SUMMARY = "Compare deployed hosts with the profile."

EPILOG = """examples:
  arqonbus drift --profile staging --inventory ansible/inventories/staging
  arqonbus drift --profile prod --inventory ansible/inventories/prod --hosts bus
  arqonbus drift --profile prod --inventory ansible/inventories/prod --hosts 'bus-1*,data' --json
  arqonbus drift --hosts valkey=docker://arqonbus-valkey-1,postgres=docker://arqonbus-postgres-1
  arqonbus drift --list

Changes nothing. With an inventory, every file that the rollout writes is compared as well; without one, only
what follows from the profile. Hosts are reached as by Ansible (ssh, docker, or locally), with sudo. Requires
the extra `ops`: pip install 'arqonbus[ops]'.
exit codes: 0 no difference, 1 differences, 2 wrong usage, 3 unreadable profile or unreachable host"""

DRIFT, UNASKED = 1, 3
WIDEST = 44


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inventory", type=Path, metavar="PATH", help="Ansible inventory of the rollout")
    parser.add_argument(
        "--hosts",
        type=lambda text: [word for word in text.split(",") if word],
        default=[],
        metavar="HOSTS",
        help="hosts or groups of the inventory (default: all); without one, PART=ssh://HOST and the like",
    )
    parser.add_argument("--release", metavar="VERSION", help="expected release; default: this version")
    parser.add_argument("--list", action="store_true", help="list the comparisons")
    parser.add_argument("--json", action="store_true", help="write JSON")
    add_profile_options(parser)


def run(args: argparse.Namespace) -> int:
    if args.list:
        return _list(args)
    if args.inventory is None and not args.hosts:
        raise Failure("no hosts given; give --inventory PATH or --hosts PART=SPEC, see --help", 2)
    if args.inventory is not None and not args.inventory.exists():
        raise Failure(f"the inventory {args.inventory} does not exist", 2)
    try:
        from arqonbus.deploy.drift.comparison import compare
    except ImportError as error:
        raise Failure(
            "testinfra is not installed; install it with: pip install 'arqonbus[ops]'", 2
        ) from error
    deployment = _deployment(args)
    looked = compare(deployment, _machines(args, deployment))
    if args.json:
        print(json.dumps(_plain(deployment, looked), indent=2, ensure_ascii=False))
    else:
        _print(looked, deployment)
    if any(each.reason for each in looked):
        return UNASKED
    return DRIFT if any(each.differences for each in looked) else 0


def _deployment(args: argparse.Namespace) -> Deployment:
    """The profile without this machine's environment variables, which the hosts do not have."""
    import arqonbus
    from arqonbus.deploy.drift.deployment import Deployment, locked

    tree = _tree(args.inventory or Path.cwd())
    lock = tree / "requirements" / "run.lock"
    release = args.release or arqonbus.__version__
    known = lock.exists() and release == arqonbus.__version__
    packages, optional = locked(lock.read_text("utf-8")) if known else ({}, frozenset[str]())
    inventory = args.inventory.resolve().name if args.inventory is not None else ""
    if args.inventory is not None and args.inventory.is_file():
        inventory = args.inventory.resolve().parent.name
    resolved = load_profile(args, secrets_of=(), environ={})
    return Deployment(resolved, release, tree, inventory, packages, optional)


def _tree(place: Path) -> Path:
    """The Git clone that contains the path, or else the clone of this package."""
    import arqonbus

    for directory in (place.resolve(), *place.resolve().parents):
        if (directory / "ansible" / "playbooks" / "expected.yml").exists():
            return directory
    return Path(arqonbus.__file__).resolve().parents[1]


def _machines(args: argparse.Namespace, deployment: Deployment) -> list[Machine]:
    from arqonbus.deploy.drift.topology import NoTopology, chosen, named, of_inventory

    try:
        if args.inventory is None:
            return [named(text) for text in args.hosts]
        return chosen(of_inventory(deployment.tree, args.inventory), args.hosts or ["all"])
    except NoTopology as error:
        raise Failure(str(error), 2) from error


def _list(args: argparse.Namespace) -> int:
    from arqonbus.deploy.drift.model import CHECKS

    if args.json:
        print(json.dumps(CHECKS, indent=2))
    else:
        print_table(("CHECK", "REQUIREMENT"), list(CHECKS.items()))
    return 0


def _plain(deployment: Deployment, looked: Sequence[Looked]) -> dict[str, object]:
    return {
        "profile": deployment.resolved.profile,
        "digest": deployment.resolved.digest,
        "release": deployment.release,
        "hosts": [
            {
                "host": each.machine.name,
                "asked": not each.reason,
                "reason": each.reason or None,
                "compared": each.expectations if not each.reason else 0,
            }
            for each in looked
        ],
        "differences": [asdict(difference) for each in looked for difference in each.differences],
    }


def _print(looked: Sequence[Looked], deployment: Deployment) -> None:
    from arqonbus.deploy.drift.asking import to_type

    found = [difference for each in looked for difference in each.differences]
    if found:
        print_table(("CHECK", "HOST", "WHAT", "EXPECTED", "FOUND"), [_cells(each) for each in found])
        print(styled("\nto correct it:", "bold"))
        for command in to_type(found, deployment.rollout("site"), deployment.rollout("deploy")):
            print(f"  {command}")
        print()
    for each in looked:
        if each.reason:
            print(styled(f"{each.machine.name} was not checked: {each.reason}", "yellow"))
        elif each.differences:
            count = f"{len(each.differences)} of {each.expectations} comparisons"
            print(styled(f"{each.machine.name} differs in {count}", "red"))
        else:
            print(
                styled(f"{each.machine.name} has no differences in {each.expectations} comparisons", "green")
            )


def _cells(difference: Difference) -> tuple[str, ...]:
    return (
        difference.check,
        difference.host,
        _short(difference.subject),
        _short(difference.expected),
        _short(difference.found),
    )


def _short(text: str) -> str:
    """Shorten a long text in the middle; --json shows it in full."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST // 2]}…{text[-WIDEST // 2 + 1 :]}"


__all__ = ["EPILOG", "SUMMARY", "configure", "run"]
