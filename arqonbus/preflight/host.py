"""Gather the facts of this host once, before any check runs.

Reads files, and opens and closes the ports. Changes nothing, and never raises: a failed look-up is a fact.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import resource
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import arqonbus
from arqonbus import __version__
from arqonbus.config import Settings
from arqonbus.config.document import MAX_BYTES
from arqonbus.config.provenance import value_at
from arqonbus.config.regular_file import NotRegular, read_regular
from arqonbus.preflight.alerts import alerts_below
from arqonbus.preflight.facts import (
    BackupFact,
    DiskFact,
    HostFacts,
    PortFact,
    Process,
    RequirementFact,
)
from arqonbus.preflight.files import certificates, files, keys, revocations_problem, unusable
from arqonbus.preflight.fingerprint import fingerprint
from arqonbus.preflight.intake import Intake

OVERLAY = Path("/etc/arqonbus/local.yaml")
UNITS = Path("/etc/systemd/system")

_TIME_ERROR = 5
_TIMEX_BYTES = 256


def gather(intake: Intake, process: Process = "bus") -> HostFacts:
    """Gather the facts for one profile."""
    settings, root = intake.resolved.settings, intake.root
    stop, source = _stop_timeout(UNITS)
    receipts = _receipts(intake)
    own = receipts.get(settings.environment, {})
    nofile, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HostFacts(
        hostname=socket.gethostname(),
        uid=os.geteuid(),
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        version=__version__,
        built_at=Path(arqonbus.__file__).stat().st_mtime,
        nofile=_unlimited(nofile),
        nofile_hard=_unlimited(hard),
        memory_bytes=_memory(),
        clock_synchronised=_clock_synchronised(),
        somaxconn=_number_in(Path("/proc/sys/net/core/somaxconn")),
        stop_seconds=stop,
        stop_source=source,
        undeclared_overlay=str(OVERLAY) if settings.host_overlay is None and OVERLAY.exists() else "",
        last_version=str(own.get("version", "")),
        last_version_source=str(own.get("path", "")),
        files=tuple(files(intake)),
        certificates=tuple(certificates(settings, root)),
        keys=tuple(keys(settings, root)),
        process=process,
        ports=tuple(_ports(settings, process)),
        disks=tuple(_disks(settings, root)),
        backup=_backup(root / settings.backup.directory) if settings.backup.directory else None,
        requirements=tuple(_requirements()),
        alerts=alerts_below(root),
        secret_fingerprints=_other_secrets(intake, receipts),
        unusable=tuple(unusable(settings, root)),
        revocations_problem=revocations_problem(settings, root),
    )


def _unlimited(limit: int) -> int:
    return 2**31 if limit == resource.RLIM_INFINITY else limit


# -- ports


def _ports(settings: Settings, process: Process) -> Iterator[PortFact]:
    """The ports that this process would open; the other process on the host has its own."""
    if process == "projector":
        yield _port("projector.telemetry_port", settings.telemetry.host, settings.projector.telemetry_port)
        return
    yield _port("server.port", settings.server.host, settings.server.port)
    yield _port("telemetry.port", settings.telemetry.host, settings.telemetry.port)


def _port(key: str, host: str, port: int) -> PortFact:
    def fact(state: Any, reason: str = "") -> PortFact:
        return PortFact(key=key, host=host, port=port, state=state, reason=reason)

    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        return fact("not_here", f"cannot be resolved ({error})")
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return fact("not_here", "is not an address of this host")
            if error.errno == errno.EADDRINUSE:
                ours = _held_by_us(port)
                return fact("ours" if ours else "taken", "is in use by another process")
            return fact("refused", f"cannot be opened ({error.strerror})")
    return fact("free")


def _held_by_us(port: int) -> bool:
    """True if this process already listens there: by socket activation, or during a reload."""
    for handle in (int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
        try:
            if not stat.S_ISSOCK(os.fstat(handle).st_mode):
                continue
            with socket.socket(fileno=os.dup(handle)) as held:
                internet = held.family in (socket.AF_INET, socket.AF_INET6)
                listens = held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if internet and listens and held.getsockname()[1] == port:
                    return True
        except OSError:  # closed in the meantime
            continue
    return False


# -- memory, limits, clock


def _memory() -> int:
    """The memory limit of this process in bytes: the lower one of the host's and the control group's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [
        _number_in(Path(path))
        for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    ]
    return min([total, *(limit for limit in limits if limit is not None)])


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _clock_synchronised() -> bool | None:
    # adjtimex(2) with modes 0 only reads, and works in a container, unlike timedatectl.
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def _stop_timeout(units: Path) -> tuple[float | None, str]:
    for unit in sorted(units.glob("arqonbus*.service*/*.conf")) + sorted(units.glob("arqonbus*.service")):
        try:
            found = re.search(
                r"^\s*TimeoutStopSec\s*=\s*([0-9]+)\s*(s|sec|min|m)?\s*$", unit.read_text("utf-8"), re.M
            )
        except (OSError, UnicodeDecodeError):
            continue
        if found:
            return float(found[1]) * (60 if found[2] in ("m", "min") else 1), str(unit)
    return None, ""


def _disks(settings: Settings, root: Path) -> Iterator[DiskFact]:
    named = [("state_dir", settings.state_dir), ("backup.directory", settings.backup.directory)]
    for key, path in named:
        if path is not None:
            yield _disk(key, root / path)


