"""Expectations of a host, as questions with the required answers. Pure.

An expectation is stated once; the tests of a rollout and `arqonbus drift` ask the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Literal

Part = Literal["bus", "valkey", "postgres", "loadbalancer", "observability"]
PARTS: tuple[Part, ...] = ("bus", "valkey", "postgres", "loadbalancer", "observability")

# Stable: an id is never given to something else. In the order in which a report has them.
CHECKS: Mapping[str, str] = {
    "ARQ-DRF-001": "Files are as they were rendered",
    "ARQ-DRF-002": "Files belong to whom they should, with the declared mode",
    "ARQ-DRF-003": "No undeclared file is beside them",
    "ARQ-DRF-004": "Secrets are those of this deployment, for root alone",
    "ARQ-DRF-005": "The host listens where it is declared, and nowhere else",
    "ARQ-DRF-006": "Services and timers run, and start at boot",
    "ARQ-DRF-007": "systemd runs the units as they are written",
    "ARQ-DRF-008": "No unit has failed",
    "ARQ-DRF-009": "Kernel settings are the declared ones",
    "ARQ-DRF-010": "The firewall that is loaded is the one that is written",
    "ARQ-DRF-011": "The group of a service has no other members",
    "ARQ-DRF-012": "The clock follows a server",
    "ARQ-DRF-013": "Names lead to the hosts of the deployment",
    "ARQ-DRF-020": "The declared release is in service",
    "ARQ-DRF-021": "The release is as it was installed, with the locked packages",
    "ARQ-DRF-022": "The process has no more rights than the unit gives it",
    "ARQ-DRF-023": "What runs is what preflight passed",
    "ARQ-DRF-024": "Certificates are of the deployment, for its names, and valid",
    "ARQ-DRF-030": "Valkey runs with the declared settings",
    "ARQ-DRF-031": "The users of Valkey have the declared rights",
    "ARQ-DRF-040": "Nothing overrides the settings of PostgreSQL",
    "ARQ-DRF-041": "PostgreSQL runs with the declared settings",
    "ARQ-DRF-042": "The roles of PostgreSQL have the declared rights",
    "ARQ-DRF-050": "The load balancer sends clients to every node",
    "ARQ-DRF-060": "Prometheus hears from every node",
}

# From the answer to each thing that is not as expected: (what was expected, what was found).
Judge = Callable[[str], Iterable[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Expectation:
    """`question` is a shell command that root runs on the host and that changes nothing.

    `mend` is what to type about it, or makes that of what was found.
    """

    check: str
    subject: str
    question: str
    judge: Judge
    mend: str | Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the profile says, and what to type about it."""

    check: str
    host: str
    subject: str
    expected: str
    found: str
    mend: str


@dataclass(frozen=True, slots=True)
class File:
    """A file that the rollout writes."""

    path: str
    mode: str
    content: str
    owner: str = "root"
    group: str = "root"


@dataclass(frozen=True, slots=True)
class Machine:
    """A host or a container: how to reach it, which parts run there, and what only it has."""

    name: str
    spec: str
    parts: frozenset[Part]
    groups: frozenset[str] = frozenset()
    address: str = ""
    files: tuple[File, ...] = ()
    users: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    authority: Path | None = None
    secrets: Path | None = None
    key: str | None = None
    arguments: str = ""

    @property
    def container(self) -> bool:
        """True if it is a container of one process, without systemd."""
        return self.spec.startswith(("docker://", "podman://")) and not self.files

    def type_on(self, command: str) -> str:
        """A command as it is typed here to be run there."""
        if self.spec.startswith("local://"):
            return f"sudo {command}"
        if self.container:
            return f"docker exec {self.name} {command}"
        simple = not set(command) & set("\"'$&|;<>()*?\\")
        return f"ssh {self.name} sudo {command}" if simple else f"ssh {self.name} {quote(f'sudo {command}')}"


@dataclass(frozen=True, slots=True)
class Looked:
    """The result of one machine; `reason`: why it could not be asked."""

    machine: Machine
    expectations: int
    differences: tuple[Difference, ...] = ()
    reason: str = ""


__all__ = ["CHECKS", "PARTS", "Difference", "Expectation", "File", "Judge", "Looked", "Machine", "Part"]
