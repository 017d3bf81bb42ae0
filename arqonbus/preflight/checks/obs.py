"""OBS: logs that say enough and not too much, and alerts that tell what to do."""

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
    why="Who is woken at night needs the next step, not the name of a metric.",
    fix=("$EDITOR runbooks/alerts/ALERT.md", "$EDITOR observability/…   # annotations: {runbook_url: …}"),
)
def alerts_have_runbooks(context: Context) -> Outcome:
    alerts = context.host.alerts
    if alerts is None:
        return skipped("the rules of the alerts are not on this host")
    remarks = [
        f"{alert.name} in {alert.file} "
        + (f"names {alert.runbook}, which is missing" if alert.runbook else "names none")
        for alert in alerts
        if not alert.exists
    ]
    return verdict(remarks, expected="a runbook for each alert")


@check(
    "ARQ-OBS-002",
    "The log does not tell everything",
    severity=OUTSIDE_DEV,
    why="At debug the log names tenants, rooms and ids of every message, and fills the disk.",
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
    "The log tells enough",
    severity=WARNING_OUTSIDE_DEV,
    why="At error nothing tells why a client was refused, or when a node began to degrade.",
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
    "The log can be read by machines",
    severity=WARNING_OUTSIDE_DEV,
    why="Text is for a terminal; a collector makes one field of it and nothing can be searched.",
    fix=("$EDITOR FILE   # telemetry: {log_format: json}",),
    reads=("telemetry.log_format",),
)
def log_is_json(context: Context) -> Outcome:
    form = context.settings.telemetry.log_format
    return verdict([f"telemetry.log_format is {form}"] if form == "text" else [], expected="json, or auto")
