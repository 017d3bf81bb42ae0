"""OBS: log level and format, and runbooks for alerts."""

from __future__ import annotations

from arqonbus.preflight.model import (
    OUTSIDE_DEV,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check


@check(
    "ARQ-OBS-001",
    "Every alert has a runbook",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="An on-call engineer needs the next step, not only the name of a metric.",
    fix=("$EDITOR runbooks/alerts/ALERT.md", "$EDITOR observability/…   # annotations: {runbook_url: …}"),
)
def alerts_have_runbooks(context: Context) -> Outcome:
    alerts = context.host.alerts
    if alerts is None:
        return skipped("the alert rules are not on this host")
    remarks = [
        f"the alert {alert.name} in {alert.file} "
        + (
            f"names the runbook {alert.runbook}, which does not exist"
            if alert.runbook
            else "names no runbook"
        )
        for alert in alerts
        if not alert.exists
    ]
    return verdict(remarks, expected="a runbook for each alert")


@check(
    "ARQ-OBS-002",
    "Debug logging is off",
    severity=OUTSIDE_DEV,
    why="At level debug, the log contains tenant, room and id of every message, and fills the disk.",
    fix=("$EDITOR FILE   # telemetry: {log_level: info}",),
    reads=("telemetry.log_level",),
)
def log_is_not_debug(context: Context) -> Outcome:
    level = context.settings.telemetry.log_level
    return verdict(
        [f"telemetry.log_level is {level}"] if level == "debug" else [], expected="info or warning"
    )


@check(
    "ARQ-OBS-003",
    "telemetry.log_level includes warnings",
    severity=WARNING_OUTSIDE_DEV,
    why="At level error, the log does not show refused clients or a node that becomes degraded.",
    fix=("$EDITOR FILE   # telemetry: {log_level: info}",),
    reads=("telemetry.log_level",),
)
def log_is_not_mute(context: Context) -> Outcome:
    level = context.settings.telemetry.log_level
    return verdict(
        [f"telemetry.log_level is {level}"] if level == "error" else [], expected="info or warning"
    )


@check(
    "ARQ-OBS-004",
    "telemetry.log_format is machine-readable",
    severity=WARNING_OUTSIDE_DEV,
    why="Log collectors cannot search fields in plain text.",
    fix=("$EDITOR FILE   # telemetry: {log_format: json}",),
    reads=("telemetry.log_format",),
)
def log_is_json(context: Context) -> Outcome:
    form = context.settings.telemetry.log_format
    return verdict([f"telemetry.log_format is {form}"] if form == "text" else [], expected="json, or auto")
