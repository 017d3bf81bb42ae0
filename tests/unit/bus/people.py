"""Sessions, peers and sockets without I/O, for tests."""

from __future__ import annotations

from collections import Counter
from typing import Any

from arqonbus.bus.peer import Peer
from arqonbus.bus.sendqueue import SendQueue
from arqonbus.bus.session import Gates, NoGates, Session, SessionLimits
from arqonbus.bus.wire import PROTOBUF, Wire
from arqonbus.protocol.envelope import MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.shield.grants import EVERYTHING, Grants, parse_grants
from arqonbus.shield.tokens import NEVER, Identity

TIME_US = 1_769_860_800_123_456
UNLIMITED = SessionLimits(
    messages_per_second=0,
    messages_burst=0,
    bytes_per_second=0,
    bytes_burst=0,
    max_payload_bytes=2**20,
    bad_frames=10,
)


def identity(*, grants: Grants = EVERYTHING, expires_at: int = NEVER, tenant: str = "acme") -> Identity:
    return Identity(tenant, "alice", "human", "user", grants, expires_at, "")


def granting(**rooms: list[str]) -> Identity:
    return identity(grants=parse_grants(rooms))


def session(
    *,
    wire: Wire = PROTOBUF,
    who: Identity | None = None,
    limits: SessionLimits = UNLIMITED,
    granted: frozenset[Any] = frozenset(),
    now: float = 0.0,
    gates: Gates | None = None,
) -> Session:
    """A session of alice in acme whose client id is `me`."""
    gates = gates or NoGates()
    return Session("me", who or identity(), wire, limits, lambda room: granted, Counter(), now, gates)


def message(**changes: Any) -> Envelope:
    return Envelope(**{"id": new_ulid(), "kind": MESSAGE, "room": "orders", "time_us": TIME_US, **changes})


class Socket:
    """What a peer did to its socket."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.held = 0
        self.pings = 0
        self.closed: tuple[int, str] | None = None
        self.aborted = False

    def write(self, frames: bytes) -> None:
        self.written.append(frames)

    def buffered(self) -> int:
        return self.held

    def ping(self) -> None:
        self.pings += 1

    def close(self, code: int, reason: str) -> None:
        assert self.closed is None, "closed twice"
        self.closed = code, reason

    def abort(self) -> None:
        self.aborted = True


def peer(
    *, wire: Wire = PROTOBUF, budget: int = 2**20, who: Identity | None = None, now: float = 0.0
) -> tuple[Peer, Socket]:
    socket = Socket()
    return Peer(
        session(wire=wire, who=who, now=now), SendQueue(wire, budget), socket, "127.0.0.1", now
    ), socket


def payload_of(frame: bytes) -> tuple[bytes, bytes]:
    """The payload of the first WebSocket frame, and what follows the frame."""
    size = frame[1] & 0x7F
    start = 2
    if size > 125:
        start = 4 if size == 126 else 10
        size = int.from_bytes(frame[2:start], "big")
    return frame[start : start + size], frame[start + size :]
