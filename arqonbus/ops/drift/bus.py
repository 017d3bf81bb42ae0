"""What is expected where the bus runs: profile, unit, credentials, release, process, receipt.

Reads the tree and the secrets of this machine, and asks no host by itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from shlex import quote

from arqonbus.config.capacity import open_files
from arqonbus.ops.drift.certificates import certificate
from arqonbus.ops.drift.deployment import Deployment, plain
from arqonbus.ops.drift.hosts import UNITS, belongs, content, only, runs
from arqonbus.ops.drift.judges import (
    MISSING,
    NOTHING,
    at_most,
    exactly,
    same_lines,
    same_secret,
    same_values,
    values,
)
from arqonbus.ops.drift.model import Expectation, Judge, Machine
from arqonbus.ops.drift.processes import has_no_rights, status_of
from arqonbus.ops.needs import credentials
from arqonbus.ops.units import CREDENTIALS, PROFILES, bus_unit
from arqonbus.preflight.receipt import FRESH_SECONDS

UNIT = "arqonbus@1.service"
UNIT_FILE = f"{UNITS}/arqonbus@.service"
STATE = "/var/lib/arqonbus/1"
PHASES = ["host", "online", "static"]
EXPOSURE = 1.5
# What systemd can be told at run time, past the file.
_LIMITS = ("LimitNOFILE", "LimitCORE", "TasksMax", "MemoryHigh", "MemoryMax")
_MAIN_PID = f"$(systemctl show --property MainPID --value {UNIT})"
_STARTED = f"systemctl show --property ExecMainStartTimestamp --value {UNIT}"
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
    """What holds for a host of the bus."""
    resolved, site = deployment.resolved, deployment.rollout("site")
    unit = bus_unit(resolved)
    yield content(UNIT_FILE, unit, site)
    yield belongs(UNIT_FILE, "root", "root", "0644", site)
    yield from _profile(deployment, machine)
    yield from _secrets(deployment, machine)
    yield runs(UNIT, machine)
    for timer in _TIMERS:
        yield runs(timer, machine)
    yield from _as_systemd_has_it(unit, machine)
    yield from _release(deployment, machine)
    yield Expectation(
        "ARQ-DRF-022",
        UNIT,
        f"cat /proc/{_MAIN_PID}/status /proc/{_MAIN_PID}/limits; echo arqonbus=$(id -u arqonbus)",
        _process(open_files(resolved.settings)),
        _restart(deployment, machine),
    )
    yield Expectation(
        "ARQ-DRF-022",
        "exposure",
        f"systemd-analyze security --no-pager {UNIT} | tail -n 1",
        at_most(EXPOSURE, r"exposure level for \S+: ([0-9.]+)"),
        site,
    )
    yield Expectation(
        "ARQ-DRF-023",
        f"{STATE}/receipt.json",
        f'echo "receipt=$(tr -d "\\n" <{STATE}/receipt.json 2>/dev/null)"\n'
        f'echo "started=$(date -d "$({_STARTED})" +%s)"\n'
        f'echo "digest=$(/usr/local/bin/arqonbus profile digest --profile {quote(resolved.profile)})"',
        passed_preflight,
        _restart(deployment, machine),
    )
    if machine.authority is not None and machine.address:
        tls = resolved.settings.server.tls
        if tls.cert_file is not None:
            yield from certificate(
                str(tls.cert_file),
                "arqonbus",
                machine.authority,
                (deployment.public_name, machine.name),
                f"{machine.address}:{resolved.settings.server.port}",
                site,
            )


def _restart(deployment: Deployment, machine: Machine) -> str:
    """Through the whole way: out of the load balancer, drained, preflight, verified, and back in."""
    return f"{machine.type_on('rm -f /opt/arqonbus/good.fingerprint')} && {deployment.rollout('deploy')}"


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


def _as_systemd_has_it(unit: str, machine: Machine) -> Iterator[Expectation]:
    """What systemd was told by drop-ins or at run time stands in no file of ours."""
    declared = dict(line.split("=", 1) for line in unit.splitlines() if line.partition("=")[0] in _LIMITS)
    declared["NeedDaemonReload"] = "no"
    overlay = [file.path for file in machine.files if file.path.startswith(f"{UNIT_FILE}.d/")]
    if overlay:
        declared["DropInPaths"] = " ".join(overlay)
    forget, reload = "rm -rf /run/systemd/system.control", "systemctl daemon-reload"
    mend = f"{machine.type_on(forget)} && {machine.type_on(reload)}"
    yield Expectation(
        "ARQ-DRF-007",
        UNIT,
        f"systemctl show --property {','.join([*_LIMITS, 'NeedDaemonReload', 'DropInPaths'])} {UNIT}",
        same_values(declared),
        mend,
    )


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


def _process(files: int) -> Judge:
    def judge(answer: str) -> Iterator[tuple[str, str]]:
        status = status_of(answer)
        yield from has_no_rights(status)
        owner, wanted = status.get("Uid", "").split()[:1], values(answer).get("arqonbus", "")
        if owner != [wanted]:
            yield f"uid {wanted} (arqonbus)", f"uid {''.join(owner) or NOTHING}"
        limit = re.search(r"Max open files\s+(\S+)", answer)
        if limit is None or limit[1] != str(files):
            yield f"{files} open files", f"{limit[1] if limit else NOTHING} open files"

    return judge


def passed_preflight(answer: str) -> Iterator[tuple[str, str]]:
    """The receipt is of all phases, of the settings as they are, and was fresh when the bus started."""
    said = values(answer)
    try:
        receipt = json.loads(said.get("receipt", ""))
        at, started = int(receipt["at"]), int(said["started"])
    except (ValueError, KeyError, TypeError):
        yield "a receipt of a preflight that passed", "none that can be read"
        return
    if receipt.get("digest") != said.get("digest"):
        yield "a receipt of the settings as they are", "one of other settings"
    if receipt.get("phases") != PHASES:
        yield f"a receipt of {', '.join(PHASES)}", f"one of {', '.join(receipt.get('phases', [])) or NOTHING}"
    if receipt.get("waived"):
        yield "nothing waived", f"waived: {', '.join(receipt['waived'])}"
    if not -60 <= started - at <= FRESH_SECONDS:
        yield (
            f"a receipt within {FRESH_SECONDS:g} s before the start",
            f"one of {abs(started - at) / 3600:.1f} hours {'before' if started > at else 'after'} it",
        )


__all__ = ["UNIT", "on_a_bus_host", "packages", "passed_preflight"]
