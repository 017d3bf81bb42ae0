"""Types of checks: their context and their outcome. Pure.

A check never opens a file or a connection: facts of host and servers are gathered before and passed in its
context, so that a captured host is checked exactly like this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from arqonbus.config import Finding, Location, Resolved, Settings
from arqonbus.config.settings import EnvironmentName

if TYPE_CHECKING:
    from arqonbus.preflight.facts import Facts, HostFacts
    from arqonbus.preflight.waivers import Ledger


class Phase(StrEnum):
    """The input of a check: the profile only, facts of the host, or answers of the servers."""

    STATIC = "static"
    HOST = "host"
    ONLINE = "online"


class Severity(StrEnum):
    """Severity of a failed check. OFF: the check does not run. FATAL: it cannot be waived."""

    OFF = "off"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"


class Status(StrEnum):
    """Result of a check. ERRORED: the check itself raised; counts as failed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ERRORED = "errored"


Judgement = Mapping[EnvironmentName, Severity]


def _judgement(dev: Severity, outside: Severity) -> Judgement:
    return {"dev": dev, "staging": outside, "prod": outside}


# Staging is checked like prod, so that faults are found before prod.
EVERYWHERE = _judgement(Severity.ERROR, Severity.ERROR)
WARN_IN_DEV = _judgement(Severity.WARNING, Severity.ERROR)
OUTSIDE_DEV = _judgement(Severity.OFF, Severity.ERROR)
FATAL_OUTSIDE_DEV = _judgement(Severity.WARNING, Severity.FATAL)
WARNING_EVERYWHERE = _judgement(Severity.WARNING, Severity.WARNING)
WARNING_OUTSIDE_DEV = _judgement(Severity.OFF, Severity.WARNING)


@dataclass(frozen=True, slots=True)
class Remark:
    """One finding: a sentence without its full stop, and the settings or the location that it concerns."""

    text: str
    keys: tuple[str, ...] = ()
    place: Location | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a check. `fix` is more specific than the check's own fix, and is shown before it."""

    status: Status
    remarks: tuple[Remark, ...] = ()
    expected: str = ""
    because: str = ""
    fix: tuple[str, ...] = ()
    latency_ms: float | None = None


def passed(latency_ms: float | None = None) -> Outcome:
    """The requirement is met."""
    return Outcome(Status.PASSED, latency_ms=latency_ms)


def skipped(because: str) -> Outcome:
    """The check does not apply; `because` is a sentence without its full stop."""
    return Outcome(Status.SKIPPED, because=because)


def failed(
    *remarks: str | Remark, expected: str, fix: Iterable[str] = (), latency_ms: float | None = None
) -> Outcome:
    """The requirement is not met: the findings, and the expected value."""
    seen = tuple(remark if isinstance(remark, Remark) else Remark(remark) for remark in remarks)
    return Outcome(Status.FAILED, seen, expected, fix=tuple(fix), latency_ms=latency_ms)


def verdict(remarks: Iterable[str | Remark], *, expected: str, fix: Iterable[str] = ()) -> Outcome:
    """Failed if there is any remark, otherwise passed."""
    found = list(remarks)
    return failed(*found, expected=expected, fix=fix) if found else passed()


@dataclass(frozen=True)
class Context:
    """The input of checks. `now` is in Unix seconds; `findings` are faults found while loading."""

    resolved: Resolved
    findings: tuple[Finding, ...] = ()
    facts: Facts | None = None
    ledger: Ledger | None = None
    now: float = 0.0

    @property
    def settings(self) -> Settings:
        return self.resolved.settings

    @property
    def outside_dev(self) -> bool:
        return self.settings.environment != "dev"

    @property
    def host(self) -> HostFacts:
        """Facts of the host. Host checks run only if there are facts."""
        if self.facts is None or self.facts.host is None:
            raise LookupError("there are no facts of the host")
        return self.facts.host

    def is_set(self, key: str) -> bool:
        """True if the setting is set explicitly, whatever its value."""
        return self.resolved.location(key).layer != "defaults"


Judge = Callable[[Context], Outcome]


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement that is verified before a start.

    `reads` are the settings that it checks (a section includes all its settings); if one of them could not be
    loaded, the check is skipped. It is also skipped unless all checks in `requires` passed.
    """

    id: str
    title: str
    phase: Phase
    severity: Judgement
    why: str
    fix: tuple[str, ...]
    judge: Judge
    reads: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return self.id.split("-")[1]


__all__ = [
    "EVERYWHERE",
    "FATAL_OUTSIDE_DEV",
    "OUTSIDE_DEV",
    "WARNING_EVERYWHERE",
    "WARNING_OUTSIDE_DEV",
    "WARN_IN_DEV",
    "Check",
    "Context",
    "Judge",
    "Judgement",
    "Outcome",
    "Phase",
    "Remark",
    "Severity",
    "Status",
    "failed",
    "passed",
    "skipped",
    "verdict",
]
