"""The whole stack of docker-compose.yml as an operator starts it: from a copy of the repository, under a
project name and on ports of its own, so that stacks can run side by side.
"""

from __future__ import annotations

import os
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from docker import DockerClient
from docker.models.containers import Container

from tests.servers.certificates import trusting
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
    """One project of one environment. `seconds` says how long each step took, `built` what a build made."""

    def __init__(
        self, engine: DockerClient, directory: Path, environment: str = "dev", *profiles: str
    ) -> None:
        self.engine = engine
        self.environment = environment
        self.profiles = (environment, *profiles)
        self.project = PROJECT_PREFIX + secrets.token_hex(4)
        self.bus_port = free_port()
        self.telemetry_port = free_port()
        self.prometheus_port = free_port()
        self.alertmanager_port = free_port()
        self.seconds: dict[str, float] = {}
        self.built: dict[str, dict[str, str]] = {}
        self.directory = directory
        self._images = {
            f"{service.upper()}_IMAGE": f"{self.project}-{service}:test"
            for service in ("bus", "valkey", "postgres", "tools", "loadbalancer", "prometheus")
        }
        copy_repository(directory)

    @property
    def url(self) -> str:
        """Where clients on this machine connect."""
        return f"{'ws' if self.environment == 'dev' else 'wss'}://127.0.0.1:{self.bus_port}/v1/ws"

    def tls(self) -> ssl.SSLContext:
        """What clients trust: the authority of the deployment, and the public name."""
        return trusting(self.authority, self.variables()["BUS_HOST"])

    @cached_property
    def authority(self) -> str:
        """The certificate of the deployment's authority, as the documentation says to get it."""
        return self.compose("authority", "exec", "-T", "bus-1", "cat", "/etc/arqonbus/tls/ca.pem")

    def variables(self) -> dict[str, str]:
        """What compose is told of the profile."""
        lines = (self.directory / self._env_file).read_text("utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def build(self, step: str = "build") -> None:
        """Build the images."""
        self.compose(step, "build", "--quiet")
        self.built[step] = self.images()

    def up(self, step: str = "up") -> None:
        """Start everything; returns when the bus is ready."""
        self.compose(step, "up", "--detach", "--wait", "--no-build")

    def down(self, step: str = "down") -> None:
        """Stop everything, and keep the volumes."""
        self.compose(step, "down")

    def mint(self, subject: str, *options: str) -> str:
        """A token, as the documentation says to make one."""
        node = "bus" if self.environment == "dev" else "bus-1"
        return self.compose(
            "token", "exec", "-T", node, "arqonbus", "token", "mint", "--sub", subject, *options
        ).strip()

    def token(self, subject: str) -> str:
        """A token of a service that may do everything in its tenant."""
        return self.mint(subject, "--tenant", "demo", "--kind", "service", "--grant", "*:*")

    def tag(self, service: str, tag: str) -> str:
        """Give the image of a service another name; returns that one."""
        name = self._images[f"{service.upper()}_IMAGE"]
        self.engine.images.get(name).tag(name.partition(":")[0], tag)
        return f"{name.partition(':')[0]}:{tag}"

    def images(self) -> dict[str, str]:
        """The ids of its images, by name."""
        return {
            name: image.id
            for image in self.engine.images.list()
            for name in image.tags
            if name.startswith(f"{self.project}-")
        }

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

    def is_healthy(self, service: str) -> bool:
        """Whether the engine found so since it started the container."""
        return bool(self.container(service).attrs["State"]["Health"]["Status"] == "healthy")

    def kill_bus(self, service: str = "bus") -> None:
        """SIGKILL to the process of the bus, as when memory ends; the engine starts it again."""
        before = self.container(service)
        began = before.attrs["State"]["StartedAt"]
        # Its children are killed, not docker-init: pid 1 ignores signals from inside its own container.
        program = (
            "import os, signal; "
            "children = open('/proc/1/task/1/children').read().split(); "
            "os.kill(int(children[0]), signal.SIGKILL)"
        )
        before.exec_run(["/opt/arqonbus/bin/python", "-c", program])
        wait_until(
            lambda: self.container(service).attrs["State"]["StartedAt"] != began,
            "the engine to start it again",
        )

    def logs(self) -> str:
        """The last lines of every service."""
        return "\n".join(
            f"--- {container.labels[SERVICE_LABEL]}: {container.status}, "
            f"restarted {container.attrs['RestartCount']} times\n"
            + container.logs(tail=40, timestamps=True).decode(errors="replace")
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
        # By their names: the image itself may be another project's, too.
        for name in self.images():
            self.engine.images.remove(name)
        shutil.rmtree(self.directory)

    @property
    def _env_file(self) -> str:
        return ".env" if self.environment == "dev" else f"profiles/{self.environment}/compose.env"

    def environ(self) -> dict[str, str]:
        """What the shell of an operator has set, so that several of them can work on this machine."""
        return {
            "COMPOSE_PROJECT_NAME": self.project,
            "BUS_PORT": str(self.bus_port),
            "TELEMETRY_PORT": str(self.telemetry_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "ALERTMANAGER_PORT": str(self.alertmanager_port),
            **self._images,
        }

    def command(self, *arguments: str, env_file: str | None = None) -> list[str]:
        """A command of compose, as an operator types it."""
        profiles = [word for name in self.profiles for word in ("--profile", name)]
        return ["docker", "compose", "--env-file", env_file or self._env_file, *profiles, *arguments]

    def compose(self, step: str, *arguments: str, env_file: str | None = None) -> str:
        """Run a command of compose; returns what it printed. Raises ComposeFailed."""
        return self.run(step, self.command(*arguments, env_file=env_file))

    def run(self, step: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
        """Run a command in the clone; returns what it printed. Raises ComposeFailed."""
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=os.environ | self.environ() | (environ or {}),
            capture_output=True,
            text=True,
            timeout=COMPOSE_SECONDS,
        )
        self.seconds[step] = round(time.monotonic() - began, 1)
        if done.returncode:
            said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            raise ComposeFailed(f"{' '.join(command)}\n{said}\n{self.logs()}")
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
