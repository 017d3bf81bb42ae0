"""Expectations of a unit of the bus: its file, systemd's view of it, its process, its receipt. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from arqonbus.config import Resolved
from arqonbus.config.capacity import open_files
from arqonbus.deploy.drift.deployment import Deployment
from arqonbus.deploy.drift.hosts import UNITS, belongs, content, runs
from arqonbus.deploy.drift.judges import NOTHING, at_most, same_values, values
from arqonbus.deploy.drift.model import Expectation, Judge, Machine
from arqonbus.deploy.drift.processes import has_no_rights, status_of
from arqonbus.deploy.units import PROJECTOR_FILES, bus_unit, projector_unit
from arqonbus.preflight.model import Phase
from arqonbus.preflight.receipt import FRESH_SECONDS

PHASES = sorted(phase.value for phase in Phase)  # all of preflight, as a receipt lists them
EXPOSURE = 1.5
# What systemd can be told at run time, past the file.
_LIMITS = ("LimitNOFILE", "LimitCORE", "TasksMax", "MemoryHigh", "MemoryMax")


@dataclass(frozen=True, slots=True)
class SystemdService:
    """A unit that runs, the file that it comes from, and what its process may have open."""

    unit: str
    file: str
    text: str
    state: str
    open_files: int


def services(resolved: Resolved) -> tuple[SystemdService, SystemdService]:
    """The bus and the projector of a host."""
    return (
        SystemdService(
            "arqonbus@1.service",
            f"{UNITS}/arqonbus@.service",
            bus_unit(resolved),
            "/var/lib/arqonbus/1",
            open_files(resolved.settings),
        ),
        SystemdService(
            "arqonbus-projector.service",
            f"{UNITS}/arqonbus-projector.service",
            projector_unit(resolved),
            "/var/lib/arqonbus/projector",
            PROJECTOR_FILES,
        ),
    )


def is_written(service: SystemdService, site: str) -> Iterator[Expectation]:
    """Its file is as it was rendered."""
    yield content(service.file, service.text, site)
    yield belongs(service.file, "root", "root", "0644", site)


def runs_as_written(
    service: SystemdService, deployment: Deployment, machine: Machine
) -> Iterator[Expectation]:
    """It runs with the limits and the rights of its file, after a preflight that passed."""
    unit, receipt = service.unit, f"{service.state}/receipt.json"
    asked = f"systemctl show --value {unit} --property"
    yield runs(unit, machine)
    yield _as_systemd_has_it(service, machine)
    yield Expectation(
        "ARQ-DRF-022",
        unit,
        f"cd /proc/$({asked} MainPID); cat status limits; echo arqonbus=$(id -u arqonbus)",
        _process(service.open_files),
        _restart(deployment, machine),
    )
    yield Expectation(
        "ARQ-DRF-022",
        f"exposure of {unit}",
        f"systemd-analyze security --no-pager {unit} | tail -n 1",
        at_most(EXPOSURE, r"exposure level for \S+: ([0-9.]+)"),
        deployment.rollout("site"),
    )
    yield Expectation(
        "ARQ-DRF-023",
        receipt,
        f'echo "receipt=$(tr -d "\\n" <{receipt} 2>/dev/null)"\n'
        f'echo "started=$(date -d "$({asked} ExecMainStartTimestamp)" +%s)"\n'
        # Where a process keeps its state is one of its settings.
        f'echo "digest=$(/usr/local/bin/arqonbus profile digest --set state_dir={service.state})"',
        passed_preflight,
        _restart(deployment, machine),
    )


def _restart(deployment: Deployment, machine: Machine) -> str:
    """Through the whole way: out of the load balancer, drained, preflight, verified, and back in."""
    return f"{machine.type_on('rm -f /opt/arqonbus/good.fingerprint')} && {deployment.rollout('deploy')}"


def _as_systemd_has_it(service: SystemdService, machine: Machine) -> Expectation:
    """Properties set by drop-ins or at run time are in no rendered file."""
    lines = [line.partition("=") for line in service.text.splitlines()]
    declared = {name: value for name, _, value in lines if name in _LIMITS}
    declared["NeedDaemonReload"] = "no"
    overlay = [file.path for file in machine.files if file.path.startswith(f"{service.file}.d/")]
    if overlay:
        declared["DropInPaths"] = " ".join(overlay)
    forget, reload = "rm -rf /run/systemd/system.control", "systemctl daemon-reload"
    return Expectation(
        "ARQ-DRF-007",
        service.unit,
        f"systemctl show --property {','.join([*_LIMITS, 'NeedDaemonReload', 'DropInPaths'])} {service.unit}",
        same_values(declared),
        f"{machine.type_on(forget)} && {machine.type_on(reload)}",
    )


def _process(files: int) -> Judge:
    def judge(answer: str) -> Iterator[tuple[str, str]]:
        status = status_of(answer)
        yield from has_no_rights(status)
        owner, wanted = status.get("Uid", "").split()[:1], values(answer).get("arqonbus", "")
        if owner != [wanted]:
            yield f"uid {wanted} (arqonbus)", f"uid {''.join(owner) or NOTHING}"
        limit = re.search(r"Max open files\s+(\S+)", answer)
        if limit is None or limit[1] != str(files):
            yield f"{files} open files", f"{limit[1] if limit else NOTHING} open files"

    return judge


def passed_preflight(answer: str) -> Iterator[tuple[str, str]]:
    """The receipt is of all phases, of the settings as they are, and was fresh when the bus started."""
    said = values(answer)
    try:
        receipt = json.loads(said.get("receipt", ""))
        at, started = int(receipt["at"]), int(said["started"])
    except (ValueError, KeyError, TypeError):
        yield "a receipt of a preflight that passed", "none that can be read"
        return
    if receipt.get("digest") != said.get("digest"):
        yield "a receipt of the settings as they are", "one of other settings"
    if receipt.get("phases") != PHASES:
        yield f"a receipt of {', '.join(PHASES)}", f"one of {', '.join(receipt.get('phases', [])) or NOTHING}"
    if receipt.get("waived"):
        yield "nothing waived", f"waived: {', '.join(receipt['waived'])}"
    if not -60 <= started - at <= FRESH_SECONDS:
        yield (
            f"a receipt within {FRESH_SECONDS:g} s before the start",
            f"one of {abs(started - at) / 3600:.1f} hours {'before' if started > at else 'after'} it",
        )


__all__ = ["SystemdService", "is_written", "passed_preflight", "runs_as_written", "services"]
