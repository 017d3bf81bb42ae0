"""Expectations where the bus runs: profile, credentials, release, and the services of both processes.

Reads the tree and the secrets of this machine, and asks no host by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from arqonbus.deploy.drift.certificates import certificate
from arqonbus.deploy.drift.deployment import Deployment, plain
from arqonbus.deploy.drift.hosts import belongs, content, only, runs
from arqonbus.deploy.drift.judges import MISSING, NOTHING, exactly, same_lines, same_secret
from arqonbus.deploy.drift.model import Expectation, Judge, Machine
from arqonbus.deploy.drift.services import is_written, runs_as_written, services
from arqonbus.deploy.needs import credentials, public_address
from arqonbus.deploy.units import CREDENTIALS, PROFILES

_TIMERS = ("arqonbus-backup.timer", "arqonbus-drill.timer")
# The packages of the release that runs, and the files of its own package that are not as they were installed.
_INSTALLED = """/opt/arqonbus/current/bin/python - <<'END'
import base64, hashlib
from importlib.metadata import distribution, distributions
for each in distributions():
    print(f"{each.name}=={each.version}")
for file in distribution("arqonbus").files or ():
    if file.hash is not None:
        try:
            digest = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
        except OSError:
            digest = b""
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            print(f"changed {file}")
END"""


def on_a_bus_host(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    """Expectations of a host of the bus."""
    resolved, site = deployment.resolved, deployment.rollout("site")
    bus, projector = services(resolved)
    yield from is_written(bus, site)
    yield from is_written(projector, site)
    yield from _profile(deployment, machine)
    yield from _secrets(deployment, machine)
    for timer in _TIMERS:
        yield runs(timer, machine)
    yield from _release(deployment, machine)
    yield from runs_as_written(bus, deployment, machine)
    if resolved.settings.projector.projects:
        yield from runs_as_written(projector, deployment, machine)
    if machine.authority is not None and machine.address:
        tls = resolved.settings.server.tls
        if tls.enabled:
            yield from certificate(
                str(tls.cert_file),
                "arqonbus",
                machine.authority,
                (public_address(resolved.settings)[0], machine.name),
                f"{machine.address}:{resolved.settings.server.port}",
                site,
            )


def _profile(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    name, site = deployment.resolved.profile, deployment.rollout("site")
    written = set()
    for relative in ("base.yaml", f"{name}/profile.yaml", f"{name}/waivers.yaml"):
        file = deployment.tree / "profiles" / relative
        if file.exists():
            path = f"{PROFILES}/{relative}"
            written.add(path)
            yield content(path, file.read_text("utf-8"), site)
            yield belongs(path, "root", "root", "0644", site)
    yield only(PROFILES, written, machine)


def _secrets(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    site = deployment.rollout("site")
    yield belongs(CREDENTIALS, "root", "root", "0700", site)
    names = {*credentials(deployment.resolved), "valkey_backup_password"}
    if any("jwt_secret_previous" in file.content for file in machine.files):
        names.add("jwt_secret_previous")
    yield Expectation(
        "ARQ-DRF-003",
        CREDENTIALS,
        f"ls -A {CREDENTIALS}",
        same_lines(names),
        lambda found: site if found == MISSING else machine.type_on(f"rm {CREDENTIALS}/{found}"),
    )
    for each in sorted(names):
        path = f"{CREDENTIALS}/{each}"
        yield Expectation(
            "ARQ-DRF-004", path, f"stat --format '%U:%G %#04a' {path}", exactly("root:root 0400"), site
        )
        if machine.secrets is not None:
            successor, present = machine.secrets / f"{each}.next", machine.secrets / each
            secret = (successor if successor.exists() else present).read_text("utf-8").rstrip("\n") + "\n"
            digest = hashlib.sha256(secret.encode()).hexdigest()
            yield Expectation("ARQ-DRF-004", path, f"sha256sum {path}", same_secret(digest), site)


def _release(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    yield Expectation(
        "ARQ-DRF-020",
        "/opt/arqonbus/current",
        "readlink /opt/arqonbus/current",
        exactly(f"releases/{deployment.release}"),
        f"{machine.type_on('rm -f /opt/arqonbus/good.fingerprint')} && {deployment.rollout('deploy')}",
    )
    if deployment.packages:
        release = f"/opt/arqonbus/releases/{deployment.release}"
        yield Expectation(
            "ARQ-DRF-021",
            release,
            _INSTALLED,
            packages({**deployment.packages, "arqonbus": deployment.release}, deployment.optional),
            f"{deployment.rollout('drain')} --limit {machine.name} && "
            f"{machine.type_on(f'rm {release}/.complete')} && {deployment.rollout('deploy')}",
        )


def packages(locked: dict[str, str], optional: frozenset[str]) -> Judge:
    """Lines `name==version` of what is installed, and `changed FILE`."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found = {}
        for line in answer.splitlines():
            name, separator, version = line.partition("==")
            if separator:
                found[plain(name)] = version
            elif line:
                yield "the file as it was installed", line
        for name in sorted({*locked, *found}):
            wanted, there = locked.get(name, NOTHING), found.get(name, NOTHING)
            if wanted != there and not (there is NOTHING and name in optional):
                yield f"{name} {wanted}", f"{name} {there}"

    return judge


__all__ = ["on_a_bus_host", "packages"]