def _disk(key: str, path: Path) -> DiskFact:
    there = next((each for each in (path, *path.parents) if each.exists()), Path("/"))
    exists = there == path
    figures = os.statvfs(there)
    return DiskFact(
        key=key,
        path=str(path),
        exists=exists,
        writable=os.access(there, os.W_OK | os.X_OK),
        mode=stat.S_IMODE(there.stat().st_mode) if exists else 0o700,
        free_bytes=figures.f_bavail * figures.f_frsize,
        total_bytes=figures.f_blocks * figures.f_frsize,
        free_inodes=figures.f_favail,
        total_inodes=figures.f_files,
    )


# -- backups


def _backup(directory: Path) -> BackupFact:
    try:
        entries = sorted(directory.iterdir())
        mode = stat.S_IMODE(directory.stat().st_mode)
    except FileNotFoundError:
        return BackupFact(path=str(directory), state="missing")
    except OSError:
        return BackupFact(path=str(directory), state="unreadable")
    drills = [entry for entry in entries if entry.name.startswith("drill") and entry.suffix == ".json"]
    backups = [entry for entry in entries if entry not in drills and not entry.name.startswith(".")]
    newest = max(backups, key=lambda entry: entry.lstat().st_mtime, default=None)
    drill, moment, passed = _newest_drill(drills)
    return BackupFact(
        path=str(directory),
        mode=mode,
        newest=newest.name if newest else "",
        newest_at=newest.lstat().st_mtime if newest else None,
        newest_bytes=_size(newest) if newest else 0,
        drill=drill,
        drill_at=moment,
        drill_passed=passed,
    )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(each.lstat().st_size for each in path.rglob("*") if each.is_file())
    return path.lstat().st_size


def _newest_drill(drills: list[Path]) -> tuple[str, float | None, bool | None]:
    found: tuple[str, float | None, bool | None] = ("", None, None)
    for drill in drills:
        receipt = _json(drill)
        moment: Any = receipt.get("finished_at")
        try:
            at = datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else float(moment)
        except (TypeError, ValueError):
            at = drill.stat().st_mtime
        if found[1] is None or at > found[1]:
            found = (drill.name, at, receipt.get("passed") is True)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(path, MAX_BYTES, follow_links=True).raw)
    except (OSError, NotRegular, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# -- receipts and alert rules


def _receipts(intake: Intake) -> Mapping[str, Mapping[str, Any]]:
    """The newest receipt of each environment, from state_dir and the profile directories."""
    found: dict[str, dict[str, Any]] = {}
    places = [intake.root / intake.resolved.settings.state_dir / "receipt.json"]
    if intake.profile_file is not None:
        places += sorted(intake.profile_file.parent.parent.glob("*/receipt.json"))
    for path in places:
        receipt = _json(path)
        name = receipt.get("environment")
        if isinstance(name, str) and name not in found:
            found[name] = {**receipt, "path": str(path)}
    return found


def _other_secrets(intake: Intake, receipts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    own = intake.resolved.settings.environment
    found = {
        name: str(receipt["secret_fingerprint"])
        for name, receipt in receipts.items()
        if name != own and isinstance(receipt.get("secret_fingerprint"), str)
    }
    if own == "dev" or intake.profile_file is None:
        return found
    for path in sorted(intake.profile_file.parent.parent.glob("*/profile.yaml")):
        literal = _literal_secret(path)
        if literal and path != intake.profile_file:
            found.setdefault(path.parent.name, fingerprint(literal))
    return found


def _literal_secret(path: Path) -> str:
    from arqonbus.config import ConfigError
    from arqonbus.config.layer import LayerFile, read_layer

    try:
        value = value_at(read_layer(LayerFile("other", path, str(path))).data, ("auth", "jwt", "secret"))
    except ConfigError:
        return ""  # reported by that profile's own preflight
    return value if isinstance(value, str) else ""


# -- libraries


def _requirements() -> Iterator[RequirementFact]:
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        lines = requires("arqonbus") or []
    except PackageNotFoundError:
        return
    for line in lines:
        match = re.fullmatch(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(;.*)?", line)
        if match is None or (match[3] and "extra" in match[3]):
            continue
        name, wanted = match[1], match[2].strip()
        try:
            found = version(name)
        except PackageNotFoundError:
            yield RequirementFact(name=name, wanted=wanted, found=None, fits=False)
        else:
            yield RequirementFact(name=name, wanted=wanted, found=found, fits=_fits(found, wanted))


def _fits(found: str, wanted: str) -> bool:
    """Return whether a version meets bounds such as `>=1.2,<2`; other forms count as met."""
    have = _release(found)
    for bound in wanted.split(","):
        match = re.fullmatch(r"\s*(>=|<|==|>|<=)\s*([0-9][0-9.]*)\s*", bound)
        if match is None:
            continue
        limit = _release(match[2])
        order = (have > limit) - (have < limit)
        allowed = {">=": order >= 0, "<": order < 0, "==": order == 0, ">": order > 0, "<=": order <= 0}
        if not allowed[match[1]]:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else [0]
    return (*numbers, *([0] * (6 - len(numbers))))


__all__ = ["OVERLAY", "gather"]
