"""The rules of Prometheus: current, sound, and each fires for what it is for, by promtool's judgement."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from arqonbus.config import load
from arqonbus.deploy.alerts import alert_rules
from arqonbus.deploy.render import render
from tests.servers.processes import binary

pytestmark = pytest.mark.servers

REPOSITORY = Path(__file__).resolve().parents[2]
DIRECTORY = REPOSITORY / "observability/prometheus"
RUNBOOKS = REPOSITORY / "runbooks/alerts"


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [binary("promtool", "prometheus"), *arguments],
        capture_output=True,
        text=True,
        cwd=DIRECTORY,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts_of(tests: dict[str, Any]) -> set[str]:
    """The alerts that are expected to fire somewhere."""
    return {
        case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case["exp_alerts"]
    }


def test_the_rules_are_those_of_the_profile() -> None:
    """What is committed is what the prod profile renders."""
    profile = load("prod", root=REPOSITORY, environ={}, secrets_of=())
    runbooks = {file.stem for file in RUNBOOKS.glob("*.md")}
    assert (DIRECTORY / "rules.yml").read_text() == render("prometheus-rules", profile, runbooks)


def test_the_rules_are_sound() -> None:
    """Prometheus can read each of them."""
    assert "16 rules found" in promtool("check", "rules", "rules.yml")


def test_every_alert_fires_for_what_it_is_for_and_not_else() -> None:
    """Series in which it must, and series in which it must not."""
    assert "SUCCESS" in promtool("test", "rules", "rules.test.yml")


def test_no_alert_is_left_out() -> None:
    """Each has a case in which it fires."""
    profile = load("prod", root=REPOSITORY, environ={}, secrets_of=())
    tested = alerts_of(yaml.safe_load((DIRECTORY / "rules.test.yml").read_text()))
    assert tested == {rule.name for rule in alert_rules(profile.settings)}
