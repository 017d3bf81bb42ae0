"""Messages and acks as a program sees them, and the envelopes that the client sends."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from arqonbus.client.errors import Rejected
from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol.envelope import COMMAND, JSON_CONTENT, MESSAGE, Envelope, check
from arqonbus.protocol.errors import BusError, Code, Invalid
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us

_encode = msgspec.json.Encoder().encode

Payload = bytes | str | int | float | bool | None | list[Any] | dict[str, Any]

MAX_KNOWN_PLACES = 4096
_known_places: set[tuple[str, str, str]] = set()  # recipients, rooms and content types that passed `check`


class Ask(Protocol):
    """Runs an operation and returns the successful reply. Raises Rejected, or Disconnected if none came."""

    def __call__(self, operation: str, arguments: dict[str, Any], *, again: bool) -> Awaitable[Envelope]: ...


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """One message as it was delivered.

    >>> message = Message(Envelope(room="orders", sequence=7, payload=b'{"id": 1}'))
    >>> message.json()["id"], message
    (1, <Message orders 7>)
    """

    envelope: Envelope

    def __repr__(self) -> str:
        place = self.envelope.room or f"to {self.envelope.recipient}"
        return f"<Message {place} {self.envelope.sequence}>"

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def room(self) -> str:
        """Empty for a direct message."""
        return self.envelope.room

    @property
    def channel(self) -> str:
        return self.envelope.channel

    @property
    def name(self) -> str:
        """The event type that its producer gave it."""
        return self.envelope.name

    @property
    def sender(self) -> str:
        """The client id of its producer, which changes with each connection."""
        return self.envelope.sender

    @property
    def sequence(self) -> int:
        return self.envelope.sequence

    @property
    def epoch(self) -> str:
        return self.envelope.epoch

    @property
    def time(self) -> datetime:
        """The producer's clock when it was made."""
        return datetime.fromtimestamp(self.envelope.time_us / 1_000_000, UTC)

    @property
    def server_time(self) -> datetime | None:
        """The bus's clock when it was stored, if the bus says so."""
        stored = self.envelope.server_time_us
        return datetime.fromtimestamp(stored / 1_000_000, UTC) if stored else None

    @property
    def cause(self) -> str:
        """The id of the message that led to this one, or empty."""
        return self.envelope.cause

    @property
    def payload(self) -> bytes:
        return self.envelope.payload

    @property
    def content_type(self) -> str:
        return self.envelope.content_type

    @property
    def headers(self) -> Mapping[str, str]:
        return self.envelope.headers

    def json(self) -> Any:
        """The payload as JSON. Raises ValueError when it is not JSON."""
        return json.loads(self.envelope.payload)


@dataclass(frozen=True, slots=True)
class Ack:
    """The bus has the message.

    `durability`: memory, hot or durable. `duplicate`: its id was stored before.
    """

    id: str
    room: str
    sequence: int
    epoch: str
    durability: str
    duplicate: bool

    @staticmethod
    def of(envelope: Envelope, room: str) -> Ack:
        """The ack that a successful reply is."""
        return Ack(
            id=envelope.reply_to,
            room=room,
            sequence=envelope.sequence,
            epoch=envelope.epoch,
            durability=_DURABILITIES.get(envelope.durability, ""),
            duplicate=envelope.duplicate,
        )


_DURABILITIES = {number: name.lower() for name, number in pb.Durability.items() if number}


@dataclass(frozen=True, slots=True)
class Member:
    """One client in a room.

    `client`: its client id, `since`: when it joined, `node`: where it is connected.
    """

    client: str
    subject: str
    node: str
    since: datetime

    @staticmethod
    def of(facts: Mapping[str, Any]) -> Member:
        """The member that op.rooms.presence describes."""
        since = datetime.fromisoformat(facts["since"])
        return Member(facts["client"], facts["subject"], facts["node"], since)


def message_envelope(
    payload: Payload,
    *,
    room: str = "",
    recipient: str = "",
    channel: str = "",
    name: str = "",
    content_type: str = "",
    headers: Mapping[str, str] | None = None,
    message_id: str = "",
    cause: str = "",
    clock: Mapping[str, int] | None = None,
) -> Envelope:
    """A message to send. Bytes go as they are; any other payload goes as JSON.

    Raises Rejected (VALIDATION_ERROR) for a field that the bus would refuse, and for a payload that JSON
    cannot express.
    """
    body = payload if isinstance(payload, bytes) else _json_of(payload)
    kind = content_type or ("" if isinstance(payload, bytes) else JSON_CONTENT)
    envelope = Envelope(
        id=message_id or new_ulid(),
        kind=MESSAGE,
        room=room,
        recipient=recipient,
        channel=channel,
        name=name,
        time_us=now_us(),
        content_type=kind,
        payload=body,
        headers=headers or None,
        cause=cause,
        clock=clock or None,
    )
    place = (recipient, room, kind)
    if message_id or headers or cause or clock or channel or len(name) > 64 or place not in _known_places:
        _check(envelope)
        if len(_known_places) >= MAX_KNOWN_PLACES:
            _known_places.clear()
        _known_places.add(place)
    return envelope


def _check(envelope: Envelope) -> None:
    try:
        check(envelope)
    except Invalid as error:
        raise Rejected(error) from None


def _json_of(payload: Any) -> bytes:
    """The value as JSON. Raises Rejected for what JSON cannot express."""
    try:
        text = _encode(payload)
        if b"null" in text and _has_no_number(payload):
            raise ValueError("NaN and infinity are not JSON numbers")
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Rejected(Invalid("payload", f"the payload cannot be written as JSON: {error}")) from error
    return text


def _has_no_number(value: Any) -> bool:
    """True if a value holds a NaN or an infinity. It was encoded before, so it is finite in depth."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_no_number, value)) or any(map(_has_no_number, value.values()))
    return isinstance(value, list | tuple | set | frozenset) and any(map(_has_no_number, value))


def command_envelope(operation: str, arguments: Mapping[str, Any]) -> Envelope:
    """A command with its arguments as JSON. Raises Rejected for arguments that JSON cannot express."""
    return Envelope(
        id=new_ulid(),
        kind=COMMAND,
        name=operation,
        time_us=now_us(),
        content_type=JSON_CONTENT,
        payload=_json_of(arguments),
    )


def error_of(request: Envelope, reply: Envelope) -> BusError:
    """The error in a reply."""
    status = reply.status
    known = status.code in Code.__members__.values()
    return BusError(
        Code(status.code) if known else Code.INTERNAL_ERROR,
        status.message or f"the bus refused {request.name or 'the message'}",
        retry_after_ms=status.retry_after_ms,
        details=dict(status.details),
    )


__all__ = [
    "Ack",
    "Ask",
    "Member",
    "Message",
    "Payload",
    "command_envelope",
    "error_of",
    "message_envelope",
]
