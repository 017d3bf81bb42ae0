"""CFG: the text of the profile. Faults found while loading are reported as checks, too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic.fields import FieldInfo

from arqonbus.config import Fault, Location
from arqonbus.config.findings import Path as Keys
from arqonbus.config.findings import dotted
from arqonbus.config.tree import children, leaves, reserved, section_of, unavailable, unit_of
from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Check,
    Context,
    Judge,
    Outcome,
    Phase,
    Remark,
    verdict,
)
from arqonbus.preflight.registry import add, check
from arqonbus.storage.engines import engine_of


class _FaultCheck(NamedTuple):
    id: str
    title: str
    why: str
    fix: tuple[str, ...]


_SOURCES = "arqonbus profile sources --profile PROFILE"
_SHOW = "arqonbus profile show --profile PROFILE --all"
_LOST = "An unknown setting has no effect, and the bus would not report it."

FAULT_CHECKS: Mapping[Fault, _FaultCheck] = {
    Fault.PROFILE_MISSING: _FaultCheck(
        "ARQ-CFG-001",
        "The profile exists",
        "Without a profile, the bus would run with defaults only.",
        ("ls profiles", "arqonbus preflight --profile prod --profiles-dir /etc/arqonbus/profiles"),
    ),
    Fault.FILE_UNREADABLE: _FaultCheck(
        "ARQ-CFG-002",
        "Every profile file is readable",
        "If a layer is missing, its settings do not apply, including the strict ones.",
        ("chmod 0644 FILE", "chmod 0755 $(dirname FILE)"),
    ),
    Fault.YAML_INVALID: _FaultCheck(
        "ARQ-CFG-003",
        "Every profile file is plain YAML",
        "Ambiguous YAML is refused, because a misread value can open a server.",
        ("$EDITOR FILE   # correct the line that the finding names",),
    ),
    Fault.YAML_TOO_LARGE: _FaultCheck(
        "ARQ-CFG-004",
        "Every profile file is within the size limits",
        "A file that expands without limit would block the start on every node.",
        ("wc -c FILE", "$EDITOR FILE   # remove anchors and generated parts"),
    ),
    Fault.DUPLICATE_KEY: _FaultCheck(
        "ARQ-CFG-005",
        "No key is duplicated",
        "Only one of the two values would apply, and a reader cannot tell which.",
        ("$EDITOR FILE   # keep one of the two lines",),
    ),
    Fault.UNKNOWN_KEY: _FaultCheck(
        "ARQ-CFG-006", "Every key is a known setting", _LOST, ("$EDITOR FILE   # correct the key", _SHOW)
    ),
    Fault.BAD_VALUE: _FaultCheck(
        "ARQ-CFG-007",
        "Every value is valid for its setting",
        "The bus does not start with an invalid value.",
        ("arqonbus profile explain KEY --profile PROFILE", "arqonbus profile schema"),
    ),
    Fault.EMPTY_VALUE: _FaultCheck(
        "ARQ-CFG-008",
        "No value is empty",
        "An empty variable is usually a missing secret; if it were ignored, a default would apply.",
        ("unset NAME   # or set a value",),
    ),
    Fault.UNKNOWN_VARIABLE: _FaultCheck(
        "ARQ-CFG-009",
        "Every ARQONBUS_ variable is a known setting",
        _LOST,
        ("arqonbus profile sources --variables", "unset NAME"),
    ),
    Fault.CONFLICTING_VARIABLES: _FaultCheck(
        "ARQ-CFG-010",
        "No two variables set the same setting to different values",
        "It would be unclear which of the two values applies.",
        ("unset NAME   # the older name",),
    ),
    Fault.FOREIGN_VARIABLE: _FaultCheck(
        "ARQ-CFG-011",
        "No variable configures the libraries that read profiles",
        "Such a variable can change how files are read, or write secrets to the log.",
        ("unset NAME",),
    ),
    Fault.BAD_OVERRIDE: _FaultCheck(
        "ARQ-CFG-012",
        "Every --set names a known setting",
        _LOST,
        ("arqonbus preflight --set server.port=9100",),
    ),
    Fault.BAD_REFERENCE: _FaultCheck(
        "ARQ-CFG-013",
        "Every secret reference is complete",
        "The bus cannot read a secret from an incomplete reference.",
        ("$EDITOR FILE   # {from: credential, name: NAME}",),
    ),
    Fault.SECRET_UNREADABLE: _FaultCheck(
        "ARQ-CFG-014",
        "Every secret is readable, and by its owner only",
        "Without its secrets, the bus cannot verify tokens or reach its datastores. A secret "
        "that other users can read is exposed.",
        (
            "$EDITOR FILE   # correct the reference",
            "systemctl cat arqonbus@   # LoadCredential=NAME:PATH",
        ),
    ),
    Fault.ENVIRONMENT_MISMATCH: _FaultCheck(
        "ARQ-CFG-015",
        "Profile directory, environment and ARQONBUS_ENVIRONMENT agree",
        "A production host that runs as dev would be checked as dev, and most requirements would not apply.",
        ("unset ARQONBUS_ENVIRONMENT", "$EDITOR FILE   # environment: the name of the directory"),
    ),
}


def judge_fault(fault: Fault, *, expected: str) -> Judge:
    """A judge that reports the findings with this fault code."""

    def judge(context: Context) -> Outcome:
        found = [finding for finding in context.findings if finding.code is fault]
        return verdict(
            (
                Remark(finding.message, (finding.key,) if finding.key else (), finding.location or _NOWHERE)
                for finding in found
            ),
            expected=expected,
            fix=dict.fromkeys(command for finding in found for command in finding.fix),
        )

    return judge


_NOWHERE = Location("profile", "the profile")

for _fault, _texts in FAULT_CHECKS.items():
    add(
        Check(
            _texts.id,
            _texts.title,
            Phase.STATIC,
            EVERYWHERE,
            _texts.why,
            _texts.fix,
            judge_fault(_fault, expected=_texts.title[:1].lower() + _texts.title[1:]),
            tags=("load",),
        )
    )


@check(
    "ARQ-CFG-016",
    "environment is set explicitly",
    severity=WARNING_EVERYWHERE,
    why="Without it, the profile is checked as dev, which forbids almost nothing.",
    fix=("$EDITOR FILE   # environment: prod",),
    reads=("environment",),
)
def environment_is_set(context: Context) -> Outcome:
    text = f"environment is not set; the default {context.settings.environment} would apply"
    remarks = [] if context.is_set("environment") else [text]
    return verdict(remarks, expected="dev, staging or prod")


@check(
    "ARQ-CFG-017",
    "No host overlay exists that the profile does not declare",
    phase=Phase.HOST,
    severity=WARNING_EVERYWHERE,
    why="The settings in an undeclared overlay do not apply, although the file suggests that they do.",
    fix=("$EDITOR FILE   # host_overlay: /etc/arqonbus/local.yaml", "rm /etc/arqonbus/local.yaml"),
    reads=("host_overlay",),
)
def overlay_is_declared(context: Context) -> Outcome:
    found = context.host.undeclared_overlay
    remarks = [Remark(f"{found} exists but is not declared as host_overlay")] if found else []
    return verdict(remarks, expected="no such file, or host_overlay set to its path")


@check(
    "ARQ-CFG-018",
    "No setting is set on the command line",
    severity=WARNING_OUTSIDE_DEV,
    why="A value given with --set is lost at the next start and is never reviewed.",
    fix=("$EDITOR FILE   # set it in the profile or the host overlay",),
)
def nothing_on_the_command_line(context: Context) -> Outcome:
    keys = [leaf.key for leaf in leaves().values() if context.resolved.location(leaf.key).layer == "set"]
    remarks = [Remark(f"{key} is set with --set", (key,)) for key in keys]
    return verdict(remarks, expected="settings in files, secrets in the secrets directory")


@check(
    "ARQ-CFG-019",
    "Profile files are writable by their owner only",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="A user who can write the profile can redirect passwords to another server.",
    fix=("chmod go-w FILE",),
)
def files_are_not_writable(context: Context) -> Outcome:
    writable = [
        file
        for file in context.host.files
        if file.key == "profile" and file.state == "file" and file.mode & 0o022
    ]
    remarks = [f"{file.path} has mode {file.mode:04o}" for file in writable]
    fix = [f"chmod go-w {file.path}" for file in writable]
    return verdict(remarks, expected="write permission for the owner only", fix=fix)


@check(
    "ARQ-CFG-020",
    "The path of the database is absolute",
    severity=WARNING_OUTSIDE_DEV,
    why="With a relative path, a start from another directory would create a new, empty database.",
    fix=("$EDITOR FILE   # state_dir: /var/lib/arqonbus",),
    reads=("state_dir", "storage.backend", "storage.sqlite.path"),
)
def state_is_absolute(context: Context) -> Outcome:
    settings = context.settings
    path = engine_of(settings).file(settings)
    relative = path is not None and not path.is_absolute()
    remarks = [Remark(f"the database path {path} is relative", ("state_dir",))] if relative else []
    return verdict(remarks, expected="an absolute state_dir, such as /var/lib/arqonbus")


@check(
    "ARQ-CFG-021",
    "Every setting is available in this version",
    severity=EVERYWHERE,
    why="The bus does not start with a setting that it cannot apply.",
    fix=("$EDITOR FILE   # remove the setting",),
    reads=tuple(leaf.key for leaf in reserved()),
)
def settings_are_available(context: Context) -> Outcome:
    remarks = [
        Remark(f"{key} is not available in this version", (key,)) for key in unavailable(context.settings)
    ]
    return verdict(remarks, expected="the default")


def _bare_numbers(value: Any, field: FieldInfo, path: Keys) -> Iterator[Keys]:
    """The places in a raw value where an amount is written without a unit. 0 needs none."""
    inner = section_of(field.annotation) or next(
        (found for part in get_args(field.annotation) if (found := section_of(part))), None
    )
    if inner is not None:
        for index, each in enumerate(value) if isinstance(value, list | tuple) else ((None, value),):
            for name, child in children(inner).items():
                if isinstance(each, Mapping) and name in each:
                    place = path if index is None else (*path, index)
                    yield from _bare_numbers(each[name], child, (*place, name))
    elif (unit := unit_of(field)) and not str(path[-1]).endswith(f"_{unit}") and _is_bare(value):
        yield path


def _is_bare(value: object) -> bool:
    """True if the value is a number without a unit other than 0."""
    return re.fullmatch(r"[0-9]*\.?[0-9]+", str(value)) is not None and float(str(value)) != 0


@check(
    "ARQ-CFG-022",
    "Durations and sizes have a unit",
    severity=WARNING_OUTSIDE_DEV,
    why="A number without a unit is seconds or bytes: backup.rpo: 24 is 24 seconds, not 24 hours.",
    fix=("$EDITOR FILE   # write 24h, 30s, 64KiB",),
    reads=tuple(leaf.key for leaf in leaves().values() if unit_of(leaf.field)),
)
def amounts_have_units(context: Context) -> Outcome:
    remarks = []
    for path, leaf in leaves().items():
        for given in context.resolved.provenance.given(path)[:1]:
            for place in _bare_numbers(given.value, leaf.field, path):
                remarks.append(Remark(f"{dotted(place)} is a number without a unit", (leaf.key,)))
    return verdict(remarks, expected="a unit, such as s, m, h, d, KiB or MiB")
