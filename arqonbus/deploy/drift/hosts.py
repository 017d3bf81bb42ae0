"""Expectations of every host: files, sockets, units, kernel, firewall, groups, clock, names. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from shlex import quote

from arqonbus.deploy.drift.deployment import (
    ALERTMANAGER_PORT,
    LOGS_PORT,
    PROMETHEUS_PORT,
    SSH,
    Deployment,
)
from arqonbus.deploy.drift.judges import NOTHING, exactly, same_lines, same_text, same_values
from arqonbus.deploy.drift.model import Expectation, Judge, Machine
from arqonbus.deploy.needs import public_address

FIREWALL = "arqonbus-firewall.service"
SHIPPING = "systemd-journal-upload.service"
UNITS = "/etc/systemd/system"
# Directories in which only what is rendered may stand.
_CLOSED = tuple(
    f"{UNITS}/{name}.d"
    for name in (
        "arqonbus@.service",
        "arqonbus-projector.service",
        "haproxy.service",
        "systemd-journal-remote.service",
        "systemd-journal-remote.socket",
        SHIPPING,
    )
)
_GROUPS = {"bus": "arqonbus", "valkey": "valkey", "postgres": "postgres", "loadbalancer": "haproxy"}
_NAME_SERVERS = ("127.0.0.11", "127.0.0.53%lo", "127.0.0.54")
_DHCP = 68


def on_every_host(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    """Expectations of a host, whatever runs on it."""
    site = deployment.rollout("site")
    for file in machine.files:
        yield content(file.path, file.content, site)
        yield belongs(file.path, file.owner, file.group, file.mode, site)
    for directory in _CLOSED:
        rendered = {file.path for file in machine.files if file.path.startswith(f"{directory}/")}
        if rendered:
            yield only(directory, rendered, machine)
    yield Expectation(
        "ARQ-DRF-005",
        "sockets",
        "ss --no-header --listening --tcp --udp --numeric --processes",
        _sockets(declared_sockets(deployment, machine)),
        f"{machine.type_on('ss -ltnup')}   # then stop what the profile does not name, or start what it does",
    )
    yield runs(FIREWALL, machine)
    if f"{UNITS}/{SHIPPING}.d/arqonbus.conf" in {file.path for file in machine.files}:
        yield runs(SHIPPING, machine)
    yield Expectation(
        "ARQ-DRF-008",
        "units",
        "systemctl list-units --failed --no-legend --plain | cut -d ' ' -f 1",
        exactly(""),
        lambda found: machine.type_on(f"systemctl restart {found}"),
    )
    yield Expectation(
        "ARQ-DRF-010",
        "table inet arqonbus",
        "nft list table inet arqonbus; echo ===; "
        "unshare --net sh -c 'nft --file /etc/arqonbus/firewall.nft && nft list table inet arqonbus'",
        _same_rules,
        machine.type_on(f"systemctl reload {FIREWALL}"),
    )
    yield Expectation(
        "ARQ-DRF-012",
        "systemd-timesyncd",
        "echo enabled=$(systemctl is-enabled systemd-timesyncd)\n"
        "if systemd-detect-virt --quiet --container; then echo active=active; "
        "else echo active=$(systemctl is-active systemd-timesyncd); fi",
        same_values({"enabled": "enabled", "active": "active"}),
        machine.type_on("systemctl enable --now systemd-timesyncd"),
    )
    yield from (_members(group, machine) for part, group in _GROUPS.items() if part in machine.parts)
    if machine.names:
        yield Expectation(
            "ARQ-DRF-013",
            "/etc/hosts",
            "cat /etc/hosts",
            _names(dict(machine.names)),
            lambda found: f"{machine.type_on(f'sed -i /{found.split()[0]}/d /etc/hosts')} && {site}",
        )
    yield from _kernel(machine)


def _members(group: str, machine: Machine) -> Expectation:
    return Expectation(
        "ARQ-DRF-011",
        f"group {group}",
        f"getent group {group} | cut -d : -f 4 | tr ',' '\\n'",
        same_lines(()),
        lambda found: machine.type_on(f"gpasswd --delete {found} {group}"),
    )


def content(path: str, expected: str, mend: str) -> Expectation:
    """A file is as it was rendered."""
    return Expectation("ARQ-DRF-001", path, f"cat {quote(path)}", same_text(expected), mend)


def belongs(path: str, owner: str, group: str, mode: str, mend: str) -> Expectation:
    """A file has its owner, its group and its mode."""
    expected = f"{owner}:{group} {int(mode, 8):04o}"
    return Expectation(
        "ARQ-DRF-002", path, f"stat --format '%U:%G %#04a' {quote(path)}", exactly(expected), mend
    )


def only(directory: str, expected: set[str], machine: Machine) -> Expectation:
    """A directory holds these files and no others; missing files are reported by the content check."""
    found = f"find {quote(directory)} -type f -o -type l"
    return Expectation(
        "ARQ-DRF-003",
        directory,
        found,
        _no_others(expected),
        lambda found: f"{machine.type_on(f'rm {found}')} && {machine.type_on('systemctl daemon-reload')}",
    )


def runs(unit: str, machine: Machine) -> Expectation:
    """A unit is active now and enabled for the next boot."""
    return Expectation(
        "ARQ-DRF-006",
        unit,
        f"systemctl show --property ActiveState,UnitFileState {quote(unit)}",
        same_values({"ActiveState": "active", "UnitFileState": "enabled"}),
        machine.type_on(f"systemctl enable --now {unit}"),
    )


def declared_sockets(deployment: Deployment, machine: Machine) -> set[str]:
    """Expected listeners of a host, beside ssh."""
    settings, address = deployment.settings, machine.address
    found: set[str] = set()
    if "bus" in machine.parts:
        found |= {
            f"{settings.server.host}:{settings.server.port}",
            f"{address}:{settings.telemetry.port}",
        }
        if settings.projector.projects:
            found.add(f"{address}:{settings.projector.telemetry_port}")
    if "valkey" in machine.parts:
        found.add(f"{address}:{settings.datastores.valkey.address[1]}")
    if "postgres" in machine.parts:
        found.add(f"{address}:{settings.datastores.postgres.port}")
    if "loadbalancer" in machine.parts:
        found.add(f"{address}:{public_address(settings)[1]}")
    if "observability" in machine.parts:
        found |= {
            f"127.0.0.1:{PROMETHEUS_PORT}",
            f"127.0.0.1:{ALERTMANAGER_PORT}",
            f"{address}:{LOGS_PORT}",
        }
    return found


def _sockets(expected: set[str]) -> Judge:
    """ssh, DHCP and the name server of the host itself are its own affair."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found: dict[str, str] = {}
        for line in answer.splitlines():
            columns = line.split()
            address, _, port = columns[4].rpartition(":")
            if address in _NAME_SERVERS or int(port) in (SSH, _DHCP):
                continue
            program = re.search(r'"([^"]+)"', line)
            found[f"{address}:{port}"] = program[1] if program else "unknown"
        for each in sorted(expected - found.keys()):
            yield each, "no process listens"
        for each in sorted(found.keys() - expected):
            yield NOTHING, f"{each} ({found[each]})"

    return judge


