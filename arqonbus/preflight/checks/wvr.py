"""WVR: waivers, checked after all other checks, because an unused waiver is a risk."""

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
    "Every waiver is valid",
    severity=EVERYWHERE,
    why="An invalid waiver has no effect.",
    fix=("$EDITOR waivers.yaml   # - {id: …, reason: …, owner: …, expires: 2030-01-31}",),
)
def can_be_understood(context: Context) -> Outcome:
    troubles = context.ledger.waivers.troubles if context.ledger else ()
    return verdict(
        [Remark(trouble.text, (), trouble.place) for trouble in troubles],
        expected="a list of entries with id, reason, owner, expires and optionally scope",
    )


@check(
    "ARQ-WVR-002",
    "Every waiver names an existing check",
    severity=EVERYWHERE,
    why="The check was removed, or its id is misspelt.",
    fix=("arqonbus preflight --list", "$EDITOR waivers.yaml"),
)
def names_a_check(context: Context) -> Outcome:
    unknown = [waiver for waiver in _waivers(context) if not _is_known(waiver)]
    remarks = [Remark(f"{waiver.id} is not a check", (), waiver.place) for waiver in unknown]
    return verdict(remarks, expected="an id from `arqonbus preflight --list`")


@check(
    "ARQ-WVR-003",
    "No waiver has expired",
    severity=EVERYWHERE,
    why="Correct the fault, or renew the waiver with its owner.",
    fix=("$EDITOR waivers.yaml   # remove it, or set a date that its owner approved",),
)
def has_not_expired(context: Context) -> Outcome:
    over = [waiver for waiver in _waivers(context) if _is_known(waiver) and waiver.ends_at <= context.now]
    remarks = [
        Remark(
            f"the waiver for {waiver.id}, owner {waiver.owner}, expired on {waiver.expires}", (), waiver.place
        )
        for waiver in over
    ]
    return verdict(remarks, expected="an expiry date in the future")


@check(
    "ARQ-WVR-004",
    "Every waiver is needed",
    severity=WARNING_EVERYWHERE,
    why="An unused waiver would hide a later fault.",
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
    return verdict(remarks, expected="waivers for failing checks only")


def _within(waiver: Waiver) -> str:
    return f" in {waiver.scope}" if waiver.scope else ""


def _is_fatal(waiver: Waiver, context: Context) -> bool:
    return checks()[waiver.id].severity[context.settings.environment] is Severity.FATAL


@check(
    "ARQ-WVR-005",
    "No waiver is for a fatal check",
    severity=EVERYWHERE,
    why="Fatal checks cannot be waived, because they protect against open access.",
    fix=("$EDITOR waivers.yaml   # remove it", "arqonbus preflight --explain ID"),
)
def may_be_waived(context: Context) -> Outcome:
    fatal = [waiver for waiver in _waivers(context) if _is_known(waiver) and _is_fatal(waiver, context)]
    remarks = [Remark(f"{waiver.id} is fatal here", (), waiver.place) for waiver in fatal]
    return verdict(remarks, expected="waivers for non-fatal checks only")


@check(
    "ARQ-WVR-006",
    f"No waiver is valid for more than {LONGEST_DAYS} days",
    severity=WARNING_EVERYWHERE,
    why="A long waiver becomes a permanent exception without review.",
    fix=("$EDITOR waivers.yaml   # expires: a date within half a year",),
)
def ends_in_time(context: Context) -> Outcome:
    latest = context.now + LONGEST_DAYS * 86_400
    late = [waiver for waiver in _waivers(context) if waiver.ends_at - 86_400 > latest]
    remarks = [
        Remark(f"the waiver for {waiver.id} expires on {waiver.expires}", (), waiver.place) for waiver in late
    ]
    return verdict(remarks, expected=f"at most {LONGEST_DAYS} days")


@check(
    "ARQ-WVR-007",
    "The scope of every waiver exists",
    severity=WARNING_EVERYWHERE,
    why="A waiver whose scope matches nothing has no effect.",
    fix=("$EDITOR waivers.yaml   # scope: prod, or the key of a setting",),
)
def scope_exists(context: Context) -> Outcome:
    from arqonbus.config.tree import leaves, sections

    scoped = [waiver for waiver in _waivers(context) if waiver.scope]
    if not scoped:
        return skipped("no waiver has a scope")
    known = {".".join(path) for path in (*leaves(), *sections())} | set(ENVIRONMENTS)
    remarks = [
        Remark(f"the scope {w.scope} of the waiver for {w.id} does not exist", (), w.place)
        for w in scoped
        if w.scope not in known
    ]
    return verdict(remarks, expected="an environment, or the key of a setting")
