"""The alerts that every deployment wants, as rules over the metrics of the bus. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from arqonbus.config import Settings

# What preflight refuses in a probe is not well in service either.
APPEND_SECONDS = 0.25
LAG_SECONDS = 0.1
REJECTS_PER_SECOND = 1
FAILED_LOGINS_PER_SECOND = 0.5  # one client that tries without a pause is held back to 0.75
KEYS_MISSED = 3  # fetches of the issuer's keys in a row

# The service levels of the projection (Continuum contract).
PROJECTION_LAG_SECONDS = 5
DEAD_SHARE = 0.01
LATE_SHARE = 0.2
REPLAY_FAILURE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One alert: expression, duration, severity and summary."""

    name: str
    expression: str
    lasting: str
    severity: Literal["page", "ticket"]
    summary: str


def alert_rules(settings: Settings) -> tuple[AlertRule, ...]:
    """The alert rules, with thresholds from these settings."""
    return (*_bus_rules(settings), *_projection_rules())


def _bus_rules(settings: Settings) -> tuple[AlertRule, ...]:
    worst = settings.server.max_connections * settings.limits.send_queue_bytes
    queued = max(1, worst // 10)
    keys_old = KEYS_MISSED * settings.auth.jwt.jwks_refresh
    return (
        AlertRule(
            "ArqonbusNotReady",
            'arqonbus_ready == 0 or up{job="arqonbus"} == 0',
            "1m",
            "page",
            "A node accepts no connections.",
        ),
        AlertRule(
            "ArqonbusRejectsRising",
            _rising("arqonbus_rejects_total"),
            "10m",
            "ticket",
            "More messages are refused than an hour ago; the code shows the reason.",
        ),
        AlertRule(
            "ArqonbusAuthFailures",
            _rising(
                'arqonbus_connections_refused_total{code=~"UNAUTHENTICATED|EXPIRED|AUTHORIZATION_ERROR"}',
                FAILED_LOGINS_PER_SECOND,
            ),
            "10m",
            "ticket",
            "More clients are refused than an hour ago because of their tokens or certificates.",
        ),
        AlertRule(
            "ArqonbusSendQueueHigh",
            f"arqonbus_send_queue_bytes > {queued}",
            "5m",
            "ticket",
            "Clients read too slowly: their send queues have reached a tenth of the maximum.",
        ),
        AlertRule(
            "ArqonbusAppendSlow",
            _p99("arqonbus_storage_append_seconds", APPEND_SECONDS),
            "5m",
            "page",
            f"One message in a hundred takes more than {APPEND_SECONDS:g} s to be stored.",
        ),
        AlertRule(
            "ArqonbusLoopLag",
            _p99("arqonbus_loop_lag_seconds", LAG_SECONDS),
            "5m",
            "ticket",
            f"The event loop is delayed by more than {LAG_SECONDS:g} s; all clients of the node are delayed.",
        ),
        AlertRule(
            "ArqonbusDegraded",
            "arqonbus_degraded == 1",
            "1m",
            "page",
            "The storage engine is unreachable: a node runs degraded and keeps messages in memory only.",
        ),
        AlertRule(
            "ArqonbusKeysOld",
            f"arqonbus_jwks_age_seconds > {keys_old:g}",
            "5m",
            "ticket",
            "The issuer's keys cannot be fetched; tokens of new keys are refused, and later all tokens.",
        ),
    )


def _projection_rules() -> tuple[AlertRule, ...]:
    replays = 'arqonbus_commands_total{operation="op.continuum.projector.dlq.replay"'
    return (
        AlertRule(
            "ArqonbusProjectionStalled",
            "arqonbus_projection_store_up == 0",
            "1m",
            "page",
            "A store is unreachable for a projector. Events wait in the log until retention drops them.",
        ),
        AlertRule(
            "ArqonbusProjectionLag",
            "histogram_quantile(0.95, sum by (le) (rate(arqonbus_projection_lag_seconds_bucket[5m]))) "
            f"> {PROJECTION_LAG_SECONDS}",
            "5m",
            "page",
            f"One event in twenty is projected more than {PROJECTION_LAG_SECONDS} s after it was published.",
        ),
        AlertRule(
            "ArqonbusProjectionMissed",
            # After a long outage, a projector counts them before its first scrape.
            "increase(arqonbus_projection_missed_total[1h]) > 0 or "
            "(arqonbus_projection_missed_total unless arqonbus_projection_missed_total offset 1h) > 0",
            "0m",
            "page",
            "Retention dropped events before they were projected; export them again.",
        ),
        AlertRule(
            "ArqonbusProjectionBooks",
            "arqonbus_projection_books_difference != 0",
            "2m",
            "page",
            "The event counts of the projection do not balance: records arrived that have no outcome.",
        ),
        AlertRule(
            "ArqonbusProjectionLate",
            _share('status=~"stale|duplicate"', LATE_SHARE),
            "15m",
            "ticket",
            "A fifth of the events are stale or duplicates: a producer repeats them, or its clock is wrong.",
        ),
        AlertRule(
            "ArqonbusDeadLetters",
            'max(arqonbus_projection_rows{kind="dead_letters"}) > 0',
            "15m",
            "ticket",
            "Dead letters are open: records that could not be projected.",
        ),
        AlertRule(
            "ArqonbusDeadLettersGrowing",
            _share('status="dead_lettered"', DEAD_SHARE),
            "10m",
            "page",
            "One record in a hundred cannot be projected: a producer sends invalid events.",
        ),
        AlertRule(
            "ArqonbusReplaysFail",
            f'sum(rate({replays},code!="OK"}}[15m])) > {REPLAY_FAILURE_SHARE} * sum(rate({replays}}}[15m]))',
            "5m",
            "ticket",
            "Most replays of dead letters are refused.",
        ),
    )


def _share(selector: str, share: float) -> str:
    """More than this share of the records that arrived."""
    records = "arqonbus_projection_records_total"
    return (
        f'sum(rate({records}{{{selector}}}[10m])) > {share:g} * sum(rate({records}{{status="arrived"}}[10m]))'
    )


def _rising(counter: str, per_second: float = REJECTS_PER_SECOND) -> str:
    """More than a threshold per second, and twice the rate of the hour before."""
    now, before = (f"sum by (instance, code) (rate({counter}[{window}]))" for window in ("5m", "1h"))
    return f"{now} > {per_second:g} and {now} > 2 * {before}"


def _p99(metric: str, seconds: float) -> str:
    rate = f"sum by (instance, le) (rate({metric}_bucket[5m]))"
    return f"histogram_quantile(0.99, {rate}) > {seconds:g}"


__all__ = ["AlertRule", "alert_rules"]
