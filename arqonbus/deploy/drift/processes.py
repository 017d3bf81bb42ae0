"""Privileges of a process, as the kernel reports them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from arqonbus.deploy.drift.judges import same_values
from arqonbus.deploy.drift.model import Expectation, Machine

_NO_RIGHTS = {
    **dict.fromkeys(("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"), "0" * 16),
    "NoNewPrivs": "1",
    "Seccomp": "2",
}


def in_a_container(machine: Machine) -> Expectation:
    """The first process of a container."""
    mend = f"docker inspect {machine.name}   # then start it again, as docker-compose.yml says"
    return Expectation("ARQ-DRF-022", "pid 1", "cat /proc/1/status", _judge, mend)


def _judge(answer: str) -> Iterator[tuple[str, str]]:
    status = status_of(answer)
    yield from has_no_rights(status)
    if status.get("Uid", "0").split()[0] == "0":
        yield "a user of its own", "root"


def status_of(answer: str) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    return dict(line.split(":\t", 1) for line in answer.splitlines() if ":\t" in line)


def has_no_rights(status: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """No capability, no way to gain one, and a filter of system calls."""
    yield from same_values(_NO_RIGHTS)("\n".join(f"{name}={status[name]}" for name in status))


__all__ = ["has_no_rights", "in_a_container", "status_of"]
