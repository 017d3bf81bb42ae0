"""The incident bundle of a run: all facts for remote support, without secrets.

Writes files into one directory. Every text passes the redactor first.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

from arqonbus import __version__
from arqonbus.config import Redactor
from arqonbus.config.tree import leaves
from arqonbus.preflight.facts import Facts, facts_text
from arqonbus.preflight.intake import Intake
from arqonbus.preflight.model import Phase, Severity, Status
from arqonbus.preflight.report import html, json_, tree
from arqonbus.preflight.runner import Report

Class = Literal["config", "dependency", "code"]
Label = Literal["blocker", "critical", "high", "none"]

_OPTION = re.compile(r"(--set=?)([A-Za-z0-9_.]*)=(.*)", re.DOTALL)


def capture(
    directory: Path, report: Report, intake: Intake, facts: Facts, command: Sequence[str]
) -> list[Path]:
    """Write the bundle and return its files. Raises OSError."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    redact = Redactor(intake.resolved.settings).text
    texts = {
        "incident.json": _json(incident(report, command, intake.root)),
        "report.json": json_.render(report),
        "report.txt": tree.render(report),
        "report.html": html.render(report),
        "settings.json": _json(_settings(intake)),
        "facts.json": facts_text(facts),
        "versions.json": _json(_versions()),
    }
    written = []
    for name, text in texts.items():
        path = directory / name
        path.write_text(redact(text), "utf-8")
        path.chmod(0o640)
        written.append(path)
    return written


def incident(report: Report, command: Sequence[str], root: Path) -> dict[str, Any]:
    """A summary of the run on one page."""
    return {
        "class": class_of(report),
        "severity": label_of(report),
        "version": __version__,
        "commit": _commit(root),
        "command": _without_values(command),
        "profile": report.loaded.profile,
        "environment": report.loaded.environment,
        "digest": report.loaded.digest,
        "at": int(report.at),
        "failed": [result.check.id for result in report.failures],
        "warnings": [result.check.id for result in report.warnings],
    }


def class_of(report: Report) -> Class:
    """Class of the incident: code if a check broke, dependency if only servers failed, else config."""
    failures = report.failures
    if any(result.outcome.status is Status.ERRORED for result in failures):
        return "code"
    if failures and all(result.check.phase is Phase.ONLINE for result in failures):
        return "dependency"
    return "config"


def label_of(report: Report) -> Label:
    """Urgency label of the incident."""
    if any(result.severity is Severity.FATAL for result in report.failures):
        return "blocker"
    if report.failures:
        return "critical"
    return "high" if report.warnings else "none"


def _without_values(command: Sequence[str]) -> list[str]:
    """The command's arguments, redacted: --set may contain a secret that the profile does not know."""
    return [
        "…" if before == "--set" and "=" not in word else _without_value(word)
        for before, word in zip(["", *command], command, strict=False)
    ]


def _without_value(word: str) -> str:
    match = _OPTION.fullmatch(word)
    if match:
        return f"{match[1]}{match[2]}=…"
    return f"{word.partition('=')[0]}=…" if "=" in word and not word.startswith("--") else word


def _settings(intake: Intake) -> dict[str, Any]:
    resolved = intake.resolved
    places = {leaf.key: str(resolved.location(leaf.key)) for leaf in leaves().values()}
    findings = [
        {"code": finding.code.value, "message": finding.message, "location": str(finding.location or "")}
        for finding in intake.findings
    ]
    return {"settings": resolved.redacted(), "locations": places, "findings": findings}


def _versions() -> dict[str, Any]:
    packages = {each.metadata["Name"]: each.version for each in distributions() if each.metadata["Name"]}
    return {
        "arqonbus": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": dict(sorted(packages.items())),
    }


def _commit(root: Path) -> str | None:
    """The commit of the profile's Git repository; empty if there is none."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed words and the directory
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607 - the git on this host's PATH
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


__all__ = ["capture", "class_of", "incident", "label_of"]
