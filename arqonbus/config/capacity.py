"""What a node needs to keep what its profile promises: memory, files, room in the stores, processors.

The one place where this is computed: preflight compares it with the host, the unit gets its limits from it,
and `arqonbus capacity` shows it. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from arqonbus.config.settings import Settings

FULL_QUEUES = 0.02  # the part of all clients that may be slow in the same moment
# Between the memory at which systemd slows the bus down and that at which the kernel ends it.
MARGIN = 1.25
# A projector reads and decodes one batch while the other is committed; more bytes than these are in none.
PROJECTOR_BATCHES = 2
PROJECTOR_BATCH_BYTES = 8 * 2**20
DAY_SECONDS = 86_400
MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Figures:
    """What things cost; the defaults are those of benchmarks/RESULTS.md and benchmarks/CAPACITY.md."""

    worker_bytes: int = 192 * 2**20
    connection_bytes: int = 24 * 1024  # session and socket buffers of one idle client
    tls_bytes: int = 56 * 1024  # of a connection whose TLS ends here
    projector_bytes: int = 128 * 2**20
    batch_copies: int = 8  # as read, as a message, as an event, as rows, and what the allocator keeps
    delivery_us: float = 3.74  # 50 rooms of 5 members, 4 messages in flight in each
    connect_us: float = 1000.0  # a handshake in the clear, a token, a session
    entry_bytes: int = 315  # a message in Valkey, beside its payload
    event_bytes: int = 545  # an event of an episode in Postgres, with its indexes
    source: str = "documented"


DOCUMENTED = Figures()


@dataclass(frozen=True, slots=True)
class ExpectedLoad:
    """What is expected of all nodes together."""

    connections: int
    publishes: float  # a second
    members: float  # of a room, who get each message
    size: int  # bytes of a payload
    rooms: int
    events: float  # of episodes, a second


@dataclass(frozen=True, slots=True)
class Bill:
    """Per node, except for what the stores and the processors of all nodes need."""

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
    """Bytes that one node needs with all its connections, when a few of them are slow."""
    clients = settings.server.max_connections
    connection = figures.connection_bytes + figures.tls_bytes * settings.server.tls.enabled
    queues = clients * FULL_QUEUES * settings.limits.send_queue_bytes
    kept = settings.storage.degraded_max_bytes if _degrades(settings) else 0
    return round(figures.worker_bytes * settings.server.workers + clients * connection + queues + kept)


def memory_limit(settings: Settings) -> int | None:
    """The bytes at which a node is ended; None where rooms are in its memory, which no profile bounds."""
    in_memory = settings.storage.backend == "memory" or any(
        rule.durability == "memory" for rule in settings.rooms
    )
    return None if in_memory else round(memory_bill(settings) * MARGIN)


def projector_bill(settings: Settings, figures: Figures = DOCUMENTED) -> int:
    """Bytes that one projector needs with full batches: the process, and each batch in all its forms.

    A batch ends with the byte that is too many, so it may hold one more event of the largest size.
    """
    batch = PROJECTOR_BATCH_BYTES + settings.protocol.max_frame_bytes
    return figures.projector_bytes + PROJECTOR_BATCHES * batch * figures.batch_copies


def projector_limit(settings: Settings) -> int:
    """The bytes at which a projector is ended."""
    return round(projector_bill(settings) * MARGIN)


def open_files(settings: Settings) -> int:
    """Files that the bus may have open: a fifth more than connections, for logs, stores and listeners."""
    return -(-settings.server.max_connections * 6 // 5)


def bill(settings: Settings, load: ExpectedLoad, figures: Figures = DOCUMENTED) -> Bill:
    """What such a load takes."""
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
    """What the rooms hold once they are full; None where Valkey holds none, or no profile bounds it."""
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
