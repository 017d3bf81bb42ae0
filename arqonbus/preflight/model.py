"""What a check is, what it is given and what it answers. Pure: values in, values out.

A check never opens a file or a connection: what it needs of the host and of the servers was gathered before
and is part of its context, so that it judges a captured machine the same way as this one.
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
    """What a check needs: the profile only, facts of the host, or answers of the servers."""

    STATIC = "static"
    HOST = "host"
    ONLINE = "online"


class Severity(StrEnum):
    """What a failed check means. OFF: the check is not made. FATAL: no waiver helps."""

    OFF = "off"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"


class Status(StrEnum):
    """How a check ended. ERRORED, the check itself is broken, counts as failed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ERRORED = "errored"


Judgement = Mapping[EnvironmentName, Severity]


def _judgement(dev: Severity, outside: Severity) -> Judgement:
    return {"dev": dev, "staging": outside, "prod": outside}


# Staging is judged like prod, so that what is found in prod was found in staging before.
EVERYWHERE = _judgement(Severity.ERROR, Severity.ERROR)
WARN_IN_DEV = _judgement(Severity.WARNING, Severity.ERROR)
OUTSIDE_DEV = _judgement(Severity.OFF, Severity.ERROR)
FATAL_OUTSIDE_DEV = _judgement(Severity.WARNING, Severity.FATAL)
WARNING_EVERYWHERE = _judgement(Severity.WARNING, Severity.WARNING)
WARNING_OUTSIDE_DEV = _judgement(Severity.OFF, Severity.WARNING)


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that was seen: half a sentence, and the settings or the place that it is about."""

    text: str
    keys: tuple[str, ...] = ()
    place: Location | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer of a check. `fix` goes before the check's own where the fault is known more exactly."""

    status: Status
    remarks: tuple[Remark, ...] = ()
    expected: str = ""
    because: str = ""
    fix: tuple[str, ...] = ()
    latency_ms: float | None = None


def passed(latency_ms: float | None = None) -> Outcome:
    """Nothing to say."""
    return Outcome(Status.PASSED, latency_ms=latency_ms)


def skipped(because: str) -> Outcome:
    """The check has nothing to judge; `because` is a sentence without its end."""
    return Outcome(Status.SKIPPED, because=because)


def failed(
    *remarks: str | Remark, expected: str, fix: Iterable[str] = (), latency_ms: float | None = None
) -> Outcome:
    """What was seen instead of what was expected."""
    seen = tuple(remark if isinstance(remark, Remark) else Remark(remark) for remark in remarks)
    return Outcome(Status.FAILED, seen, expected, fix=tuple(fix), latency_ms=latency_ms)


def verdict(remarks: Iterable[str | Remark], *, expected: str, fix: Iterable[str] = ()) -> Outcome:
    """Failed if there is any remark, else passed."""
    found = list(remarks)
    return failed(*found, expected=expected, fix=fix) if found else passed()


@dataclass(frozen=True)
class Context:
    """What checks judge. `now` is Unix seconds; `findings` is what loading the profile found."""

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
        """Facts of the host. Host checks run only where there are some."""
        if self.facts is None or self.facts.host is None:
            raise LookupError("there are no facts of the host")
        return self.facts.host

    def is_set(self, key: str) -> bool:
        """Whether somebody set it, whatever the value; else the default holds."""
        return self.resolved.location(key).layer != "defaults"


Judge = Callable[[Context], Outcome]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at before a start.

    `reads` are the settings that it judges (a section stands for all in it); if one of them could not be
    loaded, the check is skipped. `requires` are checks without whose passing this one says nothing.
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
