"""Capacity that a profile needs: memory, open files, storage, processors.

Used by preflight (compared with the host), by the systemd unit (limits) and by `arqonbus capacity`. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from arqonbus.config.settings import Settings

FULL_QUEUES = 0.02  # fraction of all clients that may be slow at the same time
# Ratio of MemoryMax (the kernel kills the bus) to MemoryHigh (systemd throttles it).
MARGIN = 1.25
# A projector decodes one batch while another is committed; the bytes bound each batch.
PROJECTOR_BATCHES = 2
PROJECTOR_BATCH_BYTES = 8 * 2**20
DAY_SECONDS = 86_400
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Figures:
    """Measured costs; the defaults are those of benchmarks/RESULTS.md and benchmarks/CAPACITY.md."""

    worker_bytes: int = 192 * 2**20
    connection_bytes: int = 24 * 1024  # session and socket buffers of one idle client
    tls_bytes: int = 56 * 1024  # of a connection with TLS on the bus
    projector_bytes: int = 128 * 2**20
    batch_copies: int = 8  # bytes read, messages, events, rows, and memory kept by the allocator
    delivery_us: float = 3.74  # 50 rooms of 5 members, 4 messages in flight in each
    connect_us: float = 1000.0  # handshake without TLS, token, session
    entry_bytes: int = 315  # a message in Valkey, without its payload
    event_bytes: int = 545  # an event of an episode in Postgres, with its indexes
    source: str = "documented"


DOCUMENTED = Figures()


@dataclass(frozen=True, slots=True)
class ExpectedLoad:
    """Expected load of all nodes together."""

    connections: int
    publishes: float  # per second
    members: float  # per room; each gets every message
    size: int  # bytes of a payload
    rooms: int
    events: float  # of episodes, per second


@dataclass(frozen=True, slots=True)
class Bill:
    """Required capacity: memory and files per node; storage and cores for all nodes."""

    nodes: int
    memory_bytes: int
    memory_max_bytes: int | None
    projector_bytes: int
    open_files: int
    valkey_bytes: int | None
    postgres_bytes_per_day: int
    deliveries: float
    deliveries_per_core: float
    cores: float


def memory_bill(settings: Settings, figures: Figures = DOCUMENTED) -> int:
    """Memory in bytes of one node with all its connections, a few of them slow."""
    clients = settings.server.max_connections
    connection = figures.connection_bytes + figures.tls_bytes * settings.server.tls.enabled
    queues = clients * FULL_QUEUES * settings.limits.send_queue_bytes
    kept = settings.storage.degraded_max_bytes if _degrades(settings) else 0
    return round(figures.worker_bytes * settings.server.workers + clients * connection + queues + kept)


def memory_limit(settings: Settings) -> int | None:
    """MemoryMax of a node in bytes; None if rooms are held in memory, which no setting bounds."""
    in_memory = settings.storage.backend == "memory" or any(
        rule.durability == "memory" for rule in settings.rooms
    )
    return None if in_memory else round(memory_bill(settings) * MARGIN)


def projector_bill(settings: Settings, figures: Figures = DOCUMENTED) -> int:
    """Memory in bytes of one projector: the process, and full batches with all their copies.

    A batch may exceed its limit by one event of the largest size.
    """
    batch = PROJECTOR_BATCH_BYTES + settings.protocol.max_frame_bytes
    return figures.projector_bytes + PROJECTOR_BATCHES * batch * figures.batch_copies


def projector_limit(settings: Settings) -> int:
    """MemoryMax of a projector in bytes."""
    return round(projector_bill(settings) * MARGIN)


def open_files(settings: Settings) -> int:
    """Open files of the bus: connections plus a fifth for logs, stores and listeners."""
    return -(-settings.server.max_connections * 6 // 5)


def bill(settings: Settings, load: ExpectedLoad, figures: Figures = DOCUMENTED) -> Bill:
    """Capacity for a load."""
    deliveries = load.publishes * load.members
    per_core = MICRO / figures.delivery_us
    return Bill(
        nodes=max(1, math.ceil(load.connections / settings.server.max_connections)),
        memory_bytes=memory_bill(settings, figures),
        memory_max_bytes=memory_limit(settings),
        projector_bytes=projector_bill(settings, figures),
        open_files=open_files(settings),
        valkey_bytes=_valkey_bytes(settings, load, figures),
        postgres_bytes_per_day=round(load.events * DAY_SECONDS * figures.event_bytes),
        deliveries=deliveries,
        deliveries_per_core=per_core,
        cores=deliveries / per_core,
    )


def _valkey_bytes(settings: Settings, load: ExpectedLoad, figures: Figures) -> int | None:
    """Bytes of full rooms in Valkey; None if Valkey is not used, or if retention does not bound it."""
    if settings.storage.backend != "valkey":
        return None
    history = settings.storage.history
    aged = load.publishes / max(1, load.rooms) * (history.max_age or math.inf)
    held = min(aged, history.max_messages or math.inf)
    return None if math.isinf(held) else round(load.rooms * held * (load.size + figures.entry_bytes))


def _degrades(settings: Settings) -> bool:
    return settings.storage.mode == "degraded" or any(rule.mode == "degraded" for rule in settings.rooms)


__all__ = [
    "DOCUMENTED",
    "FULL_QUEUES",
    "MICRO",
    "PROJECTOR_BATCHES",
    "PROJECTOR_BATCH_BYTES",
    "Bill",
    "ExpectedLoad",
    "Figures",
    "bill",
    "memory_bill",
    "memory_limit",
    "open_files",
    "projector_bill",
    "projector_limit",
]
