"""Report as plain values, shared by the machine formats. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from arqonbus import __version__
from arqonbus.config import Location
from arqonbus.preflight.model import Status
from arqonbus.preflight.registry import check_set
from arqonbus.preflight.runner import Report, Result, Seen

FORMAT = 1


def plain_report(report: Report) -> dict[str, Any]:
    """The whole report."""
    loaded = report.loaded
    return {
        "format": FORMAT,
        "profile": loaded.profile,
        "environment": loaded.environment,
        "digest": loaded.digest,
        "version": __version__,
        "check_set": check_set(),
        "at": datetime.fromtimestamp(int(report.at), UTC).isoformat(),
        "summary": summary(report),
        "unread": loaded.unread or None,
        "left_aside": {key: str(fault) for key, fault in sorted(loaded.broken.items())},
        "checks": [plain_result(result) for result in report.results],
    }


def summary(report: Report) -> dict[str, int]:
    """Number of checks by result. `failed` counts those that stop a start."""
    return {
        "checks": len(report.results),
        "failed": len(report.failures),
        "warnings": len(report.warnings),
        "waived": len(report.waived),
        "skipped": report.count(Status.SKIPPED),
        "passed": report.count(Status.PASSED),
    }


def plain_result(result: Result) -> dict[str, Any]:
    """Result of one check."""
    outcome, check = result.outcome, result.check
    waiver = result.waiver
    return {
        "id": check.id,
        "title": check.title,
        "phase": check.phase.value,
        "severity": result.severity.value,
        "status": "waived" if waiver else outcome.status.value,
        "observed": [_plain_seen(seen) for seen in result.seen],
        "expected": outcome.expected or None,
        "because": outcome.because or None,
        "why": check.why if outcome.status is not Status.PASSED else None,
        "fix": list(fix_of(result)),
        "latency_ms": None if outcome.latency_ms is None else round(outcome.latency_ms, 3),
        "waiver": None
        if waiver is None
        else {"owner": waiver.owner, "reason": waiver.reason, "expires": str(waiver.expires)},
    }


def fix_of(result: Result) -> tuple[str, ...]:
    """Commands for a fix, the most specific first; empty if the check did not fail."""
    if result.outcome.status not in (Status.FAILED, Status.ERRORED):
        return ()
    return result.outcome.fix or result.check.fix


def _plain_seen(seen: Seen) -> dict[str, Any]:
    return {
        "text": seen.text,
        "key": seen.key or None,
        "location": _plain_location(seen.place),
        "overriding": [_plain_location(place) for place in seen.overriding],
    }


def _plain_location(place: Location | None) -> dict[str, Any] | None:
    if place is None:
        return None
    return {"layer": place.layer, "source": place.source, "line": place.line, "column": place.column}


__all__ = ["FORMAT", "fix_of", "plain_report", "plain_result", "summary"]
