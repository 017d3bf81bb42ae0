"""UPG: pending contracting migrations, downgrades, and renamed settings."""

from __future__ import annotations

import re

from arqonbus.preflight.model import (
    EVERYWHERE,
    WARNING_EVERYWHERE,
    Context,
    Outcome,
    Phase,
    Remark,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check

RENAMED_VARIABLES = {
    "ARQONBUS_REDIS_URL": "ARQONBUS_VALKEY_URL",
    "ARQONBUS_AUTH_JWT_SECRET": "JWT_SECRET",
}
RENAMED_SCHEMES = {"redis": "valkey", "rediss": "valkeys"}


@check(
    "ARQ-UPG-001",
    "No contracting migration is pending",
    phase=Phase.ONLINE,
    severity=WARNING_EVERYWHERE,
    why="A contracting step removes what nodes of the previous release still use; those nodes would fail.",
    fix=("arqonbus migrate plan --sql --profile PROFILE", "upgrade every node, then: arqonbus migrate apply"),
    reads=("datastores.postgres",),
    requires=("ARQ-PGS-001", "ARQ-PGS-006"),
    tags=("upgrade",),
)
def no_contraction_waits(context: Context) -> Outcome:
    answers = context.facts.postgres if context.facts else None
    if answers is None:
        return skipped("Postgres was not queried")
    waiting = answers.pending_contract
    return verdict(
        [f"pending contracting steps: {', '.join(waiting)}"] if waiting else [],
        expected="no pending contracting step",
    )


@check(
    "ARQ-UPG-002",
    "This version is not older than the last one on this host",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="This version may not be able to read data that a newer version wrote.",
    fix=("arqonbus --version", "see the runbook rollback"),
    reads=("state_dir",),
    tags=("upgrade",),
)
def is_no_downgrade(context: Context) -> Outcome:
    host = context.host
    if not host.last_version:
        return skipped("no receipt of an earlier version was found")
    older = _number(host.version) < _number(host.last_version)
    text = f"this version is {host.version}; {host.last_version_source} was written by {host.last_version}"
    return verdict([text] if older else [], expected=f"{host.last_version} or newer")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])


@check(
    "ARQ-UPG-003",
    "Settings use their current names",
    severity=WARNING_EVERYWHERE,
    why="Old names still work but will be removed in a later release.",
    fix=("unset ARQONBUS_REDIS_URL; export ARQONBUS_VALKEY_URL=…",),
    reads=("datastores.valkey.url",),
    tags=("upgrade",),
)
def names_are_current(context: Context) -> Outcome:
    remarks = []
    for key in ("datastores.valkey.url", "auth.jwt.secret"):
        place = context.resolved.location(key)
        current = RENAMED_VARIABLES.get(place.source)
        if current is not None:
            remarks.append(Remark(f"{place.source} is now {current}", (key,)))
    scheme = (context.settings.datastores.valkey.url or "").partition("://")[0]
    if scheme in RENAMED_SCHEMES:
        text = f"the scheme {scheme}:// is now {RENAMED_SCHEMES[scheme]}://"
        remarks.append(Remark(text, ("datastores.valkey.url",)))
    return verdict(remarks, expected="current names only")
