"""Facts of a host and answers of servers, as plain values that can be written to and read from a file.

They contain no secrets, at most a fingerprint of one. Pure except `read_facts`, which reads one file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

FACTS_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class FileFact:
    """A file that the profile names, or a file of the profile itself."""

    key: str
    path: str
    state: Literal["file", "directory", "missing", "unreadable", "other"]
    mode: int = 0
    owner: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateFact:
    """The first certificate of a file, whether it matches its key, and whether its chain is complete."""

    key: str
    path: str
    problem: Literal["", "not_pem", "holds_key"] = ""
    subject: str = ""
    names: tuple[str, ...] = ()
    not_before: float = 0.0
    not_after: float = 0.0
    authority: bool = False
    self_signed: bool = False
    chain_complete: bool = True
    for_servers: bool = True
    key_kind: str = ""
    key_bits: int = 0
    signature_hash: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyFact:
    """A private key. `matches`: whether it belongs to the certificate that is configured with it."""

    key: str
    path: str
    problem: Literal["", "not_pem", "holds_certificate", "encrypted"] = ""
    mode: int = 0o600
    owner: int = 0
    matches: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PortFact:
    """True if the bus can listen on an address."""

    key: str
    host: str
    port: int
    state: Literal["free", "ours", "taken", "not_here", "refused"]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class DiskFact:
    """The file system of a directory that the bus writes to."""

    key: str
    path: str
    exists: bool = True
    writable: bool = True
    mode: int = 0o700
    free_bytes: int = 0
    total_bytes: int = 0
    free_inodes: int = 0
    total_inodes: int = 0


@dataclass(frozen=True, kw_only=True)
class BackupFact:
    """The newest backup and the last restore drill of a directory. Times are Unix seconds."""

    path: str
    state: Literal["directory", "missing", "unreadable"] = "directory"
    mode: int = 0o750
    newest: str = ""
    newest_at: float | None = None
    newest_bytes: int = 0
    drill: str = ""
    drill_at: float | None = None
    drill_passed: bool | None = None


@dataclass(frozen=True, kw_only=True)
class RequirementFact:
    """A library that this version requires, and the installed version."""

    name: str
    wanted: str
    found: str | None
    fits: bool


@dataclass(frozen=True, kw_only=True)
class AlertFact:
    """An alert rule, and whether its runbook exists."""

    name: str
    file: str
    runbook: str
    exists: bool


# The process that is about to start; both may run on one host.
Process = Literal["bus", "projector"]


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """Facts of one host that matter for the profile and the process to start."""

    hostname: str
    uid: int
    python: tuple[int, int, int]
    version: str
    built_at: float
    nofile: int
    nofile_hard: int
    memory_bytes: int
    process: Process = "bus"
    clock_synchronised: bool | None = None
    somaxconn: int | None = None
    stop_seconds: float | None = None
    stop_source: str = ""
    undeclared_overlay: str = ""
    last_version: str = ""
    last_version_source: str = ""
    files: tuple[FileFact, ...] = ()
    certificates: tuple[CertificateFact, ...] = ()
    keys: tuple[KeyFact, ...] = ()
    ports: tuple[PortFact, ...] = ()
    disks: tuple[DiskFact, ...] = ()
    backup: BackupFact | None = None
    requirements: tuple[RequirementFact, ...] = ()
    alerts: tuple[AlertFact, ...] | None = None
    secret_fingerprints: Mapping[str, str] = field(default_factory=dict)
    unusable: tuple[str, ...] = ()  # error texts of invalid schemas, keys and policies
    revocations_problem: str = ""


FailureKind = Literal[
    "not_configured",
    "no_such_name",
    "refused",
    "unreachable",
    "silent",
    "closed",
    "wrong_protocol",
    "no_tls",
    "wants_tls",
    "certificate_untrusted",
    "certificate_name",
    "certificate_expired",
    "client_certificate",
    "wrong_password",
    "no_password",
    "no_database",
    "not_ready",
    "full",
    "other",
]


@dataclass(frozen=True, kw_only=True)
class ProbeFailure:
    """A server that could not be used: the kind, a sentence without its full stop, and commands for a fix."""

    kind: FailureKind
    text: str
    fix: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SlotRange:
    """A range of cluster slots (inclusive) and the primary that serves it."""

    first: int
    last: int
    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class SentinelAnswers:
    """Answer of one sentinel about the primary: address, flags, and why no failover is possible."""

    where: str
    failure: ProbeFailure | None = None
    primary: str = ""
    replicas: int = 0
    flags: str = "master"
    quorum_problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ValkeyAnswers:
    """Answers of Valkey. A None value was not queried, or the user may not read it.

    `ranges` is the slot map of a cluster, and `nodes` are the answers of its other primaries. `sentinels` are
    those of the profile; the other values then come from the primary that they name.
    """

    where: str
    failure: ProbeFailure | None = None
    version: str = ""
    user: str = ""
    anonymous: bool = False
    encrypted: bool = False
    role: str = "master"
    cluster: bool = False
    ranges: tuple[SlotRange, ...] = ()
    nodes: tuple[ValkeyAnswers, ...] = ()
    sentinels: tuple[SentinelAnswers, ...] = ()
    library: int | None = None
    aof: bool | None = None
    settings: Mapping[str, str] | None = None
    info: Mapping[str, str] | None = None
    refused: tuple[str, ...] = ()
    probe_problem: str = ""
    probe_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class PostgresAnswers:
    """Answers of Postgres."""

    where: str
    failure: ProbeFailure | None = None
    version: int = 0
    encrypted: bool = False
    role: str = ""
    superuser: bool = False
    may_create: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "UTF8"
    recovering: bool = False
    connections: int = 0
    clock_ahead: float = 0.0
    pending: tuple[str, ...] = ()
    pending_contract: tuple[str, ...] = ()
    refused: str = ""
    probe_problem: str = ""
    probe_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class NatsAnswers:
    """Answers of NATS: its greeting, and the bridge's stream if a bridge is configured.

    `stream_subjects` None: the stream does not exist. `dead_letters_held`: a stream covers their subject.
    """

    where: str
    failure: ProbeFailure | None = None
    version: str = ""
    encrypted: bool = False
    auth_required: bool = False
    max_payload: int = 0
    jetstream_problem: str = ""
    stream_subjects: tuple[str, ...] | None = None
    dead_letters_held: bool = False
    probe_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All gathered facts, and the time in Unix seconds. None: not gathered."""

    gathered_at: float
    host: HostFacts | None = None
    valkey: ValkeyAnswers | None = None
    postgres: PostgresAnswers | None = None
    nats: NatsAnswers | None = None


