"""The dashboards: every expression asks for metrics that exist, and Prometheus can read it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from arqonbus.deploy.dashboards import DASHBOARDS, Dashboard, text
from tests.observability.shown import SHOWN
from tests.servers.processes import binary

DIRECTORY = Path(__file__).resolve().parents[2] / "observability/grafana"
BY_UID = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)


@BY_UID
def test_what_is_committed_is_what_the_code_says(dashboard: Dashboard) -> None:
    """And it is JSON with a panel for each question, none over another."""
    committed = (DIRECTORY / f"{dashboard.uid}.json").read_text()
    assert committed == text(dashboard)
    panels = json.loads(committed)["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == len(dashboard.panels)


@BY_UID
def test_panels_ask_for_metrics_that_exist(dashboard: Dashboard) -> None:
    """Each name in an expression is one that /metrics shows."""
    for panel in dashboard.panels:
        for query in panel.queries.values():
            asked = {re.sub(r"_(total|bucket)$", "", name) for name in re.findall(r"arqonbus_[a-z_]+", query)}
            assert asked <= SHOWN, panel.title


def test_every_metric_is_shown_somewhere() -> None:
    """But for those that only say which version and when."""
    asked = {
        re.sub(r"_(total|bucket)$", "", name)
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries.values()
        for name in re.findall(r"arqonbus_[a-z_]+", query)
    }
    aside = {"arqonbus_build_info", "arqonbus_start_time_seconds", "arqonbus_rooms"}
    aside |= {"arqonbus_frames_in", "arqonbus_unknown_keys", "arqonbus_connections_accepted"}
    aside |= {"arqonbus_append_pending_bytes", "arqonbus_projection_books"}
    assert SHOWN - asked == aside


@pytest.mark.servers
@BY_UID
def test_prometheus_can_read_every_expression(dashboard: Dashboard, tmp_path: Path) -> None:
    """Grafana's own variables aside."""
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(q for panel in dashboard.panels for q in panel.queries.values())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": dashboard.uid, "rules": rules}]}))
    done = subprocess.run(
        [binary("promtool", "prometheus"), "check", "rules", str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
