"""Findings of loading a profile: codes, locations, and the error that holds them.

Pure. A finding never contains the value of a secret. The codes are stable; preflight shows them beside its
checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Stable codes of findings."""

    PROFILE_MISSING = "PROFILE_MISSING"
    FILE_UNREADABLE = "FILE_UNREADABLE"
    YAML_INVALID = "YAML_INVALID"
    YAML_TOO_LARGE = "YAML_TOO_LARGE"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    UNKNOWN_KEY = "UNKNOWN_KEY"
    BAD_VALUE = "BAD_VALUE"
    EMPTY_VALUE = "EMPTY_VALUE"
    UNKNOWN_VARIABLE = "UNKNOWN_VARIABLE"
    CONFLICTING_VARIABLES = "CONFLICTING_VARIABLES"
    FOREIGN_VARIABLE = "FOREIGN_VARIABLE"
    BAD_OVERRIDE = "BAD_OVERRIDE"
    BAD_REFERENCE = "BAD_REFERENCE"
    SECRET_UNREADABLE = "SECRET_UNREADABLE"  # noqa: S105 - a code, not a secret
    LITERAL_SECRET = "LITERAL_SECRET"  # noqa: S105 - a code, not a secret
    ENVIRONMENT_MISMATCH = "ENVIRONMENT_MISMATCH"
    VALIDATION_SKIPPED = "VALIDATION_SKIPPED"


MEANINGS: Mapping[Fault, str] = {
    Fault.PROFILE_MISSING: "No profile exists with that name or at that path.",
    Fault.FILE_UNREADABLE: "A file of the profile cannot be read.",
    Fault.YAML_INVALID: "A file is not valid YAML, or uses a feature that profiles do not allow.",
    Fault.YAML_TOO_LARGE: "A file of the profile exceeds the limits on size or depth.",
    Fault.DUPLICATE_KEY: "A mapping contains a key twice.",
    Fault.UNKNOWN_KEY: "No setting has that name.",
    Fault.BAD_VALUE: "The value is not valid for the setting.",
    Fault.EMPTY_VALUE: "The value is empty; to use the default, leave the setting out.",
    Fault.UNKNOWN_VARIABLE: "An environment variable begins with ARQONBUS_ and names no setting.",
    Fault.CONFLICTING_VARIABLES: "Two environment variables set one setting to different values.",
    Fault.FOREIGN_VARIABLE: "An environment variable would change how profiles are read.",
    Fault.BAD_OVERRIDE: "An override is not of the form key=value, or names no setting.",
    Fault.BAD_REFERENCE: "A reference to a secret is incomplete or invalid.",
    Fault.SECRET_UNREADABLE: "A secret cannot be read from the place that the profile names.",
    Fault.LITERAL_SECRET: "A file or a command line contains a secret literally.",
    Fault.ENVIRONMENT_MISMATCH: "The profile's directory and its environment differ.",
    Fault.VALIDATION_SKIPPED: "Tokens would be accepted without verifying their signature.",
}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Location:
    """Location of a value: its layer, and a file with line and column, a variable, or an option."""

    layer: str
    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault with its remedy in one sentence. `fix`: commands that correct it, if known."""

    code: Fault
    message: str
    location: Location | None = None
    key: str = ""
    fix: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class ConfigError(Exception):
    """A profile that cannot be used. Holds all findings in the order of their location."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(dict.fromkeys(findings), key=_order))
        super().__init__("\n".join(str(finding) for finding in self.findings))


def _order(finding: Finding) -> tuple[str, int, int, str, str]:
    place = finding.location or Location("", "")
    return (place.source, place.line, place.column, finding.key, finding.message)


def dotted(path: Path) -> str:
    """Format a path: `("rooms", 0, "match")` as `rooms[0].match`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


__all__ = ["MEANINGS", "ConfigError", "Fault", "Finding", "Location", "Path", "dotted"]
