"""What a user of the client sees of messages and acks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol.envelope import COMMAND, JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us

_encode = msgspec.json.Encoder().encode

Payload = bytes | str | int | float | bool | None | list[Any] | dict[str, Any]


class Ask(Protocol):
    """Runs an operation and gives the successful reply. Raises Rejected, or Disconnected if none came."""

    def __call__(self, operation: str, arguments: dict[str, Any], *, again: bool) -> Awaitable[Envelope]: ...


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was delivered. Times are microseconds since 1970 UTC."""

    envelope: Envelope

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def room(self) -> str:
        return self.envelope.room

    @property
    def channel(self) -> str:
        return self.envelope.channel

    @property
    def name(self) -> str:
        return self.envelope.name

    @property
    def sender(self) -> str:
        return self.envelope.sender

    @property
    def sequence(self) -> int:
        return self.envelope.sequence

    @property
    def epoch(self) -> str:
        return self.envelope.epoch

    @property
    def time(self) -> datetime:
        """When its producer says that it happened."""
        return datetime.fromtimestamp(self.envelope.time_us / 1_000_000, UTC)

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
        """The payload as JSON. Raises ValueError when it is none."""
        return json.loads(self.envelope.payload)


@dataclass(frozen=True, slots=True)
class Ack:
    """The bus has the message, at the durability that is said. `duplicate`: it had it before."""

    id: str
    room: str
    sequence: int
    epoch: str
    durability: str
    duplicate: bool

    @staticmethod
    def of(envelope: Envelope, room: str) -> Ack:
        return Ack(
            id=envelope.reply_to,
            room=room,
            sequence=envelope.sequence,
            epoch=envelope.epoch,
            durability=pb.Durability.Name(envelope.durability).lower() if envelope.durability else "",
            duplicate=envelope.duplicate,
        )


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
    """A message to publish. Bytes go as they are; any other payload goes as JSON."""
    body = payload if isinstance(payload, bytes) else _encode(payload)
    kind = content_type or ("" if isinstance(payload, bytes) else JSON_CONTENT)
    return Envelope(
        id=message_id or new_ulid(),
        kind=MESSAGE,
        room=room,
        recipient=recipient,
        channel=channel,
        name=name,
        time_us=now_us(),
        content_type=kind,
        payload=body,
        headers=dict(headers or {}),
        cause=cause,
        clock=dict(clock or {}),
    )


def command_envelope(operation: str, arguments: Mapping[str, Any]) -> Envelope:
    """A command with its arguments as JSON."""
    return Envelope(
        id=new_ulid(),
        kind=COMMAND,
        name=operation,
        time_us=now_us(),
        content_type=JSON_CONTENT,
        payload=_encode(arguments),
    )


def error_of(request: Envelope, reply: Envelope) -> BusError:
    """What a reply that is none of success says about its request."""
    status = reply.status
    known = status.code in Code.__members__.values()
    return BusError(
        Code(status.code) if known else Code.INTERNAL_ERROR,
        status.message or f"the bus refused {request.name or 'the message'}",
        retry_after_ms=status.retry_after_ms,
        details=dict(status.details),
    )


__all__ = ["Ack", "Ask", "Message", "Payload", "command_envelope", "error_of", "message_envelope"]