def _no_others(expected: set[str]) -> Judge:
    def judge(answer: str) -> Iterator[tuple[str, str]]:
        for path in sorted({line for line in answer.splitlines() if line} - expected):
            yield NOTHING, path

    return judge


def _names(expected: dict[str, str]) -> Judge:
    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found: dict[str, set[str]] = {}
        for line in answer.splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            for name in names:
                found.setdefault(name, set()).add(address)
        for name, address in sorted(expected.items()):
            if found.get(name) != {address}:
                yield f"{name} is {address}", f"{name} is {', '.join(sorted(found.get(name, {NOTHING})))}"

    return judge


def _same_rules(answer: str) -> Iterator[tuple[str, str]]:
    loaded, _, written = answer.partition("===\n")
    yield from same_text(written)(loaded)


def _kernel(machine: Machine) -> Iterator[Expectation]:
    """Kernel settings of the next boot (the last file wins) and, where they can be read, of now."""
    for file in machine.files:
        if not file.path.startswith("/etc/sysctl.d/"):
            continue
        declared = dict(_settings(file.content))
        yield Expectation(
            "ARQ-DRF-009",
            "sysctl.d",
            "/usr/lib/systemd/systemd-sysctl --cat-config",
            _at_boot(declared),
            lambda found: machine.type_on(f"rm {found.rpartition(' ')[2]}"),
        )
        asked = "; ".join(f"echo {name}=$(sysctl --values {name})" for name in declared)
        told = "; ".join(f"echo {name}={value}" for name, value in declared.items())
        yield Expectation(
            "ARQ-DRF-009",
            "sysctl",
            f"if systemd-detect-virt --quiet --container; then {told}; else {asked}; fi",
            same_values(declared),
            machine.type_on("systemctl restart systemd-sysctl"),
        )


def _settings(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith(("#", ";")):
            yield name.strip().lstrip("-").replace("/", "."), value.strip()


def _at_boot(declared: dict[str, str]) -> Judge:
    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        place = ""
        for line in answer.splitlines():
            place = line[2:] if line.startswith("# /") else place
            found |= {name: (value, place) for name, value in _settings(line)}
        for name, value in declared.items():
            other, there = found.get(name, (NOTHING, "no file"))
            if other != value:
                yield f"{name} {value}", f"{name} {other} by {there}"

    return judge


__all__ = ["belongs", "content", "declared_sockets", "on_every_host", "only", "runs"]
