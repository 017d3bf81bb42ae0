"""The alerts of a deployment, judged by a real Prometheus for which time runs a hundred times as fast.

What is hurried are the windows over which a rule looks, and that it must last; what it asks for, and its
bounds, are as they are rendered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import yaml

from arqonbus.deploy.alerts import AlertRule, alert_rules
from tests.runbooks.stack import Stack
from tests.servers.prometheus import PrometheusServer, running_prometheus

FASTER = 100
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_WINDOW = re.compile(r"(?<=\[)(\d+)([smh])(?=\])|(?<=\boffset )(\d+)([smh])\b")


def hurried(expression: str) -> str:
    """The same expression over windows that are a hundredth as long."""

    def shorter(window: re.Match[str]) -> str:
        number, unit = (part for part in window.groups() if part is not None)
        return f"{int(number) * _SECONDS[unit] * 1000 // FASTER}ms"

    return _WINDOW.sub(shorter, expression)


def rule_file(rules: Sequence[AlertRule]) -> str:
    """The rules as Prometheus reads them; each fires as soon as it is true."""
    told = [{"alert": rule.name, "expr": hurried(rule.expression)} for rule in rules]
    return yaml.safe_dump({"groups": [{"name": "hurried", "rules": told}]})


def watching(one: Stack, directory: Path) -> AbstractContextManager[PrometheusServer]:
    """A Prometheus that scrapes this deployment and has its rules."""
    targets = {
        "arqonbus": f"127.0.0.1:{one.bus.settings.telemetry.port}",
        "arqonbus-projector": f"127.0.0.1:{one.projector.port}",
    }
    return running_prometheus(directory, targets, rule_file(alert_rules(one.bus.settings)))


__all__ = ["hurried", "rule_file", "watching"]
