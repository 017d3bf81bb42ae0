"""What a deployment needs to know of a profile, as the text that its tools read.

Pure: a loaded profile in, text out, the same text for the same profile. Nothing here sees a secret: a
reference becomes the name of a credential, and settings are shown as the redactor shows them. Variables of
the machine that renders do not count, because the text is for another one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from arqonbus.config import Resolved, Settings
from arqonbus.config.secrets import Reference
from arqonbus.config.tree import leaves
from arqonbus.ops.alerts import alert_rules

PROGRAM = "/opt/arqonbus/current/bin/arqonbus"
PROFILES = "/etc/arqonbus/profiles"
CREDENTIALS = "/etc/arqonbus/credentials"
# After the drain: what was acked is on its way to the stores before the process is killed.
STOP_MARGIN_SECONDS = 15
# More than preflight needs where every server is silent.
START_SECONDS = 60
SCRAPE_SECONDS = 15

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STATE = Path("/var/lib")
_OUTER_LAYERS = {"secrets", "environment"}


class Unrenderable(Exception):
    """A profile that a tool cannot be told about; the message is a sentence."""


def references(resolved: Resolved) -> Iterator[tuple[str, Reference]]:
    """Key and reference of every secret that the files of the profile refer to."""
    for path, leaf in leaves().items():
        given = [each for each in resolved.provenance.given(path) if each.location.layer not in _OUTER_LAYERS]
        if given and isinstance(given[0].value, Reference):
            yield leaf.key, given[0].value


def credentials(resolved: Resolved) -> list[str]:
    """The names of the credentials that the profile wants, each once."""
    return sorted({found.target[0] for _, found in references(resolved) if found.origin == "credential"})


def open_files(settings: Settings) -> int:
    """Files that the bus may have open: a fifth more than connections, for logs, stores and listeners."""
    return -(-settings.server.max_connections * 6 // 5)


def stop_seconds(settings: Settings) -> int:
    """Time that the bus has to end."""
    return math.ceil(settings.server.drain_seconds) + STOP_MARGIN_SECONDS


def systemd(resolved: Resolved) -> str:
    """The unit arqonbus@.service: one instance per worker, gated by preflight, with next to no rights."""
    settings = resolved.settings
    options = f"--profile {_word(resolved.profile)} --receipt {_state(settings)}/receipt.json"
    lines = [
        *_heading(resolved, "systemd", "/etc/systemd/system/arqonbus@.service"),
        "# An instance is a worker. What only one of them has, such as its ports, stands in its own file:",
        "#   systemctl edit arqonbus@1   # [Service] Environment=ARQONBUS_SERVER_PORT=…",
        "",
        "[Unit]",
        "Description=ArqonBus worker %i",
        "Wants=network-online.target",
        "After=network-online.target time-sync.target",
        "StartLimitIntervalSec=300",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=exec",
        f"Environment=ARQONBUS_PROFILES_DIR={PROFILES}",
        "# Nothing listens before preflight passed; its receipt tells serve that it did.",
        f"ExecStartPre={PROGRAM} preflight {options}",
        f"ExecStart={PROGRAM} serve {options}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartSec=5s",
        f"TimeoutStartSec={START_SECONDS}s",
        f"# server.drain_seconds is {settings.server.drain_seconds:g}.",
        f"TimeoutStopSec={stop_seconds(settings)}s",
        "KillMode=mixed",
        "",
        *_credential_lines(resolved),
        "# A user arqonbus of this host is taken where there is one; else systemd lends one.",
        "DynamicUser=yes",
        "User=arqonbus",
        *_state_lines(settings),
        "UMask=0077",
        f"LimitNOFILE={open_files(settings)}",
        "LimitCORE=0",
        "TasksMax=256",
        "",
        *_hardening(settings),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _credential_lines(resolved: Resolved) -> list[str]:
    names = credentials(resolved)
    return [f"LoadCredential={_word(name)}:{CREDENTIALS}/{name}" for name in names] + [""] * bool(names)


def _state(settings: Settings) -> str:
    """The directory of what the bus writes; one that depends on where it is started gets a place."""
    state = settings.state_dir
    return _path(state) if state.is_absolute() else "%S/arqonbus/%i"


def _state_lines(settings: Settings) -> list[str]:
    state, path = settings.state_dir, _state(settings)
    lines = [f"WorkingDirectory={path}", f"Environment=ARQONBUS_STATE_DIR={path}"]
    if not state.is_absolute():
        return ["StateDirectory=arqonbus/%i", "StateDirectoryMode=0700", *lines]
    if state.is_relative_to(_STATE) and state != _STATE:
        return [f"StateDirectory={state.relative_to(_STATE)}", "StateDirectoryMode=0700", *lines[:1]]
    return [f"ReadWritePaths={path}", *lines[:1]]


def _hardening(settings: Settings) -> list[str]:
    # A port below 1024 is the one thing that takes a right of root.
    capabilities = "CAP_NET_BIND_SERVICE" if min(settings.server.port, settings.telemetry.port) < 1024 else ""
    yes = (
        "LockPersonality MemoryDenyWriteExecute NoNewPrivileges PrivateDevices PrivateMounts PrivateTmp "
        "ProtectClock "
        "ProtectControlGroups ProtectHome ProtectHostname ProtectKernelLogs ProtectKernelModules "
        "ProtectKernelTunables RemoveIPC RestrictNamespaces RestrictRealtime RestrictSUIDSGID"
    )
    return [
        f"AmbientCapabilities={capabilities}",
        f"CapabilityBoundingSet={capabilities}",
        "DevicePolicy=closed",
        *(f"{name}=yes" for name in yes.split()),
        *([] if capabilities else ["PrivateUsers=yes"]),
        "ProcSubset=all",
        "ProtectProc=invisible",
        "ProtectSystem=strict",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "SystemCallArchitectures=native",
        "SystemCallErrorNumber=EPERM",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources",
        "# The bus raises its own limit of open files up to LimitNOFILE.",
        "SystemCallFilter=prlimit64 setrlimit",
    ]


def compose_env(resolved: Resolved) -> str:
    """The variables that docker-compose.yml reads."""
    settings = resolved.settings
    variables = {
        "BUS_PORT": settings.server.port,
        "NOFILE": open_files(settings),
        "TELEMETRY_PORT": settings.telemetry.port,
    }
    lines = _heading(resolved, "compose-env", ".env")
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
        *_heading(resolved, "prometheus", "/etc/prometheus/scrape.d/arqonbus.yml"),
        "scrape_configs:",
        "  - job_name: arqonbus",
        "    metrics_path: /metrics",
        f"    scrape_interval: {SCRAPE_SECONDS}s",
        "    static_configs:",
        f"      - targets: [{json.dumps(target)}]",
        f"        labels: {{environment: {environment}}}",
    ]
    return "\n".join(lines) + "\n"


def prometheus_rules(resolved: Resolved, runbooks: Collection[str] = ()) -> str:
    """A file for rule_files of Prometheus. `runbooks` are the names of the alerts that have one."""
    lines = [
        *_heading(resolved, "prometheus-rules", "/etc/prometheus/rules.d/arqonbus.yml"),
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


def _heading(resolved: Resolved, target: str, file: str) -> list[str]:
    profile = _word(resolved.profile)
    return [f"# Generated: arqonbus profile render {target} --profile {profile} --out {file}"]


def _word(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise Unrenderable(f"{text!r} cannot stand in the file; write names with A-Z a-z 0-9 . _ - only")
    return text


def _path(path: Path) -> str:
    if not all(_NAME.fullmatch(part) for part in path.parts if part != "/"):
        raise Unrenderable(f"state_dir {str(path)!r} cannot stand in the file; write it without other marks")
    return str(path)


Renderer = Callable[[Resolved, Collection[str]], str]

TARGETS: Mapping[str, Renderer] = {
    "systemd": lambda resolved, runbooks: systemd(resolved),
    "compose-env": lambda resolved, runbooks: compose_env(resolved),
    "ansible": lambda resolved, runbooks: ansible(resolved),
    "prometheus": lambda resolved, runbooks: prometheus(resolved),
    "prometheus-rules": prometheus_rules,
}


def render(target: str, resolved: Resolved, runbooks: Collection[str] = ()) -> str:
    """The text of a target. Raises Unrenderable, or KeyError for a target that is none."""
    return TARGETS[target](resolved, runbooks)


__all__ = ["TARGETS", "Unrenderable", "credentials", "open_files", "references", "render", "stop_seconds"]
