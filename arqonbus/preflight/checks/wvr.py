"""WVR: exceptions that were approved, judged after all others: an exception that nothing needs is a risk."""

from __future__ import annotations

from arqonbus.preflight.model import (
    EVERYWHERE,
    WARNING_EVERYWHERE,
    Context,
    Outcome,
    Remark,
    Severity,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check, checks
from arqonbus.preflight.waivers import ENVIRONMENTS, Waiver

LONGEST_DAYS = 180


def _waivers(context: Context) -> tuple[Waiver, ...]:
    return context.ledger.waivers.entries if context.ledger else ()


def _is_known(waiver: Waiver) -> bool:
    return waiver.id in checks()


@check(
    "ARQ-WVR-001",
    "Every waiver can be understood",
    severity=EVERYWHERE,
    why="A waiver that cannot be read excuses nothing, and somebody believes that it does.",
    fix=("$EDITOR waivers.yaml   # - {id: …, reason: …, owner: …, expires: 2030-01-31}",),
)
def can_be_understood(context: Context) -> Outcome:
    troubles = context.ledger.waivers.troubles if context.ledger else ()
    return verdict(
        [Remark(trouble.text, (), trouble.place) for trouble in troubles],
        expected="a list of id, reason, owner, expires and perhaps scope",
    )


@check(
    "ARQ-WVR-002",
    "Every waiver names a check",
    severity=EVERYWHERE,
    why="It was written for a check that is gone, or that was never there.",
    fix=("arqonbus preflight --list", "$EDITOR waivers.yaml"),
)
def names_a_check(context: Context) -> Outcome:
    unknown = [waiver for waiver in _waivers(context) if not _is_known(waiver)]
    remarks = [Remark(f"{waiver.id} is no check", (), waiver.place) for waiver in unknown]
    return verdict(remarks, expected="an id of `arqonbus preflight --list`")


@check(
    "ARQ-WVR-003",
    "No waiver has expired",
    severity=EVERYWHERE,
    why="The time that was agreed on is over; the fault is to be corrected, or the exception to be renewed.",
    fix=("$EDITOR waivers.yaml   # remove it, or agree on another day with its owner",),
)
def has_not_expired(context: Context) -> Outcome:
    over = [waiver for waiver in _waivers(context) if _is_known(waiver) and waiver.ends_at <= context.now]
    remarks = [
        Remark(f"{waiver.id} of {waiver.owner} expired on {waiver.expires}", (), waiver.place)
        for waiver in over
    ]
    return verdict(remarks, expected="a day in the future")


@check(
    "ARQ-WVR-004",
    "Every waiver is needed",
    severity=WARNING_EVERYWHERE,
    why="An exception that nothing needs today hides the fault that comes tomorrow.",
    fix=("$EDITOR waivers.yaml   # remove it",),
)
def is_needed(context: Context) -> Outcome:
    ledger = context.ledger
    used = ledger.used if ledger else frozenset()
    undecided = ledger.undecided if ledger else frozenset()
    idle = [
        waiver
        for waiver in _waivers(context)
        if _is_known(waiver)
        and waiver not in used
        and waiver.id not in undecided
        and waiver.ends_at > context.now
        and not _is_fatal(waiver, context)
    ]
    remarks = [Remark(f"{waiver.id} did not fail{_within(waiver)}", (), waiver.place) for waiver in idle]
    return verdict(remarks, expected="waivers of checks that fail")


def _within(waiver: Waiver) -> str:
    return f" in {waiver.scope}" if waiver.scope else ""


def _is_fatal(waiver: Waiver, context: Context) -> bool:
    return checks()[waiver.id].severity[context.settings.environment] is Severity.FATAL


@check(
    "ARQ-WVR-005",
    "No waiver is for a check that cannot be waived",
    severity=EVERYWHERE,
    why="Some faults open the bus to everybody; nobody can approve that.",
    fix=("$EDITOR waivers.yaml   # remove it", "arqonbus preflight --explain ID"),
)
def may_be_waived(context: Context) -> Outcome:
    fatal = [waiver for waiver in _waivers(context) if _is_known(waiver) and _is_fatal(waiver, context)]
    remarks = [Remark(f"{waiver.id} is fatal here", (), waiver.place) for waiver in fatal]
    return verdict(remarks, expected="waivers of other checks")


@check(
    "ARQ-WVR-006",
    f"No waiver is longer than {LONGEST_DAYS} days",
    severity=WARNING_EVERYWHERE,
    why="An exception without an end in sight is a rule that nobody decided.",
    fix=("$EDITOR waivers.yaml   # expires: a day within half a year",),
)
def ends_in_time(context: Context) -> Outcome:
    latest = context.now + LONGEST_DAYS * 86_400
    late = [waiver for waiver in _waivers(context) if waiver.ends_at - 86_400 > latest]
    remarks = [Remark(f"{waiver.id} goes on until {waiver.expires}", (), waiver.place) for waiver in late]
    return verdict(remarks, expected=f"{LONGEST_DAYS} days at most")


@check(
    "ARQ-WVR-007",
    "The scope of a waiver exists",
    severity=WARNING_EVERYWHERE,
    why="A scope that nothing matches makes the waiver hold nowhere.",
    fix=("$EDITOR waivers.yaml   # scope: prod, or the key of a setting",),
)
def scope_exists(context: Context) -> Outcome:
    from arqonbus.config.tree import leaves, sections

    scoped = [waiver for waiver in _waivers(context) if waiver.scope]
    if not scoped:
        return skipped("no waiver has a scope")
    known = {".".join(path) for path in (*leaves(), *sections())} | set(ENVIRONMENTS)
    remarks = [
        Remark(f"{w.id} is for {w.scope}, which is nothing", (), w.place)
        for w in scoped
        if w.scope not in known
    ]
    return verdict(remarks, expected="an environment, or the key of a setting")