class FactsUnreadable(Exception):
    """A file without valid facts; the message is a sentence."""


def facts_text(facts: Facts) -> str:
    """The facts as JSON; the same facts give the same bytes."""
    return json.dumps(dataclasses.asdict(facts), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_facts(path: Path) -> Facts:
    """Read the facts from a file that `--capture` wrote. Raises FactsUnreadable."""
    # Needed for captured facts only, and slow to build.
    from pydantic import TypeAdapter, ValidationError

    from arqonbus.config.regular_file import NotRegular, read_regular

    try:
        raw = read_regular(path, FACTS_BYTES, follow_links=True).raw
    except NotRegular:
        raise FactsUnreadable(f"{path} is not a regular file; give the facts.json of a capture") from None
    except OSError as error:
        raise FactsUnreadable(
            f"{path} cannot be read ({error.strerror}); give the facts.json of a capture"
        ) from error
    if len(raw) > FACTS_BYTES:
        raise FactsUnreadable(f"{path} is too large for a facts file; give the facts.json of a capture")
    try:
        return TypeAdapter(Facts).validate_json(raw)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its top"
        raise FactsUnreadable(
            f"{path} does not contain valid facts: at {place}, {first['msg'].lower()}; "
            "write it with `arqonbus preflight --capture DIR`"
        ) from None


__all__ = [
    "AlertFact",
    "BackupFact",
    "CertificateFact",
    "DiskFact",
    "Facts",
    "FactsUnreadable",
    "FailureKind",
    "FileFact",
    "HostFacts",
    "KeyFact",
    "NatsAnswers",
    "PortFact",
    "PostgresAnswers",
    "ProbeFailure",
    "RequirementFact",
    "ValkeyAnswers",
    "facts_text",
    "read_facts",
]
