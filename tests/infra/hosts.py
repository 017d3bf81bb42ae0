"""Debian hosts with systemd as containers, and the rollout that an operator runs against them over ssh.

Three machines: two for the bus, one for the data stores and the load balancer. They carry the names of the
shipped inventory and addresses of a network of their own; all of it has one label and goes with it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import testinfra
from docker import DockerClient
from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool
from testinfra.host import Host

from arqonbus.config import Resolved, Settings, load
from arqonbus.shield.grants import parse_grant
from arqonbus.shield.tokens import Claims, mint
from tests.e2e.stack import copy_repository
from tests.runbooks.runbook import RUNBOOKS, parse
from tests.servers.certificates import trusting
from tests.servers.processes import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
# tests/testbed/down takes away what carries it.
LABEL = "arqonbus.testbed"
IMAGE = "arqonbus-host:testbed"
# What is rolled out: its profile, its inventory, and the names in both.
ENVIRONMENT = "prod"
DOMAIN = "example.org"
ADDRESSES = {f"bus-1.{DOMAIN}": 11, f"bus-2.{DOMAIN}": 12, f"data-1.{DOMAIN}": 21}
BUS = tuple(name for name in ADDRESSES if name.startswith("bus"))
DATA = f"data-1.{DOMAIN}"
PUBLIC = f"bus.{DOMAIN}"
VALKEY = f"valkey.{DOMAIN}"
CAPABILITIES = ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_NICE", "IPC_LOCK", "AUDIT_CONTROL"]

PLAY_SECONDS = 840
_FAILURE = re.compile(r"^(?:fatal|failed):", re.MULTILINE)
_RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s", re.MULTILINE)


class PlayFailed(AssertionError):
    """A playbook ended with an error; the text holds its output."""


@dataclass(frozen=True)
class Played:
    """What a playbook did."""

    code: int
    output: str
    changed: dict[str, int]
    seconds: float

    @property
    def sentences(self) -> str:
        """The output in one line, as it would read without the breaks that YAML puts into it."""
        return " ".join(self.output.split())


class Hosts:
    """The machines, bare at first. `seconds` says how long each play took."""

    def __init__(self, engine: DockerClient, directory: Path) -> None:
        self.directory = directory
        self.seconds: dict[str, float] = {}
        self.name = f"arqonbus-hosts-{secrets.token_hex(4)}"
        self._engine = engine
        self._labels = {LABEL: self.name}
        self._connected: dict[str, Host] = {}
        # The path of a socket must be short, and those of tests are not.
        self._sockets = Path(tempfile.mkdtemp(prefix="arqonbus-"))
        # Where the operator works: a clone of its own, which is gone with the hosts.
        self.clone = directory / "clone"
        state = self.clone / ".state" / "rollout" / ENVIRONMENT
        self.secrets, self.authority = state / "secrets", state / "ca"
        self.inventory = self.clone / "ansible" / "inventories" / ENVIRONMENT
        self._make_clone()

    # -- machines

    def start(self) -> None:
        """Build the image, make the network, start the machines, and wait until systemd has settled."""
        context = str(REPOSITORY / "tests" / "testbed" / "host")
        self._engine.images.build(path=context, tag=IMAGE, rm=True)
        self._make_network()
        for name in ADDRESSES:
            self._start(name)
        for name in ADDRESSES:
            self.wait_for_boot(name)
        self._write_files()

    def _make_network(self) -> None:
        for _ in range(20):
            self._prefix = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
            pool = IPAMPool(subnet=f"{self._prefix}.0/24")
            try:
                self._network = self._engine.networks.create(
                    self.name, ipam=IPAMConfig(pool_configs=[pool]), labels=self._labels
                )
            except docker.errors.APIError as error:
                if "overlap" not in str(error):
                    raise
            else:
                return
        raise RuntimeError("no free network was found in 20 attempts; docker network ls shows what is taken")

    def _start(self, name: str) -> None:
        container = self._engine.containers.create(
            IMAGE,
            name=f"{self.name}-{name.partition('.')[0]}",
            hostname=f"{self.name}-{name.partition('.')[0]}",
            labels=self._labels,
            cap_add=CAPABILITIES,
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            cgroupns="host",
            tmpfs={"/run": "exec,mode=755", "/run/lock": "", "/tmp": "exec,mode=1777"},
            volumes={"/etc/resolv.conf": {"bind": "/etc/resolv.conf", "mode": "ro"}},
            networking_config={
                self.name: self._engine.api.create_endpoint_config(ipv4_address=self.address(name))
            },
            network=self.name,
        )
        container.put_archive("/home/deploy/.ssh", _archive("authorized_keys", self._public_key))
        container.start()

    def address(self, name: str) -> str:
        """The address of a machine."""
        return f"{self._prefix}.{ADDRESSES[name]}"

    def container(self, name: str) -> Container:
        found: Container = self._engine.containers.get(f"{self.name}-{name.partition('.')[0]}")
        return found

    def wait_for_boot(self, name: str) -> None:
        """Return when everything that is started at a boot was started."""

        def settled() -> bool:
            _, said = self.container(name).exec_run(["systemctl", "is-system-running"])
            return said.decode().strip() in ("running", "degraded")

        wait_until(settled, f"{name} to boot", 60)

    def reboot(self) -> None:
        """All machines at once, as after a power cut of a second."""
        for name in ADDRESSES:
            # A connection that is kept would not notice that its other end is gone.
            command = ["ssh", "-F", str(self.ssh_config), "-O", "exit", name]
            subprocess.run(command, capture_output=True, timeout=10)
        for name in ADDRESSES:
            self.container(name).restart(timeout=60)
        for name in ADDRESSES:
            self.wait_for_boot(name)

    def wait_for_service(self, unit: str, names: Sequence[str], seconds: float = 120) -> None:
        """Return when the unit runs on all of these machines."""
        for name in names:
            service = self.host(name).service(unit)
            wait_until(lambda service=service: service.is_running, f"{unit} on {name}", seconds)

    def sh(self, name: str, script: str) -> str:
        """Run a script on a machine as root. Raises AssertionError with what it said."""
        code, said = self.container(name).exec_run(["bash", "-euo", "pipefail", "-c", script])
        text: str = said.decode(errors="replace")
        assert code == 0, f"{name}: {script}\n{text}"
        return text

    def host(self, name: str) -> Host:
        """The machine as testinfra sees it over ssh, with sudo."""
        if name not in self._connected:
            self._connected[name] = testinfra.get_host(
                f"ssh://{name}", ssh_config=str(self.ssh_config), sudo=True, controlpersist=0
            )
        return self._connected[name]

    def remove(self) -> None:
        """Take everything away, the control groups of the machines too."""
        wanted = {"label": f"{LABEL}={self.name}"}
        for container in self._engine.containers.list(all=True, filters=wanted):
            hostname = container.attrs["Config"]["Hostname"]
            container.remove(force=True, v=True)
            self._engine.containers.run(
                IMAGE,
                ["forget"],
                hostname=hostname,
                remove=True,
                network_mode="none",
                cap_add=["SYS_ADMIN"],
                security_opt=["seccomp=unconfined", "apparmor=unconfined"],
                cgroupns="host",
            )
        for network in self._engine.networks.list(filters=wanted):
            network.remove()
        shutil.rmtree(self._sockets)

    # -- the rollout

    def play(
        self,
        verb: str,
        *options: str,
        step: str = "",
        fails: bool = False,
        environment: str = ENVIRONMENT,
    ) -> Played:
        """Run a playbook as an operator does. Whatever comes of it, no secret is in its output."""
        began = time.monotonic()
        done = subprocess.run(
            ["scripts/rollout", verb, environment, *options],
            cwd=self.clone,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PLAY_SECONDS,
        )
        seconds = round(time.monotonic() - began, 1)
        output = done.stdout + done.stderr
        self.seconds[step or verb] = seconds
        self.refuse_secrets(output)
        if (done.returncode != 0) is not fails:
            raise PlayFailed(f"{verb} {' '.join(options)} ended with {done.returncode}\n{why(output)}")
        return Played(done.returncode, output, changes(output), seconds)

    def follow(self, runbook: str, **facts: str) -> None:
        """Type what a runbook says, with these values of its variables; no secret is in what is said.

        Raises Unmet for a command that does something else.
        """
        for command in parse((RUNBOOKS / "operations" / f"{runbook}.md").read_text("utf-8")).commands:
            began = time.monotonic()
            said = command.run(self.clone, self.environ() | facts, seconds=PLAY_SECONDS)
            self.refuse_secrets(said)
            first = command.script.partition("\n")[0]
            self.seconds[f"{runbook}: {first[:40].strip()}"] = round(time.monotonic() - began, 1)

    def environ(self) -> dict[str, str]:
        """The operator's shell: which deployment it is about, how machines are reached, who edits."""
        return os.environ | {
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_SSH_COMMON_ARGS": f"-F {self.ssh_config}",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._sockets),
            "EDITOR": str(self.directory / "editor"),
            "ENVIRONMENT": ENVIRONMENT,
        }

    def refuse_secrets(self, text: str) -> None:
        """Raise AssertionError if a secret of this deployment stands in a text, whoever it was."""
        files = [file for file in self.secrets.glob("*") if not file.name.endswith("valid_until")]
        found = [file.name for file in files if file.read_text().strip() in text]
        assert not found, f"the output holds {', '.join(found)}"

    # -- clients

    @property
    def url(self) -> str:
        """The front door, by its address."""
        return f"wss://{self.address(DATA)}/v1/ws"

    def tls(self) -> ssl.SSLContext:
        """What clients trust: the authority of the deployment, and the public name."""
        return trusting((self.authority / "ca.pem").read_text(), PUBLIC)

    def profile(self) -> Resolved:
        """What the profile says; secrets are left out."""
        return load(ENVIRONMENT, root=self.clone, environ={}, secrets_of=())

    def settings(self) -> Settings:
        """What it says, with the secrets of now."""
        environ = {"CREDENTIALS_DIRECTORY": str(self.secrets)}
        return load(ENVIRONMENT, root=self.clone, environ=environ).settings

    def token(self, subject: str) -> str:
        """A token of a service that may do everything in its tenant for an hour."""
        claims = Claims("demo", subject, 3600, "service", grants=[parse_grant("*:*")])
        return mint(self.settings(), claims)

    # -- files

    def _make_clone(self) -> None:
        copy_repository(self.clone)
        # Else the clone would bring the environment up to date, and itself into it.
        subprocess.run(["scripts/setup", "dev"], cwd=REPOSITORY, check=True, timeout=300)
        for name in (".venv", ".venv-ansible", ".cache"):
            (REPOSITORY / name).mkdir(exist_ok=True)
            (self.clone / name).symlink_to(REPOSITORY / name)
        key = self.directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
        self._public_key = key.with_suffix(".pub").read_bytes()

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    def _write_files(self) -> None:
        entries = [f"Host {name}\n  HostName {self.address(name)}\n" for name in ADDRESSES]
        self.ssh_config.write_text(
            "".join(entries) + "Host *\n"
            f"  User deploy\n  IdentityFile {self.directory / 'key'}\n  IdentitiesOnly yes\n"
            f"  StrictHostKeyChecking accept-new\n  UserKnownHostsFile {self.directory / 'known_hosts'}\n"
            "  ConnectTimeout 10\n  LogLevel ERROR\n"
            f"  ControlMaster auto\n  ControlPersist 60\n  ControlPath {self._sockets}/%C\n"
        )
        editor = self.directory / "editor"
        # In any inventory: the machines are the same, whatever their names end with.
        addresses = {name.partition(".")[0]: self.address(name) for name in ADDRESSES}
        lines = [
            f"s/^( *){name}\\.[a-z.]+:$/&\\n\\1  arqonbus_address: {address}/"
            for name, address in addresses.items()
        ]
        editor.write_text(
            "#!/bin/sh\nset -eu\n"
            # The names of the profile are those of the hosts here. What is waited for is shortened.
            'case $1 in *profile.yaml) exec sed -i "s/^server:$/&\\n  drain_seconds: 4/" "$1" ;; esac\n'
            "sed -i '/arqonbus_address:/d' \"$1\"\n"
            + "".join(f"sed -i -E '{line}' \"$1\"\n" for line in lines)
        )
        editor.chmod(0o755)


def why(output: str) -> str:
    """The tasks of a playbook that failed, and what follows them; all of it where none says so."""
    _, task, rest = output.partition("\nTASK ")
    while task and not _FAILURE.search(rest.partition(task)[0]):
        _, task, rest = rest.partition("\nTASK ")
    return (rest or output)[:8000]


def changes(output: str) -> dict[str, int]:
    """How many things a playbook changed on each host."""
    return {host: int(count) for host, count in _RECAP.findall(output)}


def _archive(name: str, content: bytes) -> bytes:
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o600, 1000, 1000
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


__all__ = [
    "ADDRESSES",
    "BUS",
    "DATA",
    "ENVIRONMENT",
    "PUBLIC",
    "REPOSITORY",
    "VALKEY",
    "Hosts",
    "PlayFailed",
    "Played",
    "changes",
]
