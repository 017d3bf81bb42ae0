"""BAK: existence, age and permissions of backups, and restore drills."""

from __future__ import annotations

from arqonbus.preflight.facts import BackupFact
from arqonbus.preflight.model import (
    OUTSIDE_DEV,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    failed,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check

_FIRST, _SECOND = "ARQ-BAK-001", "ARQ-BAK-002"


@check(
    _FIRST,
    "backup.directory is set",
    severity=OUTSIDE_DEV,
    why="Without a backup, a failed disk destroys the durable record.",
    fix=("$EDITOR FILE   # backup: {directory: /var/backups/arqonbus}",),
    reads=("backup.directory",),
)
def place_is_said(context: Context) -> Outcome:
    directory = context.settings.backup.directory
    return verdict(["backup.directory is not set"] if directory is None else [], expected="a directory")


def _backup(context: Context) -> BackupFact:
    backup = context.host.backup
    if backup is None:
        raise LookupError("backups were not inspected")
    return backup


@check(
    _SECOND,
    "The backup directory is readable",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Preflight cannot verify backups that it cannot read.",
    fix=("install -d -o arqonbus -m 0750 /var/backups/arqonbus",),
    reads=("backup.directory",),
    requires=(_FIRST,),
)
def place_can_be_read(context: Context) -> Outcome:
    if context.host.backup is None:
        return skipped("backups were not inspected")
    backup = _backup(context)
    bad = backup.state != "directory"
    return verdict(
        [f"{backup.path} is {backup.state}"] if bad else [],
        expected="a directory that the user of the bus can read",
        fix=[f"install -d -o arqonbus -m 0750 {backup.path}"],
    )


@check(
    "ARQ-BAK-003",
    "The newest backup is not older than backup.rpo",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="If the disk fails, everything after the newest backup is lost.",
    fix=("ls -lt /var/backups/arqonbus | head", "see the runbook projector migration, backup and restore"),
    reads=("backup.directory", "backup.rpo"),
    requires=(_FIRST, _SECOND),
)
def backup_is_young(context: Context) -> Outcome:
    backup, rpo = _backup(context), context.settings.backup.rpo
    expected = f"at most {_hours(rpo)} old, and not empty"
    if backup.newest_at is None:
        return failed(f"{backup.path} contains no backup", expected=expected)
    age = context.now - backup.newest_at
    remarks = []
    if age > rpo:
        remarks.append(Remark(f"{backup.newest} is {_hours(age)} old", ("backup.rpo",)))
    if backup.newest_bytes == 0:
        remarks.append(Remark(f"{backup.newest} is empty", ("backup.directory",)))
    return verdict(remarks, expected=expected)


@check(
    "ARQ-BAK-004",
    "The last restore drill is not older than backup.drill_max_age",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Only a restore proves that a backup is usable.",
    fix=("see the runbook restore drill",),
    reads=("backup.directory", "backup.drill_max_age"),
    requires=(_FIRST, _SECOND),
)
def drill_is_young(context: Context) -> Outcome:
    backup, most = _backup(context), context.settings.backup.drill_max_age
    expected = f"a drill within {_hours(most)}"
    if backup.drill_at is None:
        return failed(f"{backup.path} contains no receipt of a drill", expected=expected)
    age = context.now - backup.drill_at
    remarks = (
        [Remark(f"{backup.drill} is {_hours(age)} old", ("backup.drill_max_age",))] if age > most else []
    )
    return verdict(remarks, expected=expected)


@check(
    "ARQ-BAK-005",
    "The last restore drill passed",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="A backup that fails in a drill would also fail in an emergency.",
    fix=("see the runbook restore drill",),
    reads=("backup.directory",),
    requires=(_FIRST, _SECOND),
)
def drill_succeeded(context: Context) -> Outcome:
    backup = _backup(context)
    if backup.drill_at is None:
        return skipped("there was no drill")
    bad = backup.drill_passed is not True
    return verdict([f"{backup.drill} reports a failed drill"] if bad else [], expected="a drill that passed")


@check(
    "ARQ-BAK-006",
    "Backups are not readable by other users",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="A backup contains all messages of all tenants.",
    fix=("chmod 0750 /var/backups/arqonbus",),
    reads=("backup.directory",),
    requires=(_FIRST, _SECOND),
)
def backups_are_private(context: Context) -> Outcome:
    backup = _backup(context)
    shared = backup.mode & 0o007
    return verdict(
        [f"{backup.path} has mode {backup.mode:04o}"] if shared else [],
        expected="mode 0750 or stricter",
        fix=[f"chmod 0750 {backup.path}"],
    )


@check(
    "ARQ-BAK-007",
    "backup.rpo is at most 24 h, and backup.drill_max_age at most 30 days",
    severity=WARNING_OUTSIDE_DEV,
    why="backup.rpo is the period of data that can be lost.",
    fix=("$EDITOR FILE   # backup: {rpo: 24h, drill_max_age: 30d}",),
    reads=("backup.rpo", "backup.drill_max_age"),
)
def promises_are_useful(context: Context) -> Outcome:
    backup = context.settings.backup
    remarks = []
    if not 0 < backup.rpo <= 86_400:
        remarks.append(Remark(f"backup.rpo is {_hours(backup.rpo)}", ("backup.rpo",)))
    if not 0 < backup.drill_max_age <= 30 * 86_400:
        text = f"backup.drill_max_age is {_hours(backup.drill_max_age)}"
        remarks.append(Remark(text, ("backup.drill_max_age",)))
    return verdict(remarks, expected="at most 24 h, and 30 days for drills")


def _hours(seconds: float) -> str:
    return f"{seconds / 86_400:.0f} days" if seconds >= 2 * 86_400 else f"{seconds / 3600:.0f} h"
