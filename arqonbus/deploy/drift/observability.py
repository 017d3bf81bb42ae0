"""Expectations where metrics and logs of all hosts are collected. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator

from arqonbus.deploy.drift.certificates import certificate
from arqonbus.deploy.drift.deployment import LOGS_PORT, Deployment
from arqonbus.deploy.drift.hosts import only, runs
from arqonbus.deploy.drift.judges import NOTHING
from arqonbus.deploy.drift.model import Expectation, Judge, Machine

RULES = "/etc/prometheus/rules.d"
# A node that was just started is asked again when it must have been scraped.
_ASKED = """ask() { python3 -c 'from urllib.request import urlopen
print(urlopen("http://127.0.0.1:9090/api/v1/targets", timeout=5).read().decode())' 2>&1; }
said=$(ask); case $said in *'"health":"down"'*|*'"health":"unknown"'*) sleep 16; said=$(ask) ;; esac
echo "$said"
"""
_JOBS = ("arqonbus", "arqonbus-projector")


def on_a_monitoring_host(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    """Expectations of the host of Prometheus."""
    site = deployment.rollout("site")
    for unit in ("prometheus.service", "prometheus-alertmanager.service", "systemd-journal-remote.socket"):
        yield runs(unit, machine)
    yield only(RULES, {f"{RULES}/arqonbus.yml"}, machine)
    yield Expectation(
        "ARQ-DRF-060",
        "Prometheus",
        _ASKED,
        _targets({(job, name) for job in _JOBS for name in machine.nodes}),
        machine.type_on("systemctl restart prometheus"),
    )
    if machine.authority is not None:
        yield from certificate(
            "/etc/arqonbus/journal/server.pem",
            "systemd-journal-remote",
            machine.authority,
            (machine.name,),
            f"{machine.address}:{LOGS_PORT}",
            site,
        )


def _targets(expected: set[tuple[str, str]]) -> Judge:
    """Each node by its job and its name, and whether the last scrape worked."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        try:
            found = {
                (target["labels"]["job"], target["labels"]["instance"]): target["health"]
                for target in json.loads(answer)["data"]["activeTargets"]
            }
        except (ValueError, KeyError, TypeError):
            yield "the targets of Prometheus", answer.strip() or "no answer"
            return
        for each in sorted(expected | found.keys()):
            name = f"{each[0]} of {each[1]}"
            if each not in expected:
                yield NOTHING, name
            elif found.get(each) != "up":
                yield f"{name} up", f"{name} {found.get(each, 'not asked')}"

    return judge


__all__ = ["on_a_monitoring_host"]
