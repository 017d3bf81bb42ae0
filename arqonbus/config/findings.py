"""What can be wrong with a profile before anybody judges it, where it stands, and the error that says so.

Pure. A finding never holds the value of a secret. The codes are stable; preflight shows them beside its
own checks.
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
    Fault.PROFILE_MISSING: "There is no profile of that name or at that path.",
    Fault.FILE_UNREADABLE: "A file of the profile cannot be read.",
    Fault.YAML_INVALID: "A file of the profile is not YAML of the kind that profiles are written in.",
    Fault.YAML_TOO_LARGE: "A file of the profile is larger or deeper than any profile needs to be.",
    Fault.DUPLICATE_KEY: "A key stands twice in one mapping; only one of them could hold.",
    Fault.UNKNOWN_KEY: "No setting has that name.",
    Fault.BAD_VALUE: "The value is not one that the setting can take.",
    Fault.EMPTY_VALUE: "The value is empty; leaving a setting out and emptying it are different things.",
    Fault.UNKNOWN_VARIABLE: "An environment variable looks like one of ours and names no setting.",
    Fault.CONFLICTING_VARIABLES: "Two environment variables name one setting and disagree.",
    Fault.FOREIGN_VARIABLE: "An environment variable would change how profiles are read.",
    Fault.BAD_OVERRIDE: "An override is not of the form key=value, or names no setting.",
    Fault.BAD_REFERENCE: "A reference to a secret does not say where the secret is.",
    Fault.SECRET_UNREADABLE: "A secret cannot be read from where the profile says it is.",
    Fault.LITERAL_SECRET: "A secret stands in a file or on a command line.",
    Fault.ENVIRONMENT_MISMATCH: "The profile's directory and its environment disagree.",
    Fault.VALIDATION_SKIPPED: "Tokens would be accepted without looking at their signature.",
}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a value stands: its layer, and a file with line and column, a variable, or an option."""

    layer: str
    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, as one sentence that says what to do, and what to type where that is known."""

    code: Fault
    message: str
    location: Location | None = None
    key: str = ""
    fix: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class ConfigError(Exception):
    """A profile that cannot be used. Holds everything that was found, in order of place."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(dict.fromkeys(findings), key=_order))
        super().__init__("\n".join(str(finding) for finding in self.findings))


def _order(finding: Finding) -> tuple[str, int, int, str, str]:
    place = finding.location or Location("", "")
    return (place.source, place.line, place.column, finding.key, finding.message)


def dotted(path: Path) -> str:
    """`("rooms", 0, "match")` as people write it: `rooms[0].match`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


__all__ = ["MEANINGS", "ConfigError", "Fault", "Finding", "Location", "Path", "dotted"]
