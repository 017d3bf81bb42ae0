"""Registry of all checks by id, in report order. Each module in `checks/` registers its family on import."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from arqonbus.preflight import checks as files
from arqonbus.preflight.model import Check, Judge, Judgement, Phase

FAMILIES: Mapping[str, str] = {
    "CFG": "profile files",
    "NET": "addresses, ports, timeouts",
    "TLS": "certificates and encryption",
    "SEC": "tokens and secrets",
    "PRO": "the wire protocol",
    "STO": "storage",
    "PRJ": "the projector",
    "VAL": "Valkey",
    "PGS": "Postgres",
    "NAT": "NATS",
    "HST": "the host",
    "BAK": "backups",
    "OBS": "logs and alerts",
    "UPG": "upgrades",
    "WVR": "waivers",
}

_ID = re.compile(r"ARQ-([A-Z]{3})-[0-9]{3}")
_CHECKS: dict[str, Check] = {}


def add(check: Check) -> None:
    """Register a check. An id is never reused: receipts and waivers refer to it."""
    match = _ID.fullmatch(check.id)
    if match is None or match[1] not in FAMILIES or check.id in _CHECKS:
        raise ValueError(f"{check.id} is not a valid check id, or is already registered")
    _CHECKS[check.id] = check


def check(
    id: str,
    title: str,
    *,
    severity: Judgement,
    why: str,
    fix: Sequence[str],
    phase: Phase = Phase.STATIC,
    reads: Sequence[str] = (),
    requires: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Callable[[Judge], Judge]:
    """Register the decorated function as a check."""

    def decorate(judge: Judge) -> Judge:
        parts = tuple(reads), tuple(requires), tuple(tags)
        add(Check(id, title, phase, severity, why, tuple(fix), judge, *parts))
        return judge

    return decorate


@cache
def checks() -> Mapping[str, Check]:
    """Every check by id, family by family."""
    for module in iter_modules(files.__path__):
        import_module(f"{files.__name__}.{module.name}")
    order = list(FAMILIES)
    return dict(sorted(_CHECKS.items(), key=lambda item: (order.index(item[1].family), item[0])))


@cache
def check_set() -> str:
    """A short fingerprint of the checks and their severities."""
    text = "\n".join(f"{each.id} {sorted(each.severity.items())}" for each in checks().values())
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class UnknownCheck(Exception):
    """A name that is not a check, family or tag; the message suggests a similar one."""


def select(names: Iterable[str]) -> frozenset[str]:
    """Expand ids, families (`TLS`) and tags to check ids. Raises UnknownCheck."""
    chosen: set[str] = set()
    for name in names:
        wanted = name.strip()
        found = {
            each.id
            for each in checks().values()
            if wanted.upper() in (each.id, each.family) or wanted.lower() in each.tags
        }
        if not found:
            raise UnknownCheck(_unknown(wanted))
        chosen |= found
    return frozenset(chosen)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.upper(), [*checks(), *FAMILIES], 1)
    hint = f"did you mean {close[0]}?" if close else "`arqonbus preflight --list` shows all"
    return f"{name!r} is not a check, family or tag; {hint}"


__all__ = ["FAMILIES", "UnknownCheck", "add", "check", "check_set", "checks", "select"]
