"""Flips one comparison or boolean of a check at a time, and looks whether the corpus notices.

Run: python -m tests.unit.preflight.mutate [module …]. Prints the survivors and exits 1 if one is not among
the explained ones. Nothing is written: mutants live in memory only.
"""

from __future__ import annotations

import ast
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from arqonbus.preflight import checks as files
from arqonbus.preflight import registry
from arqonbus.preflight.model import Check, Context, Outcome, Phase
from arqonbus.preflight.runner import Loaded, Run
from arqonbus.preflight.waivers import read_waivers
from tests.unit.preflight.deployment import Deployment, corpus

CHECKS = Path(files.__file__).parent

_FLIPS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.GtE, ast.LtE), ast.LtE: (ast.Gt, ast.Lt),
    ast.Gt: (ast.LtE, ast.GtE), ast.GtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip

_EXPLANATIONS: tuple[tuple[str, str, str], ...] = (
    ("sec", "previous.value is None or previous.valid_until", "the settings demand both or neither"),
    ("sec", "walking > len(steps) / 2", "half of the steps is as good as one more"),
    ("bak", "seconds >= 2 * 86_400", "wording only"),
    ("pgs", "'ahead' if ahead > 0", "wording only, of a difference that is not 0"),
    ("tls", "one day", "wording only"),
    ("tls", 'file.state == "missing"', "wording only: which command is typed"),
    ("tls", "YOURS {file.path}", "wording only: which command is typed"),
    ("val", "user or 'default'", "wording only"),
    ("val", "value not in (None", "wording only"),
    ("val", "map(str, value)) or", "wording only"),
    ("sto", "install -d -o arqonbus", "wording only: which directories are named"),
    ("wvr", "ledger.undecided if ledger", "a run always has a ledger"),
    ("wvr", "waiver.ends_at", "a waiver ends in the last microsecond of a day; no moment of facts does"),
)


def explanation(module: str, line: str) -> str:
    """Why a mutant of this line changes nothing that a profile could show; empty, if nobody knows."""
    found = (why for name, part, why in _EXPLANATIONS if name == module and part in line)
    return next(found, "")


def contexts() -> list[Context]:
    """What every deployment of the corpus gives its checks."""
    made = []
    faults = {fault["id"]: fault for fault in corpus("faults") + corpus("edges")}
    cases: list[tuple[str, list[dict[str, Any]]]] = [(kind, []) for kind in ("prod", "keys", "dev")]
    cases += [(fault.get("in", "prod"), [fault]) for fault in faults.values()]
    cases += [("prod", [faults[number] for number in case["faults"]]) for case in corpus("combined")]
    for kind, each in cases:
        deployment = Deployment(Path(tempfile.mkdtemp()), kind)
        for fault in each:
            deployment.put_in(fault)
        made.append(_context(deployment))
    return made


def _context(deployment: Deployment) -> Context:
    intake, facts = deployment.intake(), deployment.captured()
    context = Context(intake.resolved, intake.findings, facts, None, facts.gathered_at)
    file = intake.profile_file
    waivers = read_waivers(file.with_name("waivers.yaml"), "waivers.yaml") if file else None
    environment = intake.resolved.settings.environment
    run = Run(
        context,
        Loaded("p", environment, "", {}, intake.unread),
        waivers or read_waivers(Path("/x"), ""),
        whole=True,
    )
    run.over(registry.checks().values())
    return run._context


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """The line, what was done, and the changed module."""
    for index, node in enumerate(ast.walk(tree)):
        for number, (what, change) in enumerate(_changes(node)):
            changed = copy.deepcopy(tree)
            twin = next(each for position, each in enumerate(ast.walk(changed)) if position == index)
            list(_changes(twin))[number][1]()
            yield getattr(node, "lineno", 0), what, ast.fix_missing_locations(changed)
            del change


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in _FLIPS.get(type(operator), ()):
                what = f"{type(operator).__name__} -> {other.__name__}"
                yield what, lambda place=place, other=other: node.ops.__setitem__(place, other())
    if isinstance(node, ast.BoolOp):
        other_bool = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"{type(node.op).__name__} flipped", lambda: setattr(node, "op", other_bool)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not removed", lambda: setattr(node, "op", ast.UAdd()) or _unnot(node)
    if isinstance(node, ast.IfExp):
        yield "branches swapped", lambda: _swap(node)


def _unnot(node: ast.UnaryOp) -> None:
    node.op = ast.Not()
    node.operand = ast.UnaryOp(ast.Not(), node.operand)


def _swap(node: ast.IfExp) -> None:
    node.body, node.orelse = node.orelse, node.body


def judged(check: Check, context: Context) -> object:
    if check.phase is not Phase.STATIC and (context.facts is None or context.facts.host is None):
        return None
    try:
        outcome: object = check.judge(context)
    except Exception as error:  # noqa: BLE001 - a mutant may raise anything, and is noticed by it
        return type(error).__name__
    # A mutant may answer what is no outcome; that is noticed too.
    return (outcome.status, outcome.remarks) if isinstance(outcome, Outcome) else outcome


def checks_of(code: Any, name: str) -> dict[str, Check]:
    """The checks that a module's code declares, without adding them to the registry."""
    held, registry._CHECKS = registry._CHECKS, {}
    try:
        exec(code, {"__name__": name})
        return registry._CHECKS
    finally:
        registry._CHECKS = held


def survivors(file: Path, cases: list[Context]) -> Iterator[tuple[int, str]]:
    source = file.read_text("utf-8")
    tree = ast.parse(source)
    name = f"{files.__name__}.{file.stem}"
    own = checks_of(compile(tree, str(file), "exec"), name)
    wanted = {id: [judged(check, case) for case in cases] for id, check in own.items()}
    for line, what, mutant in mutants(tree):
        try:
            changed = checks_of(compile(mutant, str(file), "exec"), name)
        except Exception:  # noqa: BLE001 - it does not even load
            continue
        if all(
            judged(changed[id], case) == seen
            for id, outcomes in wanted.items()
            for case, seen in zip(cases, outcomes, strict=True)
        ):
            yield line, what


def main(names: list[str]) -> int:
    registry.checks()
    cases = contexts()
    total = 0
    for file in sorted(CHECKS.glob("*.py")):
        if names and file.stem not in names:
            continue
        lines = file.read_text("utf-8").splitlines()
        for line, what in survivors(file, cases):
            text = lines[line - 1].strip() if line else ""
            reason = explanation(file.stem, text)
            if not reason:
                total += 1
            sys.stdout.write(
                f"{file.name}:{line}: {what}: {text}" + (f"  # {reason}" if reason else "") + "\n"
            )
    sys.stdout.write(f"{total} survivors that nobody has explained\n")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
