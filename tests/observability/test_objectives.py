"""The page of service level objectives names metrics, labels and alerts that exist."""

from __future__ import annotations

import re
from pathlib import Path

from arqonbus.config import load
from arqonbus.deploy.alerts import PROJECTION_LAG_SECONDS, alert_rules
from arqonbus.storage.projection import Tally
from tests.observability.shown import SHOWN

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/reference/slo.md").read_text("utf-8")
RULES = {
    rule.name: rule for rule in alert_rules(load("prod", root=REPOSITORY, environ={}, secrets_of=()).settings)
}


def test_metrics_exist() -> None:
    asked = {re.sub(r"_(total|bucket|count)$", "", name) for name in re.findall(r"arqonbus_[a-z_]+", PAGE)}
    assert asked <= SHOWN


def test_labels_exist() -> None:
    assert set(re.findall(r'status="(\w+)"', PAGE)) <= set(Tally._fields)
    edges = set(re.findall(r'le="([\d.]+)"', PAGE))
    assert edges == {str(float(PROJECTION_LAG_SECONDS))}


def test_alerts_exist() -> None:
    named = set(re.findall(r"\bArqonbus\w+", PAGE))
    assert named <= set(RULES)
    query = re.findall(r"```promql\n(.+)\n```", PAGE)[0]
    assert f"{query} > {PROJECTION_LAG_SECONDS}" == RULES["ArqonbusProjectionLag"].expression


def test_what_is_not_measured_is_not_measured() -> None:
    """When one of these metrics or rules comes, the page has to change."""
    assert PAGE.count("**not measured**") == 3
    assert "arqonbus_publish_seconds" not in SHOWN
    assert not any(
        "duplicate" in rule.expression and "stale" not in rule.expression for rule in RULES.values()
    )
