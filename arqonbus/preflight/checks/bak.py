"""BAK: whether there is a backup, how old it is, and whether it was ever restored."""

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
    "There is a place for backups",
    severity=OUTSIDE_DEV,
    why="A disk that dies without a backup takes the durable record with it.",
    fix=("$EDITOR FILE   # backup: {directory: /var/backups/arqonbus}",),
    reads=("backup.directory",),
)
def place_is_said(context: Context) -> Outcome:
    directory = context.settings.backup.directory
    return verdict(["backup.directory is not set"] if directory is None else [], expected="a directory")


def _backup(context: Context) -> BackupFact:
    backup = context.host.backup
    if backup is None:
        raise LookupError("backups were not looked at")
    return backup


@check(
    _SECOND,
    "The place for backups can be read",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="What cannot be seen here cannot be trusted to exist.",
    fix=("install -d -o arqonbus -m 0750 /var/backups/arqonbus",),
    reads=("backup.directory",),
    requires=(_FIRST,),
)
def place_can_be_read(context: Context) -> Outcome:
    if context.host.backup is None:
        return skipped("backups were not looked at")
    backup = _backup(context)
    bad = backup.state != "directory"
    return verdict(
        [f"{backup.path} is {backup.state}"] if bad else [],
        expected="a directory that we may read",
        fix=[f"install -d -o arqonbus -m 0750 {backup.path}"],
    )


@check(
    "ARQ-BAK-003",
    "The newest backup is young enough",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Everything since then would be lost with the disk.",
    fix=("ls -lt /var/backups/arqonbus | head", "see the runbook projector migration, backup and restore"),
    reads=("backup.directory", "backup.rpo"),
    requires=(_FIRST, _SECOND),
)
def backup_is_young(context: Context) -> Outcome:
    backup, rpo = _backup(context), context.settings.backup.rpo
    expected = f"{_hours(rpo)} old at most, and not empty"
    if backup.newest_at is None:
        return failed(f"there is none in {backup.path}", expected=expected)
    age = context.now - backup.newest_at
    remarks = []
    if age > rpo:
        remarks.append(Remark(f"{backup.newest} is {_hours(age)} old", ("backup.rpo",)))
    if backup.newest_bytes == 0:
        remarks.append(Remark(f"{backup.newest} is empty", ("backup.directory",)))
    return verdict(remarks, expected=expected)


@check(
    "ARQ-BAK-004",
    "A restore was tried lately",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="A backup that was never restored is a hope.",
    fix=("see the runbook restore drill",),
    reads=("backup.directory", "backup.drill_max_age"),
    requires=(_FIRST, _SECOND),
)
def drill_is_young(context: Context) -> Outcome:
    backup, most = _backup(context), context.settings.backup.drill_max_age
    expected = f"a drill within {_hours(most)}"
    if backup.drill_at is None:
        return failed(f"{backup.path} holds no receipt of a drill", expected=expected)
    age = context.now - backup.drill_at
    remarks = (
        [Remark(f"{backup.drill} is {_hours(age)} old", ("backup.drill_max_age",))] if age > most else []
    )
    return verdict(remarks, expected=expected)


@check(
    "ARQ-BAK-005",
    "The last restore succeeded",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="What could not be restored in a drill cannot be restored in need.",
    fix=("see the runbook restore drill",),
    reads=("backup.directory",),
    requires=(_FIRST, _SECOND),
)
def drill_succeeded(context: Context) -> Outcome:
    backup = _backup(context)
    if backup.drill_at is None:
        return skipped("there was no drill")
    bad = backup.drill_passed is not True
    return verdict([f"{backup.drill} says that it failed"] if bad else [], expected="a drill that passed")


@check(
    "ARQ-BAK-006",
    "Nobody else can read the backups",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="A backup holds all messages of all tenants.",
    fix=("chmod 0750 /var/backups/arqonbus",),
    reads=("backup.directory",),
    requires=(_FIRST, _SECOND),
)
def backups_are_private(context: Context) -> Outcome:
    backup = _backup(context)
    shared = backup.mode & 0o007
    return verdict(
        [f"{backup.path} has mode {backup.mode:04o}"] if shared else [],
        expected="0750 or less",
        fix=[f"chmod 0750 {backup.path}"],
    )


@check(
    "ARQ-BAK-007",
    "The promised age of backups is one day at most",
    severity=WARNING_OUTSIDE_DEV,
    why="It is how much may be lost.",
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
    return verdict(remarks, expected="24 h, and 30 days for drills")


def _hours(seconds: float) -> str:
    return f"{seconds / 86_400:.0f} days" if seconds >= 2 * 86_400 else f"{seconds / 3600:.0f} h"
