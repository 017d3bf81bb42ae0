"""What a deployment needs to know of a profile, as the text that its tools read.

Pure: a loaded profile in, text out, the same text for the same profile. Nothing here sees a secret: a
reference becomes the name of a credential, and settings are shown as the redactor shows them. Variables of
the machine that renders do not count, because the text is for another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

from arqonbus.config import Resolved
from arqonbus.config.capacity import open_files
from arqonbus.ops.alerts import alert_rules
from arqonbus.ops.needs import Unrenderable, credentials, heading, references, stop_seconds
from arqonbus.ops.units import bus_unit, projector_unit

SCRAPE_SECONDS = 15


def compose_env(resolved: Resolved) -> str:
    """The variables that docker-compose.yml reads."""
    settings = resolved.settings
    variables = {
        "BUS_PORT": settings.server.port,
        "NOFILE": open_files(settings),
        "TELEMETRY_PORT": settings.telemetry.port,
    }
    lines = heading(resolved, "compose-env", ".env")
    lines.append("# A variable of the shell goes before what stands here.")
    return "\n".join([*lines, *(f"{name}={value}" for name, value in variables.items())]) + "\n"


def ansible(resolved: Resolved) -> str:
    """The settings and the names of the secrets, for a play to take its facts from."""
    settings = resolved.settings
    facts = {
        "profile": resolved.profile,
        "environment": settings.environment,
        "digest": resolved.digest,
        "credentials": credentials(resolved),
        "secrets": {key: str(found) for key, found in references(resolved)},
        "open_files": open_files(settings),
        "stop_seconds": stop_seconds(settings),
        "settings": resolved.redacted(),
    }
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def prometheus(resolved: Resolved) -> str:
    """A file for scrape_config_files of Prometheus."""
    telemetry, environment = resolved.settings.telemetry, resolved.settings.environment
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(telemetry.host, telemetry.host)  # noqa: S104
    target = f"[{host}]:{telemetry.port}" if ":" in host else f"{host}:{telemetry.port}"
    lines = [
        *heading(resolved, "prometheus", "/etc/prometheus/scrape.d/arqonbus.yml"),
        "scrape_configs:",
        "  - job_name: arqonbus",
        "    metrics_path: /metrics",
        f"    scrape_interval: {SCRAPE_SECONDS}s",
        *(
            ["    authorization: {credentials_file: /etc/prometheus/arqonbus.token}"]
            if telemetry.token
            else []
        ),
        "    static_configs:",
        f"      - targets: [{json.dumps(target)}]",
        f"        labels: {{environment: {environment}}}",
    ]
    return "\n".join(lines) + "\n"


def prometheus_rules(resolved: Resolved, runbooks: Collection[str] = ()) -> str:
    """A file for rule_files of Prometheus. `runbooks` are the names of the alerts that have one."""
    lines = [
        *heading(resolved, "prometheus-rules", "/etc/prometheus/rules.d/arqonbus.yml"),
        "groups:",
        "  - name: arqonbus",
        "    rules:",
    ]
    for rule in alert_rules(resolved.settings):
        lines += [
            f"      - alert: {rule.name}",
            f"        expr: {json.dumps(rule.expression)}",
            f"        for: {rule.lasting}",
            f"        labels: {{severity: {rule.severity}}}",
            "        annotations:",
            f"          summary: {json.dumps(rule.summary, ensure_ascii=False)}",
        ]
        if rule.name in runbooks:
            lines.append(f"          runbook_url: runbooks/alerts/{rule.name}.md")
    return "\n".join(lines) + "\n"


Renderer = Callable[[Resolved, Collection[str]], str]

TARGETS: Mapping[str, Renderer] = {
    "systemd": lambda resolved, runbooks: bus_unit(resolved),
    "systemd-projector": lambda resolved, runbooks: projector_unit(resolved),
    "compose-env": lambda resolved, runbooks: compose_env(resolved),
    "ansible": lambda resolved, runbooks: ansible(resolved),
    "prometheus": lambda resolved, runbooks: prometheus(resolved),
    "prometheus-rules": prometheus_rules,
}


def render(target: str, resolved: Resolved, runbooks: Collection[str] = ()) -> str:
    """The text of a target. Raises Unrenderable, or KeyError for a target that is none."""
    return TARGETS[target](resolved, runbooks)


__all__ = ["TARGETS", "Unrenderable", "credentials", "open_files", "references", "render", "stop_seconds"]
