"""The whole stack of docker-compose.yml as an operator starts it: from a copy of the repository, under a
project name and on ports of its own, so that stacks can run side by side.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from docker import DockerClient
from docker.models.containers import Container

from tests.servers.processes import free_port, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
# tests/testbed/down takes away what carries a name that begins so.
PROJECT_PREFIX = "arqonbus-e2e-"

COMPOSE_SECONDS = 300


class ComposeFailed(AssertionError):
    """A compose command ended with an error; the text holds its output and the logs of the services."""


class Stack:
    """One project. `seconds` says how long each step took."""

    def __init__(self, engine: DockerClient, directory: Path) -> None:
        self.engine = engine
        self.project = PROJECT_PREFIX + secrets.token_hex(4)
        self.bus_port = free_port()
        self.telemetry_port = free_port()
        self.seconds: dict[str, float] = {}
        self._directory = directory
        self._images = {
            f"{service.upper()}_IMAGE": f"{self.project}-{service}:test"
            for service in ("bus", "valkey", "postgres")
        }
        copy_repository(directory)

    @property
    def url(self) -> str:
        """Where clients on this machine connect."""
        return f"ws://127.0.0.1:{self.bus_port}/v1/ws"

    def build(self, step: str = "build") -> None:
        """Build the images."""
        self._compose(step, "build", "--quiet")

    def up(self, step: str = "up") -> None:
        """Start everything; returns when the bus is ready."""
        self._compose(step, "up", "--detach", "--wait", "--no-build")

    def down(self, step: str = "down") -> None:
        """Stop everything, and keep the volumes."""
        self._compose(step, "down")

    def mint(self, subject: str, *options: str) -> str:
        """A token, as the documentation says to make one."""
        return self._compose(
            "token", "exec", "-T", "bus", "arqonbus", "token", "mint", "--sub", subject, *options
        ).strip()

    def container(self, service: str) -> Container:
        """The container of a service, as it is now."""
        [found] = self.containers(service)
        return found

    def containers(self, service: str | None = None) -> list[Container]:
        """All containers of the project, or those of one service, ended ones too."""
        labels = [f"{PROJECT_LABEL}={self.project}"]
        if service is not None:
            labels.append(f"{SERVICE_LABEL}={service}")
        found: list[Container] = self.engine.containers.list(all=True, filters={"label": labels})
        return found

    def kill_bus(self) -> None:
        """SIGKILL to the process of the bus, as when memory ends; the engine starts it again."""
        before = self.container("bus")
        restarts = before.attrs["RestartCount"]
        # Its children are killed, not docker-init: pid 1 ignores signals from inside its own container.
        program = (
            "import os, signal; "
            "children = open('/proc/1/task/1/children').read().split(); "
            "os.kill(int(children[0]), signal.SIGKILL)"
        )
        before.exec_run(["/opt/arqonbus/bin/python", "-c", program])
        wait_until(lambda: self.container("bus").attrs["RestartCount"] > restarts, "the engine to restart it")

    def logs(self) -> str:
        """The last lines of every service."""
        return "\n".join(
            f"--- {container.labels[SERVICE_LABEL]} ({container.status})\n"
            + container.logs(tail=40).decode(errors="replace")
            for container in self.containers()
        )

    def remove(self) -> None:
        """Take away everything that carries the project's label, and its images."""
        wanted = {"label": f"{PROJECT_LABEL}={self.project}"}
        for container in self.containers():
            container.remove(force=True, v=True)
        for network in self.engine.networks.list(filters=wanted):
            network.remove()
        for volume in self.engine.volumes.list(filters=wanted):
            volume.remove(force=True)
        for name in self._images.values():
            for image in self.engine.images.list(name):
                self.engine.images.remove(image.id, force=True)
        shutil.rmtree(self._directory)

    def _compose(self, step: str, *arguments: str) -> str:
        began = time.monotonic()
        variables = {
            "BUS_PORT": str(self.bus_port),
            "TELEMETRY_PORT": str(self.telemetry_port),
            **self._images,
        }
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, "--profile", "dev", *arguments],
            cwd=self._directory,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=COMPOSE_SECONDS,
        )
        self.seconds[step] = round(time.monotonic() - began, 1)
        if done.returncode:
            said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            raise ComposeFailed(f"compose {' '.join(arguments)}\n{said}\n{self.logs()}")
        return done.stdout


def copy_repository(directory: Path) -> None:
    """What a fresh clone would hold, with the changes that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = REPOSITORY / name, directory / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


__all__ = ["ComposeFailed", "Stack", "copy_repository"]
