"""The alerts that every deployment wants, as rules over the metrics of the bus. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from arqonbus.config import Settings

# What preflight refuses in a probe is not well in service either.
APPEND_SECONDS = 0.25
LAG_SECONDS = 0.1
REJECTS_PER_SECOND = 1


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One alert: when it is true, for how long it must be, and what it means."""

    name: str
    expression: str
    lasting: str
    severity: Literal["page", "ticket"]
    summary: str


def alert_rules(settings: Settings) -> tuple[AlertRule, ...]:
    """The alerts, with the bounds of these settings."""
    worst = settings.server.max_connections * settings.limits.send_queue_bytes
    queued = max(1, worst // 10)
    return (
        AlertRule(
            "ArqonbusNotReady",
            'arqonbus_ready == 0 or up{job="arqonbus"} == 0',
            "1m",
            "page",
            "A node takes no connections.",
        ),
        AlertRule(
            "ArqonbusRejectsRising",
            f"sum by (instance, code) (rate(arqonbus_rejects_total[5m])) > {REJECTS_PER_SECOND} and "
            "sum by (instance, code) (rate(arqonbus_rejects_total[5m])) > "
            "2 * sum by (instance, code) (rate(arqonbus_rejects_total[1h]))",
            "10m",
            "ticket",
            "More is refused than an hour ago; the code says why.",
        ),
        AlertRule(
            "ArqonbusSendQueueHigh",
            f"arqonbus_send_queue_bytes > {queued}",
            "5m",
            "ticket",
            "Clients read more slowly than is sent: a tenth of the worst case waits for them.",
        ),
        AlertRule(
            "ArqonbusAppendSlow",
            _p99("arqonbus_storage_append_seconds", APPEND_SECONDS),
            "5m",
            "page",
            f"One message in a hundred waits more than {APPEND_SECONDS:g} s for the log.",
        ),
        AlertRule(
            "ArqonbusLoopLag",
            _p99("arqonbus_loop_lag_seconds", LAG_SECONDS),
            "5m",
            "ticket",
            f"The event loop is late by more than {LAG_SECONDS:g} s; everything else is late with it.",
        ),
    )


def _p99(metric: str, seconds: float) -> str:
    rate = f"sum by (instance, le) (rate({metric}_bucket[5m]))"
    return f"histogram_quantile(0.99, {rate}) > {seconds:g}"


__all__ = ["AlertRule", "alert_rules"]
