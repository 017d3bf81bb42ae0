"""Rendering of a profile into the text that the tools of a deployment read.

Pure: a loaded profile in, text out, the same text for the same profile. Nothing here sees a secret: a
reference becomes the name of a credential, and settings are shown as the redactor shows them. Variables of
the machine that renders do not count, because the text is for another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence

from arqonbus.config import Resolved
from arqonbus.config.capacity import open_files
from arqonbus.deploy.alerts import alert_rules
from arqonbus.deploy.compose import COMPOSE_NODES, COMPOSE_PROJECTORS, DEV, compose_env
from arqonbus.deploy.needs import (
    Unrenderable,
    credentials,
    heading,
    idle_seconds,
    public_address,
    references,
    stop_seconds,
    word,
)
from arqonbus.deploy.units import bus_unit, projector_unit

SCRAPE_SECONDS = 15


def ansible(resolved: Resolved, runbooks: Collection[str] = ()) -> str:
    """The settings, the names of the secrets, and what hosts are given, for a play to take its facts from."""
    settings = resolved.settings
    units = {"arqonbus@": bus_unit(resolved), "arqonbus-projector": projector_unit(resolved)}
    facts = {
        "profile": resolved.profile,
        "environment": settings.environment,
        "digest": resolved.digest,
        "credentials": credentials(resolved),
        "secrets": {key: str(found) for key, found in references(resolved)},
        "open_files": open_files(settings),
        "stop_seconds": stop_seconds(settings),
        "idle_seconds": idle_seconds(settings),
        "valkey": dict(zip(("host", "port"), settings.datastores.valkey.address, strict=True)),
        "public": dict(zip(("host", "port"), public_address(settings), strict=True)),
        "settings": resolved.redacted(),
        "units": {f"{name}.service": text for name, text in units.items()},
        "rules": prometheus_rules(resolved, runbooks),
    }
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def prometheus(resolved: Resolved) -> str:
    """A file for scrape_config_files of Prometheus."""
    telemetry = resolved.settings.telemetry
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(telemetry.host, telemetry.host)  # noqa: S104
    target = f"[{host}]:{telemetry.port}" if ":" in host else f"{host}:{telemetry.port}"
    lines = heading(resolved, "prometheus", "/etc/prometheus/scrape.d/arqonbus.yml")
    return "\n".join([*lines, "scrape_configs:", *_job(resolved, "arqonbus", [target])]) + "\n"


def compose_prometheus(resolved: Resolved) -> str:
    """The same for what docker-compose.yml starts, under the names that it has there."""
    settings = resolved.settings
    nodes, projectors = (
        (COMPOSE_NODES, COMPOSE_PROJECTORS) if resolved.profile != DEV else (("bus",), ("projector",))
    )
    file = f"observability/prometheus/scrape/{word(resolved.profile)}.yml"
    lines = [
        *heading(resolved, "compose-prometheus", file),
        "scrape_configs:",
        *_job(resolved, "arqonbus", [f"{name}:{settings.telemetry.port}" for name in nodes]),
        *_job(
            resolved,
            "arqonbus-projector",
            [f"{name}:{settings.projector.telemetry_port}" for name in projectors],
        ),
    ]
    return "\n".join(lines) + "\n"


def _job(resolved: Resolved, name: str, targets: Sequence[str]) -> list[str]:
    settings = resolved.settings
    return [
        f"  - job_name: {name}",
        "    metrics_path: /metrics",
        f"    scrape_interval: {SCRAPE_SECONDS}s",
        *(
            ["    authorization: {credentials_file: /etc/prometheus/arqonbus.token}"]
            if settings.telemetry.token
            else []
        ),
        "    static_configs:",
        f"      - targets: {json.dumps(targets)}",
        f"        labels: {{environment: {settings.environment}}}",
    ]


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
    "ansible": ansible,
    "prometheus": lambda resolved, runbooks: prometheus(resolved),
    "prometheus-rules": prometheus_rules,
    "compose-prometheus": lambda resolved, runbooks: compose_prometheus(resolved),
}


def render(target: str, resolved: Resolved, runbooks: Collection[str] = ()) -> str:
    """The text of a target. Raises Unrenderable, or KeyError for a target that is none."""
    return TARGETS[target](resolved, runbooks)


__all__ = ["TARGETS", "Unrenderable", "credentials", "open_files", "references", "render", "stop_seconds"]
