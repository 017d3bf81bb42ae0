"""How long rollouts take, from bare hosts to proven, task by task; writes benchmarks/ROLLOUT.md.

python -m benchmarks.rollout [--out benchmarks/ROLLOUT.md]

Three hosts with systemd as the tests make them, on this machine. Needs root, or a Docker engine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import docker

from arqonbus.cli.table import print_table
from tests.infra.hosts import ADDRESSES, ENVIRONMENT, Hosts
from tests.runbooks.runbook import RUNBOOKS, parse

ROOT = Path(__file__).resolve().parents[1]
STEPS = {
    "preflight": ("preflight", "could it be rolled out"),
    "site": ("site", "from bare hosts to verified"),
    "site again": ("site", "the second run, which changes nothing"),
    "verify": ("verify", "every node, and all through the front door"),
}
SHOWN = 12
_TASK = re.compile(r"^(.+?) -{2,} (\d+\.\d+)s$", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """A playbook that ran: its seconds, those of the controller's processor, and its longest tasks."""

    name: str
    seconds: float
    controller: float
    changed: int
    tasks: list[tuple[str, float]]


def prepare(hosts: Hosts) -> None:
    """Build the release, name the hosts and make the secrets, as the runbook of the first rollout says."""
    for command in parse((RUNBOOKS / "operations" / "first-rollout.md").read_text("utf-8")).commands:
        if "scripts/rollout" in command.script:
            return
        command.run(hosts.clone, hosts.environ(), seconds=600)


def measure(hosts: Hosts, name: str) -> Step:
    """Run one playbook."""
    before = os.times()
    played = hosts.play(STEPS[name][0], step=name)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    tasks = [(task.strip(), float(seconds)) for task, seconds in _TASK.findall(played.output)]
    return Step(name, played.seconds, round(spent, 1), sum(played.changed.values()), tasks[:SHOWN])


def report(steps: list[Step]) -> str:
    """The page."""
    today = datetime.datetime.now(datetime.UTC).date()
    python = ".".join(map(str, sys.version_info[:3]))
    lines = [
        "# Rollouts",
        "",
        f"`python -m benchmarks.rollout`, {today}, {os.cpu_count()} shared processors for the controller and "
        f"its {len(ADDRESSES)} hosts, Python {python}.",
        "",
        "| step | what | seconds | processor of the controller | changed |",
        "| --- | --- | --: | --: | --: |",
    ]
    for step in steps:
        seconds, controller = f"{step.seconds:.0f}", f"{step.controller:.0f} s"
        row = (step.name, STEPS[step.name][1], seconds, controller, str(step.changed))
        lines.append(f"| {' | '.join(row)} |")
    for step in steps:
        lines += ["", f"## {step.name}: where the time goes", "", "| task | seconds |", "| --- | --: |"]
        lines += [f"| {task} | {seconds:.1f} |" for task, seconds in step.tasks]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Roll out, and write what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "ROLLOUT.md", metavar="FILE")
    args = parser.parse_args()
    for script in ("engine", "base-image"):
        subprocess.run([ROOT / "tests" / "testbed" / script], check=True)
    os.environ["ANSIBLE_CALLBACKS_ENABLED"] = "ansible.posix.profile_tasks"
    os.environ["PROFILE_TASKS_TASK_OUTPUT_LIMIT"] = str(SHOWN)
    with tempfile.TemporaryDirectory(prefix="arqonbus-rollout-") as directory:
        hosts = Hosts(docker.from_env(), Path(directory))
        try:
            hosts.start()
            prepare(hosts)
            steps = [measure(hosts, name) for name in STEPS]
        finally:
            hosts.remove()
    print_table(
        ("STEP", "SECONDS", "CONTROLLER", "CHANGED"),
        [(step.name, step.seconds, step.controller, step.changed) for step in steps],
    )
    args.out.write_text(report(steps), "utf-8")
    print(f"\n{ENVIRONMENT}; written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
