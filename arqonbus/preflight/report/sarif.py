"""Report as SARIF 2.1.0, which code hosts show at the line of the profile. Pure."""

from __future__ import annotations

import json
from typing import Any

from arqonbus import __version__
from arqonbus.preflight.model import Severity, Status
from arqonbus.preflight.report.plain import fix_of
from arqonbus.preflight.report.tree import sentence
from arqonbus.preflight.runner import Report, Result, Seen

_LEVELS = {
    Severity.WARNING: "warning",
    Severity.ERROR: "error",
    Severity.FATAL: "error",
    Severity.OFF: "none",
}


def render(report: Report) -> str:
    """Render the report, with a final newline."""
    shown = [r for r in report.results if r.outcome.status in (Status.FAILED, Status.ERRORED)]
    driver = {"name": "arqonbus preflight", "version": __version__, "rules": [_rule(r) for r in shown]}
    results = [_finding(result, seen) for result in shown for seen in result.seen]
    log = {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(log, indent=2, ensure_ascii=False) + "\n"


def _rule(result: Result) -> dict[str, Any]:
    check = result.check
    return {
        "id": check.id,
        "shortDescription": {"text": check.title},
        "fullDescription": {"text": check.why},
        "help": {"text": "\n".join(fix_of(result))},
        "defaultConfiguration": {"level": _LEVELS[result.severity]},
    }


def _finding(result: Result, seen: Seen) -> dict[str, Any]:
    finding: dict[str, Any] = {
        "ruleId": result.check.id,
        "level": _LEVELS[result.severity],
        "message": {"text": sentence(seen)},
    }
    if seen.place is not None and seen.place.line:
        region = {"startLine": seen.place.line, "startColumn": max(seen.place.column, 1)}
        artifact = {"uri": seen.place.source}
        finding["locations"] = [{"physicalLocation": {"artifactLocation": artifact, "region": region}}]
    if result.waiver is not None:
        finding["suppressions"] = [{"kind": "external", "justification": result.waiver.reason}]
    return finding


__all__ = ["render"]
