"""Facts of a host and answers of servers, as plain values that can be written to a file and read again.

Holds no secret: a secret is there as a fingerprint at most. Pure but for `read_facts`, which reads one file.
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
    """A file that the profile names, or that belongs to it."""

    key: str
    path: str
    state: Literal["file", "directory", "missing", "unreadable", "other"]
    mode: int = 0
    owner: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateFact:
    """The first certificate of a file, and how it stands to its key and to the rest of the file."""

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
    """A private key. `matches` tells whether it belongs to the certificate beside it."""

    key: str
    path: str
    problem: Literal["", "not_pem", "holds_certificate", "encrypted"] = ""
    mode: int = 0o600
    owner: int = 0
    matches: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PortFact:
    """Whether an address can be listened on."""

    key: str
    host: str
    port: int
    state: Literal["free", "ours", "taken", "not_here", "refused"]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class DiskFact:
    """The file system under a directory that is written to."""

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
    """The newest backup and the last restore drill of a directory. Moments are Unix seconds."""

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
    """A library that this version needs, and the version that is installed."""

    name: str
    wanted: str
    found: str | None
    fits: bool


@dataclass(frozen=True, kw_only=True)
class AlertFact:
    """An alert of the rules, and whether its runbook is there."""

    name: str
    file: str
    runbook: str
    exists: bool


# Which of ours is to be started; both may run on one host.
Process = Literal["bus", "projector"]


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """One machine, as far as the profile and the process that is to be started concern it."""

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
    unusable: tuple[str, ...] = ()  # sentences: schemas, keys and a policy that nothing can be judged by
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
    """Why a server could not be used: the kind, a sentence without its end, and what to type."""

    kind: FailureKind
    text: str
    fix: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SlotRange:
    """Slots of a cluster, both ends included, and the primary that serves them."""

    first: int
    last: int
    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class SentinelAnswers:
    """What one sentinel said of our primary: where it is, its flags, and why it could not be replaced."""

    where: str
    failure: ProbeFailure | None = None
    primary: str = ""
    replicas: int = 0
    flags: str = "master"
    quorum_problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ValkeyAnswers:
    """What Valkey said. None: it was not asked, or its user may not ask.

    `ranges` is the map of a cluster, and `nodes` what its other primaries said. `sentinels` are those of the
    profile; then the rest is the word of the primary that they name.
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
    """What Postgres said."""

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
    """What NATS said in its greeting, and of the bridge's stream where there is a bridge.

    `stream_subjects` None: there is no such stream. `dead_letters_held`: some stream holds their subject.
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
    """Everything that was gathered, and when (Unix seconds). What is None was not gathered."""

    gathered_at: float
    host: HostFacts | None = None
    valkey: ValkeyAnswers | None = None
    postgres: PostgresAnswers | None = None
    nats: NatsAnswers | None = None


class FactsUnreadable(Exception):
    """A file that holds no facts; the message is a sentence."""


def facts_text(facts: Facts) -> str:
    """The facts as JSON, the same bytes for the same facts."""
    return json.dumps(dataclasses.asdict(facts), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_facts(path: Path) -> Facts:
    """The facts of a file that `--capture` wrote. Raises FactsUnreadable."""
    # Needed for captured facts only, and not cheap to build.
    from pydantic import TypeAdapter, ValidationError

    from arqonbus.config.regular_file import NotRegular, read_regular

    try:
        raw = read_regular(path, FACTS_BYTES, follow_links=True).raw
    except NotRegular:
        raise FactsUnreadable(f"{path} is not a regular file; name the facts.json of a capture") from None
    except OSError as error:
        raise FactsUnreadable(f"{path} cannot be read ({error.strerror}); name a file of facts") from error
    if len(raw) > FACTS_BYTES:
        raise FactsUnreadable(f"{path} is larger than facts are; name the facts.json of a capture")
    try:
        return TypeAdapter(Facts).validate_json(raw)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its top"
        raise FactsUnreadable(
            f"{path} does not hold facts: at {place}, {first['msg'].lower()}; "
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
