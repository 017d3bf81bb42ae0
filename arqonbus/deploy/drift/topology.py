"""Which machines there are: from an inventory, as Ansible renders it, or named one by one."""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arqonbus.deploy.drift.model import PARTS, File, Machine, Part

_PARTS: dict[str, tuple[Part, ...]] = {
    "bus": ("bus",),
    "data": ("valkey", "postgres"),
    "edge": ("loadbalancer",),
    "monitoring": ("observability",),
}
_SPECS = ("ssh://", "local://", "docker://", "podman://")
PLAY_SECONDS = 120


class NoTopology(Exception):
    """Machines that cannot be found out; the message is a sentence."""


def of_inventory(tree: Path, inventory: Path, variables: Sequence[str] = ()) -> list[Machine]:
    """All hosts of an inventory with what is rendered for it; none is asked. Raises NoTopology."""
    playbook = tree / "ansible" / "playbooks" / "expected.yml"
    if not playbook.exists():
        raise NoTopology("an inventory is read in a clone of the repository; run this there")
    programs = f"{tree / '.venv-ansible' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    with tempfile.TemporaryDirectory(prefix="arqonbus-drift-") as directory:
        options = [
            option for each in (f"expected_directory={directory}", *variables) for option in ("-e", each)
        ]
        try:
            done = subprocess.run(  # noqa: S603
                ["ansible-playbook", "--inventory", str(inventory), *options, str(playbook)],  # noqa: S607
                env={
                    **os.environ,
                    "ANSIBLE_CONFIG": str(tree / "ansible" / "ansible.cfg"),
                    "LC_ALL": "C.UTF-8",
                    "PATH": programs,
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PLAY_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise NoTopology("ansible-playbook is not there; install it: scripts/setup-ansible") from error
        except subprocess.TimeoutExpired as error:
            raise NoTopology(f"the inventory could not be rendered within {PLAY_SECONDS} s") from error
        if done.returncode != 0:
            raise NoTopology(
                f"the inventory {inventory} cannot be rendered:\n{_failure(done.stdout + done.stderr)}"
            )
        files = sorted(Path(directory).glob("*.json"))
        return [machine_of(json.loads(file.read_text("utf-8"))) for file in files]


def machine_of(told: dict[str, Any]) -> Machine:
    """A machine, as the playbook left it."""
    user, port = (f"{told['user']}@" if told["user"] else ""), (f":{told['port']}" if told["port"] else "")
    transport = {"local": "local", "docker": "docker", "community.docker.docker": "docker"}
    kind = transport.get(told["connection"], "ssh")
    specs = {
        "local": "local://",
        "docker": f"docker://{told['host']}",
        "ssh": f"ssh://{user}{told['host']}{port}",
    }
    arguments = [told["arguments"], os.environ.get("ANSIBLE_SSH_COMMON_ARGS", "")]
    return Machine(
        name=told["name"],
        spec=specs[kind],
        parts=frozenset(part for group in told["groups"] for part in _PARTS.get(group, ())),
        groups=frozenset(told["groups"]),
        address=told["address"],
        files=tuple(
            File(
                file["path"],
                file["mode"],
                file["content"],
                file.get("owner", "root"),
                file.get("group", "root"),
            )
            for file in told["files"]
        ),
        users=told["users"],
        names=told["names"],
        nodes=told["nodes"],
        authority=Path(told["authority"]),
        secrets=Path(told["secrets"]),
        key=told["key"] or None,
        arguments=" ".join(filter(None, arguments)),
    )


def chosen(machines: Sequence[Machine], patterns: Sequence[str]) -> list[Machine]:
    """Those whose name or group fits a pattern, such as bus or bus-*. Raises NoTopology."""
    found: list[Machine] = []
    for pattern in patterns:
        fitting = [
            machine
            for machine in machines
            if any(fnmatch.fnmatch(name, pattern) for name in (machine.name, *machine.groups, "all"))
        ]
        if not fitting:
            names = ", ".join(machine.name for machine in machines)
            raise NoTopology(f"no host is called {pattern}; there is {names}")
        found += [machine for machine in fitting if machine not in found]
    return found


def named(text: str) -> Machine:
    """PART=SPEC, such as bus=ssh://admin@192.0.2.1 or valkey=docker://NAME. Raises NoTopology."""
    parts, _, spec = text.partition("=")
    unknown = [part for part in parts.split("+") if part not in PARTS]
    if unknown or not spec.startswith(_SPECS):
        raise NoTopology(
            f"{text} is no host; write PART=SPEC, with a part of {', '.join(PARTS)} and a spec that begins "
            f"with {', '.join(_SPECS)}; or give an inventory"
        )
    name = spec.partition("://")[2].rpartition("@")[2].partition(":")[0] or "localhost"
    return Machine(
        name=name,
        spec=spec,
        parts=frozenset(part for part in PARTS if part in parts.split("+")),
        arguments=os.environ.get("ANSIBLE_SSH_COMMON_ARGS", ""),
    )


def _failure(output: str) -> str:
    lines = output.splitlines()
    failed = [index for index, line in enumerate(lines) if line.startswith(("fatal:", "[ERROR]", "ERROR"))]
    return "\n".join(lines[failed[0] :][:12] if failed else lines[-6:])


__all__ = ["NoTopology", "chosen", "machine_of", "named", "of_inventory"]
