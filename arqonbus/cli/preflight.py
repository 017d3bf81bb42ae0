"""`arqonbus preflight`: check a profile, this host and its servers before a start."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from arqonbus.cli import Failure, is_full_output
from arqonbus.cli.profile_options import add_profile_options
from arqonbus.cli.table import coloured, print_table, styled

if TYPE_CHECKING:
    from arqonbus.preflight.facts import Facts
    from arqonbus.preflight.intake import Intake, Source
    from arqonbus.preflight.model import Check, Phase
    from arqonbus.preflight.runner import Report

SUMMARY = "Check a profile, this host and its servers before a start."

EPILOG = """examples:
  arqonbus preflight --profile prod
  arqonbus preflight --profile prod --phase static
  arqonbus preflight --profile prod --only TLS,ARQ-SEC-005
  arqonbus preflight --profile prod --format sarif > preflight.sarif
  arqonbus preflight --profile prod --capture ./incident
  arqonbus preflight --profile prod --facts ./incident/facts.json
  arqonbus preflight --explain ARQ-NET-003

exit codes: 0 passed, 1 a check failed, 2 warnings (with --fail-on warning), 3 wrong usage or unreadable
profile, 4 preflight itself failed"""

FAILED, WARNED, UNUSABLE, BROKEN = 1, 2, 3, 4
_FORMATS = ("tree", "json", "junit", "sarif", "html")
_PHASES = ("static", "host", "online")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.error = _usage(parser)  # type: ignore[method-assign, assignment]
    add_profile_options(parser)
    parser.add_argument(
        "--phase",
        choices=_PHASES,
        action="append",
        help="run only this phase; may be repeated (default: all)",
    )
    parser.add_argument(
        "--only", metavar="IDS", help="run only these ids, families or tags, separated by commas"
    )
    parser.add_argument(
        "--facts", metavar="FILE", type=Path, help="check captured facts instead of this host"
    )
    parser.add_argument(
        "--format", choices=_FORMATS, default="tree", help="format of the report; default: tree"
    )
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    parser.add_argument("--fail-on", choices=("error", "warning"), default="error", help="default: error")
    parser.add_argument(
        "--capture", metavar="DIR", type=Path, help="write a bundle of facts for support, without secrets"
    )
    parser.add_argument(
        "--receipt", metavar="FILE", type=Path, help="write a signed receipt if the run passes"
    )
    parser.add_argument(
        "--process",
        choices=("bus", "projector"),
        default="bus",
        help="process to start; each has its own ports (default: bus)",
    )
    parser.add_argument("--list", action="store_true", help="list the checks")
    parser.add_argument("--explain", metavar="ID", help="explain a check")


def _usage(parser: argparse.ArgumentParser) -> Callable[[str], NoReturn]:
    # argparse exits with 2, which means warnings here.
    def error(message: str) -> NoReturn:
        parser.print_usage(sys.stderr)
        raise Failure(f"{message}; `arqonbus preflight --help` shows the options", UNUSABLE)

    return error


def run(args: argparse.Namespace) -> int:
    try:
        if args.list:
            return _list(args)
        if args.explain is not None:
            return _explain(args)
        return _preflight(args)
    except (Failure, KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        if is_full_output(error):
            raise
        # A defect of preflight itself ends up here; the text of the error could contain secrets, so it is
        # not shown.
        raise Failure(
            f"preflight itself failed ({type(error).__name__}); the profile was not checked. "
            "Run it again with --phase static, and report this error",
            BROKEN,
        ) from error


def _preflight(args: argparse.Namespace) -> int:
    from arqonbus.preflight.decision import gathered, judge
    from arqonbus.preflight.intake import take_in

    only, phases = _chosen(args), _phases(args)
    intake = take_in(_source(args))
    facts = gathered(intake, phases, args.process) if args.facts is None else _captured(args.facts)
    report = judge(intake, facts, phases=phases, only=only)
    print(_rendered(report, "json" if args.json else args.format), end="")
    if args.capture is not None:
        _capture(args.capture, report, intake, facts)
    code = _code(report, args.fail_on)
    if args.receipt is not None:
        _receipt(args.receipt, report, intake, code)
    return code


def _source(args: argparse.Namespace) -> Source:
    from arqonbus.config import profile_name
    from arqonbus.preflight.intake import Source

    return Source(
        args.profile or profile_name(os.environ),
        overrides=args.overrides,
        secrets_dir=args.secrets_dir,
        profiles_dir=args.profiles_dir,
    )


def _chosen(args: argparse.Namespace) -> frozenset[str] | None:
    from arqonbus.preflight.registry import UnknownCheck, select

    if args.only is None:
        return None
    try:
        return select(args.only.split(","))
    except UnknownCheck as error:
        raise Failure(f"--only: {error}", UNUSABLE) from error


def _phases(args: argparse.Namespace) -> tuple[Phase, ...]:
    from arqonbus.preflight.model import Phase

    return tuple(phase for phase in Phase if args.phase is None or phase.value in args.phase)


def _captured(path: Path) -> Facts:
    from arqonbus.preflight.facts import FactsUnreadable, read_facts

    try:
        return read_facts(path)
    except FactsUnreadable as error:
        raise Failure(f"--facts: {error}", UNUSABLE) from error


def _rendered(report: Report, form: str) -> str:
    if form == "tree":
        from arqonbus.preflight.report import tree

        return tree.render(report, styled if coloured() else tree.unpainted)  # type: ignore[arg-type]
    from importlib import import_module

    name = "json_" if form == "json" else form
    text: str = import_module(f"arqonbus.preflight.report.{name}").render(report)
    return text


def _capture(directory: Path, report: Report, intake: Intake, facts: Facts) -> None:
    from arqonbus.preflight.capture import capture

    try:
        files = capture(directory, report, intake, facts, ["arqonbus", *sys.argv[1:]])
    except OSError as error:
        reason = f"{directory} cannot be written ({error.strerror})"
        raise Failure(f"--capture: {reason}; give another directory", UNUSABLE) from error
    print(f"{len(files)} files written to {directory}; they contain no secrets", file=sys.stderr)


def _receipt(path: Path, report: Report, intake: Intake, code: int) -> None:
    from arqonbus.preflight.receipt import ReceiptRefused, receipt_of, write_receipt

    if code:
        print(f"no receipt was written to {path}: the run did not pass", file=sys.stderr)
        return
    try:
        receipt = receipt_of(report, intake.resolved)
        write_receipt(path, receipt, intake.resolved.settings, intake.root)
    except ReceiptRefused as error:
        raise Failure(f"--receipt: {error}", FAILED) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Failure(f"--receipt: {path} cannot be written ({reason})", UNUSABLE) from error
    print(f"receipt written to {path}", file=sys.stderr)


def _code(report: Report, fail_on: str) -> int:
    if report.loaded.unread or report.empty:
        return UNUSABLE
    if report.failures:
        return FAILED
    return WARNED if fail_on == "warning" and report.warnings else 0


def _list(args: argparse.Namespace) -> int:
    from arqonbus.preflight.registry import checks

    only, phases = _chosen(args), _phases(args)
    shown = [each for each in checks().values() if (only is None or each.id in only) and each.phase in phases]
    if args.json or args.format == "json":
        print(json.dumps([_plain(each) for each in shown], indent=2, ensure_ascii=False))
        return 0
    rows = [(each.id, each.phase.value, *_severities(each), each.title) for each in shown]
    print_table(("ID", "PHASE", "DEV", "STAGING", "PROD", "REQUIREMENT"), rows)
    return 0


def _explain(args: argparse.Namespace) -> int:
    from arqonbus.preflight.registry import UnknownCheck, checks, select

    try:
        ids = select([args.explain])
    except UnknownCheck as error:
        raise Failure(f"--explain: {error}", UNUSABLE) from error
    shown = [each for each in checks().values() if each.id in ids]
    if args.json or args.format == "json":
        print(json.dumps([_plain(each) for each in shown], indent=2, ensure_ascii=False))
        return 0
    for number, each in enumerate(shown):
        if number:
            print()
        _print_check(each)
    return 0


def _print_check(each: Check) -> None:
    dev, staging, prod = _severities(each)
    print(f"{styled(each.id, 'bold')} {each.title}")
    print(f"  phase {each.phase.value}; dev {dev}, staging {staging}, prod {prod}")
    print(f"  why:      {each.why}")
    for number, command in enumerate(each.fix):
        print(f"  {'fix:     ' if number == 0 else '         '} {command}")
    if each.reads:
        print(f"  settings: {', '.join(each.reads)}")
    if each.requires:
        print(f"  requires: {', '.join(each.requires)}")


def _severities(each: Check) -> tuple[str, str, str]:
    names = ("dev", "staging", "prod")
    dev, staging, prod = (each.severity[name].value for name in names)  # type: ignore[index]
    return dev, staging, prod


def _plain(each: Check) -> dict[str, object]:
    return {
        "id": each.id,
        "title": each.title,
        "phase": each.phase.value,
        "severity": {name: severity.value for name, severity in each.severity.items()},
        "tags": list(each.tags),
        "why": each.why,
        "fix": list(each.fix),
        "reads": list(each.reads),
        "requires": list(each.requires),
    }


__all__ = ["EPILOG", "SUMMARY", "configure", "run"]
