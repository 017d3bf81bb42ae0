"""The units of systemd: what runs on a host, started only after preflight, with next to no rights. Pure."""

from __future__ import annotations

from pathlib import Path

from arqonbus.config import Resolved, Settings
from arqonbus.config.capacity import memory_bill, memory_limit, open_files, projector_bill, projector_limit
from arqonbus.deploy.needs import credentials, heading, path_word, stop_seconds, word

PROGRAM = "/opt/arqonbus/current/bin/arqonbus"
PROFILES = "/etc/arqonbus/profiles"
CREDENTIALS = "/etc/arqonbus/credentials"
# More than preflight needs where every server is silent.
START_SECONDS = 60
# Many times what a loop is late by under load.
WATCHDOG_SECONDS = 30
# A batch, a commit that Postgres is slow with, and an ack.
PROJECTOR_STOP_SECONDS = 60
PROJECTOR_FILES = 1024

_STATE = Path("/var/lib")


def bus_unit(resolved: Resolved) -> str:
    """The unit arqonbus@.service: one instance per worker, started after preflight, with minimal rights."""
    settings = resolved.settings
    state = _state(settings, "%i")
    options = f"--profile {word(resolved.profile)} --receipt {state}/receipt.json"
    lines = [
        *heading(resolved, "systemd", "/etc/systemd/system/arqonbus@.service"),
        "# An instance is a worker. Settings of one worker only, such as its ports, are in its file:",
        "#   systemctl edit arqonbus@1   # [Service] Environment=ARQONBUS_SERVER_PORT=…",
        "",
        *_unit_section("ArqonBus worker %i"),
        "[Service]",
        "# It has started when it listens, and is restarted when its event loop stops.",
        *_notifying(),
        "# Nothing listens before preflight passed; its receipt tells serve that it did.",
        f"ExecStartPre={PROGRAM} preflight {options}",
        f"ExecStart={PROGRAM} serve {options}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        *_restarting(),
        f"# server.drain_seconds is {settings.server.drain_seconds:g}.",
        f"TimeoutStopSec={stop_seconds(settings)}s",
        "KillMode=mixed",
        "",
        *_identity(resolved, _state_lines(settings, "%i")),
        f"LimitNOFILE={open_files(settings)}",
        *_memory(settings),
        *_hardening(min(settings.server.port, settings.telemetry.port)),
        *_install(),
    ]
    return "\n".join(lines) + "\n"


def projector_unit(resolved: Resolved) -> str:
    """The unit arqonbus-projector.service: the same start check, and no port but that of its telemetry."""
    settings = resolved.settings
    state = _state(settings, "projector")
    options = f"--profile {word(resolved.profile)} --receipt {state}/receipt.json"
    lines = [
        *heading(resolved, "systemd-projector", "/etc/systemd/system/arqonbus-projector.service"),
        "",
        *_unit_section("ArqonBus projector"),
        "[Service]",
        *_notifying(),
        f"ExecStartPre={PROGRAM} preflight --process projector {options}",
        f"ExecStart={PROGRAM} projector run {options}",
        *_restarting(),
        "# What it holds is committed and acked before it ends.",
        f"TimeoutStopSec={PROJECTOR_STOP_SECONDS}s",
        "KillMode=mixed",
        "",
        *_identity(resolved, _state_lines(settings, "projector")),
        f"LimitNOFILE={PROJECTOR_FILES}",
        f"MemoryHigh={projector_bill(settings)}",
        f"MemoryMax={projector_limit(settings)}",
        *_hardening(settings.projector.telemetry_port),
        *_install(),
    ]
    return "\n".join(lines) + "\n"


def _unit_section(description: str) -> list[str]:
    return [
        "[Unit]",
        f"Description={description}",
        "Wants=network-online.target",
        "After=network-online.target time-sync.target",
        "# A store that is unreachable comes back, after minutes or hours: the unit is always started again.",
        "StartLimitIntervalSec=0",
        "",
    ]


def _notifying() -> list[str]:
    return [
        "Type=notify",
        "NotifyAccess=main",
        f"WatchdogSec={WATCHDOG_SECONDS}s",
        f"Environment=ARQONBUS_PROFILES_DIR={PROFILES}",
    ]


def _restarting() -> list[str]:
    return ["Restart=on-failure", "RestartSec=5s", f"TimeoutStartSec={START_SECONDS}s"]


def _identity(resolved: Resolved, state: list[str]) -> list[str]:
    return [
        *_credential_lines(resolved),
        "# A user arqonbus of this host is taken where there is one; else systemd lends one.",
        "DynamicUser=yes",
        "User=arqonbus",
        *state,
        "UMask=0077",
    ]


def _install() -> list[str]:
    return ["", "[Install]", "WantedBy=multi-user.target"]


def _credential_lines(resolved: Resolved) -> list[str]:
    names = credentials(resolved)
    return [f"LoadCredential={word(name)}:{CREDENTIALS}/{name}" for name in names] + [""] * bool(names)


def _memory(settings: Settings) -> list[str]:
    """The same bill that preflight compares with the host. Rooms that it holds itself have no bound."""
    most = memory_limit(settings)
    if most is None:
        return []
    return [f"MemoryHigh={memory_bill(settings)}", f"MemoryMax={most}"]


def _state(settings: Settings, own: str) -> str:
    """The directory of what a process writes; one that depends on where it is started gets a place."""
    state = settings.state_dir
    return path_word(state) if state.is_absolute() else f"%S/arqonbus/{own}"


def _state_lines(settings: Settings, own: str) -> list[str]:
    state, path = settings.state_dir, _state(settings, own)
    lines = [f"WorkingDirectory={path}", f"Environment=ARQONBUS_STATE_DIR={path}"]
    if not state.is_absolute():
        return [f"StateDirectory=arqonbus/{own}", "StateDirectoryMode=0700", *lines]
    if state.is_relative_to(_STATE) and state != _STATE:
        return [f"StateDirectory={state.relative_to(_STATE)}", "StateDirectoryMode=0700", *lines[:1]]
    return [f"ReadWritePaths={path}", *lines[:1]]


def _hardening(lowest_port: int) -> list[str]:
    # A port below 1024 is the one thing that takes a right of root.
    capabilities = "CAP_NET_BIND_SERVICE" if lowest_port < 1024 else ""
    yes = (
        "LockPersonality MemoryDenyWriteExecute NoNewPrivileges PrivateDevices PrivateMounts PrivateTmp "
        "ProtectClock "
        "ProtectControlGroups ProtectHome ProtectHostname ProtectKernelLogs ProtectKernelModules "
        "ProtectKernelTunables RemoveIPC RestrictNamespaces RestrictRealtime RestrictSUIDSGID"
    )
    return [
        "LimitCORE=0",
        "TasksMax=256",
        "",
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


__all__ = ["CREDENTIALS", "PROFILES", "PROGRAM", "bus_unit", "projector_unit"]
