"""CFG: the profile as a text. What loading found is shown as checks, beside those that only judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from arqonbus.config import Fault, Location
from arqonbus.config.tree import leaves, reserved, unavailable
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
_LOST = "A setting that is not read does not hold, and nothing says so while the bus runs."

FAULT_CHECKS: Mapping[Fault, _FaultCheck] = {
    Fault.PROFILE_MISSING: _FaultCheck(
        "ARQ-CFG-001",
        "The profile exists",
        "Without a profile the bus would run on defaults that nobody chose.",
        ("ls profiles", "arqonbus preflight --profile prod --profiles-dir /etc/arqonbus/profiles"),
    ),
    Fault.FILE_UNREADABLE: _FaultCheck(
        "ARQ-CFG-002",
        "Every file of the profile can be read",
        "A layer that is missing takes its settings with it, the strict ones included.",
        ("chmod 0644 FILE", "chmod 0755 $(dirname FILE)"),
    ),
    Fault.YAML_INVALID: _FaultCheck(
        "ARQ-CFG-003",
        "Every file of the profile is plain YAML",
        "What cannot be read with certainty is not guessed: YAML's surprises have opened servers before.",
        ("$EDITOR FILE   # at the line that is named",),
    ),
    Fault.YAML_TOO_LARGE: _FaultCheck(
        "ARQ-CFG-004",
        "Every file of the profile is of a profile's size",
        "A file that expands without end would stop the start on every node at once.",
        ("wc -c FILE", "$EDITOR FILE   # remove anchors and generated parts"),
    ),
    Fault.DUPLICATE_KEY: _FaultCheck(
        "ARQ-CFG-005",
        "No key stands twice",
        "Of two values one would hold, and a reader cannot know which.",
        ("$EDITOR FILE   # keep one of the two lines",),
    ),
    Fault.UNKNOWN_KEY: _FaultCheck(
        "ARQ-CFG-006", "Every key is a setting", _LOST, ("$EDITOR FILE   # the key as it is meant", _SHOW)
    ),
    Fault.BAD_VALUE: _FaultCheck(
        "ARQ-CFG-007",
        "Every value is one that its setting can take",
        "The bus does not start with it.",
        ("arqonbus profile explain KEY --profile PROFILE", "arqonbus profile schema"),
    ),
    Fault.EMPTY_VALUE: _FaultCheck(
        "ARQ-CFG-008",
        "No value is empty",
        "An empty variable is mostly a secret that did not arrive; taken as unset, a default would hold.",
        ("unset NAME   # or give it a value",),
    ),
    Fault.UNKNOWN_VARIABLE: _FaultCheck(
        "ARQ-CFG-009",
        "Every ARQONBUS_ variable is a setting",
        _LOST,
        ("arqonbus profile sources --variables", "unset NAME"),
    ),
    Fault.CONFLICTING_VARIABLES: _FaultCheck(
        "ARQ-CFG-010",
        "No two variables disagree on one setting",
        "Which of them held would depend on their names.",
        ("unset NAME   # of the older spelling",),
    ),
    Fault.FOREIGN_VARIABLE: _FaultCheck(
        "ARQ-CFG-011",
        "No variable reaches into the libraries that read profiles",
        "Such a variable changes how files are read, or writes secrets to the log.",
        ("unset NAME",),
    ),
    Fault.BAD_OVERRIDE: _FaultCheck(
        "ARQ-CFG-012",
        "Every --set names a setting",
        _LOST,
        ("arqonbus preflight --set server.port=9100",),
    ),
    Fault.BAD_REFERENCE: _FaultCheck(
        "ARQ-CFG-013",
        "Every reference to a secret says where the secret is",
        "The secret cannot be fetched.",
        ("$EDITOR FILE   # {from: credential, name: NAME}",),
    ),
    Fault.SECRET_UNREADABLE: _FaultCheck(
        "ARQ-CFG-014",
        "Every secret can be read, by its owner only",
        "Without its secret the bus lets nobody in, or cannot reach its store; a secret that all may read "
        "is none.",
        (
            "$EDITOR FILE   # where the secret really is",
            "systemctl cat arqonbus@   # LoadCredential=NAME:PATH",
        ),
    ),
    Fault.ENVIRONMENT_MISMATCH: _FaultCheck(
        "ARQ-CFG-015",
        "The profile's directory, its environment and the variable agree",
        "A production host that runs as dev is judged as dev, and nothing below would be checked.",
        ("unset ARQONBUS_ENVIRONMENT", "$EDITOR FILE   # environment: as the directory is called"),
    ),
}


def judge_fault(fault: Fault, *, expected: str) -> Judge:
    """A judge that shows the findings of this code."""

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
    "The environment is said",
    severity=WARNING_EVERYWHERE,
    why="A profile that does not say what it is counts as dev, where next to nothing is forbidden.",
    fix=("$EDITOR FILE   # environment: prod",),
    reads=("environment",),
)
def environment_is_said(context: Context) -> Outcome:
    said = context.is_set("environment")
    return verdict([] if said else ["nobody sets environment"], expected="dev, staging or prod")


@check(
    "ARQ-CFG-017",
    "A host overlay is there because the profile declares it",
    phase=Phase.HOST,
    severity=WARNING_EVERYWHERE,
    why="A file that looks like a layer and is not read makes people believe in settings that do not hold.",
    fix=("$EDITOR FILE   # host_overlay: /etc/arqonbus/local.yaml", "rm /etc/arqonbus/local.yaml"),
    reads=("host_overlay",),
)
def overlay_is_declared(context: Context) -> Outcome:
    found = context.host.undeclared_overlay
    remarks = [Remark(f"{found} exists and is not read")] if found else []
    return verdict(remarks, expected="no such file, or its path as host_overlay")


@check(
    "ARQ-CFG-018",
    "Nothing is set on the command line",
    severity=WARNING_OUTSIDE_DEV,
    why="What --set says is gone with the next start, and stands in no review.",
    fix=("$EDITOR FILE   # write it into the profile or the host overlay",),
)
def nothing_on_the_command_line(context: Context) -> Outcome:
    keys = [leaf.key for leaf in leaves().values() if context.resolved.location(leaf.key).layer == "set"]
    remarks = [Remark(f"{key} comes from --set", (key,)) for key in keys]
    return verdict(remarks, expected="settings in files, secrets in their directory")


@check(
    "ARQ-CFG-019",
    "Only the owner can write the profile's files",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Whoever writes the profile decides where passwords are sent.",
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
    "The state directory does not depend on where the bus is started",
    severity=WARNING_OUTSIDE_DEV,
    why="Started from another directory the bus would make a new, empty database and lose nothing but sight.",
    fix=("$EDITOR FILE   # state_dir: /var/lib/arqonbus",),
    reads=("state_dir", "storage.backend", "storage.sqlite.path"),
)
def state_is_absolute(context: Context) -> Outcome:
    settings = context.settings
    path = engine_of(settings).file(settings)
    relative = path is not None and not path.is_absolute()
    remarks = [Remark(f"the database is {path}, a relative path", ("state_dir",))] if relative else []
    return verdict(remarks, expected="an absolute state_dir, such as /var/lib/arqonbus")


@check(
    "ARQ-CFG-021",
    "Every setting is available in this version",
    severity=EVERYWHERE,
    why="The bus does not start with a setting that it cannot apply.",
    fix=("$EDITOR FILE   # leave the setting out",),
    reads=tuple(leaf.key for leaf in reserved()),
)
def settings_are_available(context: Context) -> Outcome:
    remarks = [
        Remark(f"this version does not have {key} yet", (key,)) for key in unavailable(context.settings)
    ]
    return verdict(remarks, expected="the default")
