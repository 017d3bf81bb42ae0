"""Asks machines over the transports of testinfra, all at once, and compares.

testinfra comes with the extra `ops`; the bus itself never needs it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import testinfra

from arqonbus.deploy.drift.asking import Unanswered, answers, differences, script
from arqonbus.deploy.drift.bus import on_a_bus_host
from arqonbus.deploy.drift.deployment import Deployment
from arqonbus.deploy.drift.hosts import on_every_host
from arqonbus.deploy.drift.model import Expectation, Looked, Machine
from arqonbus.deploy.drift.observability import on_a_monitoring_host
from arqonbus.deploy.drift.processes import in_a_container
from arqonbus.deploy.drift.stores import (
    in_a_postgres_container,
    in_a_valkey_container,
    on_a_postgres_host,
    on_a_valkey_host,
    on_an_edge_host,
)

AT_ONCE = 16
# A connection of its own, that ends by itself when the host goes away in the middle.
_SSH = (
    "-o ControlMaster=no -o ControlPath=none -o BatchMode=yes -o ConnectTimeout=10 "
    "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
)


def expectations(deployment: Deployment, machine: Machine) -> list[Expectation]:
    """Everything that is expected of a machine, in the order of the checks."""
    return sorted(_expected(deployment, machine), key=lambda each: each.check)


def _expected(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    if machine.container:
        yield in_a_container(machine)
        if "valkey" in machine.parts:
            yield from in_a_valkey_container(deployment, machine)
        if "postgres" in machine.parts:
            yield from in_a_postgres_container(deployment, machine)
        return
    if machine.files:
        yield from on_every_host(deployment, machine)
    if "bus" in machine.parts:
        yield from on_a_bus_host(deployment, machine)
    if "valkey" in machine.parts:
        yield from on_a_valkey_host(deployment, machine)
    if "postgres" in machine.parts:
        yield from on_a_postgres_host(deployment, machine)
    if "loadbalancer" in machine.parts:
        yield from on_an_edge_host(deployment, machine)
    if "observability" in machine.parts:
        yield from on_a_monitoring_host(deployment, machine)


def compare(deployment: Deployment, machines: Sequence[Machine]) -> list[Looked]:
    """The results of all machines, in order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda machine: look(deployment, machine), machines))


def look(deployment: Deployment, machine: Machine) -> Looked:
    """Ask one machine everything in one go."""
    expected = expectations(deployment, machine)
    try:
        said = answers(_run(machine, script(expected)), len(expected))
    except Unanswered as reason:
        return Looked(machine, len(expected), reason=str(reason))
    return Looked(machine, len(expected), differences(machine, expected, said))


def _run(machine: Machine, program: str) -> str:
    options: dict[str, object] = {}
    if machine.spec.startswith("ssh://"):
        options = {"ssh_extra_args": f"{machine.arguments} {_SSH}".strip(), "controlpersist": 0}
        if machine.key:
            options["ssh_identity_file"] = machine.key
    try:
        # A container's processes are its own; root of a host is asked through sudo.
        host = testinfra.get_host(machine.spec, sudo=not machine.container, **options)
        done = host.run(program)
    except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
        raise Unanswered(_why(str(getattr(error.args[0], "stderr", error)))) from error
    if done.rc != 0:
        raise Unanswered(_why(done.stderr or done.stdout))
    return str(done.stdout)


def _why(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"


__all__ = ["compare", "expectations", "look"]
