"""Grafana dashboards as code. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 8, 7
PER_ROW = 24 // WIDTH
SCHEMA_VERSION = 39  # Grafana 10 and later


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. `queries` are expressions by legend; `unit` is Grafana's name of it."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    description: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page. `uid` never changes, because links name it."""

    uid: str
    title: str
    panels: Sequence[Panel]


def _rate(metric: str, *by: str, selector: str = "") -> str:
    grouped = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouped} (rate({metric}{selector}[$__rate_interval]))"


def _quantile(share: float, metric: str, *by: str) -> str:
    grouped = ", ".join((*by, "le"))
    return f"histogram_quantile({share}, sum by ({grouped}) (rate({metric}_bucket[$__rate_interval])))"


_RECORDS = "arqonbus_projection_records_total"

BUS = Dashboard(
    "arqonbus-bus",
    "ArqonBus: the bus",
    (
        Panel("Ready nodes", {"ready": "sum(arqonbus_ready)", "up": 'count(up{job="arqonbus"} == 1)'}),
        Panel("Connections", {"{{instance}}": "arqonbus_connections"}),
        Panel("Messages in", {"{{instance}}": _rate("arqonbus_messages_in_total", "instance")}, "cps"),
        Panel("Deliveries", {"{{instance}}": _rate("arqonbus_deliveries_total", "instance")}, "cps"),
        Panel(
            "Time to store",
            {
                "p50": _quantile(0.5, "arqonbus_storage_append_seconds"),
                "p99": _quantile(0.99, "arqonbus_storage_append_seconds"),
            },
            "s",
            "Time from passing a batch of messages to the log until its answer; every ack waits for it.",
        ),
        Panel(
            "Event loop lag",
            {"p99": _quantile(0.99, "arqonbus_loop_lag_seconds", "instance")},
            "s",
        ),
        Panel("Acks by durability", {"{{durability}}": _rate("arqonbus_acks_total", "durability")}, "cps"),
        Panel("Messages refused, by code", {"{{code}}": _rate("arqonbus_rejects_total", "code")}, "cps"),
        Panel(
            "Upgrades refused, by code",
            {
                "{{code}}": _rate("arqonbus_connections_refused_total", "code"),
                "no request: {{reason}}": _rate("arqonbus_connections_unopened_total", "reason"),
            },
            "cps",
        ),
        Panel(
            "Connections closed, by code",
            {"{{code}}": _rate("arqonbus_connections_closed_total", "code")},
            "cps",
        ),
        Panel(
            "Bytes in send queues",
            {"{{instance}}": "arqonbus_send_queue_bytes"},
            "bytes",
            "Bytes queued for clients that read slowly.",
        ),
        Panel(
            "Drops, duplicates and repairs",
            {
                "dropped for slow readers": _rate("arqonbus_dropped_messages_total"),
                "duplicates": _rate("arqonbus_duplicates_total"),
                "repairs from the log": _rate("arqonbus_repairs_total"),
            },
            "cps",
        ),
        Panel(
            "Bytes", {"in": _rate("arqonbus_bytes_in_total"), "out": _rate("arqonbus_bytes_out_total")}, "Bps"
        ),
        Panel("Commands", {"{{operation}}": _rate("arqonbus_commands_total", "operation")}, "cps"),
        Panel("Starts without preflight", {"{{instance}}": "arqonbus_preflight_bypassed"}),
        Panel(
            "Degraded nodes",
            {"{{instance}}": "arqonbus_degraded"},
            "short",
            "1 while a node keeps messages in memory because the storage engine is unreachable.",
        ),
        Panel(
            "Findings of the content policy",
            {"{{rule}}, {{action}}": _rate("arqonbus_policy_findings_total", "rule, action")},
            "cps",
        ),
        Panel(
            "Clients whose clock is off",
            {"now": "sum(arqonbus_clients_skewed)", "found": _rate("arqonbus_clock_skews_total")},
        ),
        Panel("Age of the issuer's keys", {"{{instance}}": "arqonbus_jwks_age_seconds"}, "s"),
        Panel(
            "Failed fetches of the issuer's keys",
            {"{{instance}}": _rate("arqonbus_jwks_failures_total", "instance")},
            "cps",
        ),
        Panel(
            "Bridge to NATS",
            {"connected": "min(arqonbus_bridge_connected)", "rooms": "max(arqonbus_bridge_rooms)"},
        ),
        Panel(
            "Messages over the bridge",
            {"{{direction}}": _rate("arqonbus_bridge_messages_total", "direction")},
            "cps",
        ),
        Panel("Connections to NATS", {"{{instance}}": _rate("arqonbus_bridge_connects_total", "instance")}),
    ),
)

PROJECTION = Dashboard(
    "arqonbus-projection",
    "ArqonBus: the projection of episodes",
    (
        Panel(
            "Lag",
            {
                "p50": _quantile(0.5, "arqonbus_projection_lag_seconds"),
                "p95": _quantile(0.95, "arqonbus_projection_lag_seconds"),
                "p99": _quantile(0.99, "arqonbus_projection_lag_seconds"),
            },
            "s",
            "From an event's entry into the log to the commit of its projection. Promised: p95 below 5 s.",
        ),
        Panel("Records, by outcome", {"{{status}}": _rate(_RECORDS, "status")}, "cps"),
        Panel(
            "Books difference",
            {"difference": "max(abs(arqonbus_projection_books_difference))"},
            "short",
            "Records that arrived and have no outcome. Any value other than 0 is a defect.",
        ),
        Panel("Open dead letters", {"open": 'max(arqonbus_projection_rows{kind="dead_letters"})'}),
        Panel("Rows", {"{{kind}}": "max by (kind) (arqonbus_projection_rows)"}),
        Panel(
            "Dropped before projection",
            {"missed": "sum(increase(arqonbus_projection_missed_total[1h]))"},
            "short",
            "Events that retention dropped before they were projected, in the last hour.",
        ),
        Panel("Projectors with reachable stores", {"{{instance}}": "arqonbus_projection_store_up"}),
        Panel(
            "Failed store attempts",
            {"{{instance}}": _rate("arqonbus_projection_store_failures_total", "instance")},
            "cps",
        ),
        Panel("Batches", {"{{instance}}": _rate("arqonbus_projection_batches_total", "instance")}, "cps"),
        Panel(
            "Replays of dead letters, by outcome",
            {
                "{{code}}": _rate(
                    "arqonbus_commands_total",
                    "code",
                    selector='{operation="op.continuum.projector.dlq.replay"}',
                )
            },
            "cps",
        ),
        Panel("Tenants with events", {"{{instance}}": "arqonbus_projection_tenants"}),
        Panel(
            "Seconds since the last commit",
            {"{{instance}}": "time() - (arqonbus_projection_last_time_seconds > 0)"},
            "s",
        ),
    ),
)

DASHBOARDS = (BUS, PROJECTION)


def text(dashboard: Dashboard) -> str:
    """The JSON that Grafana imports or is provisioned with."""
    model: dict[str, Any] = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["arqonbus"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus"}]},
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(model, indent=2) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, PER_ROW)
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + position), "datasource": source, "expr": query, "legendFormat": legend}
            for position, (legend, query) in enumerate(panel.queries.items())
        ],
    }


__all__ = ["BUS", "DASHBOARDS", "PROJECTION", "Dashboard", "Panel", "text"]
