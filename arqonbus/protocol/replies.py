"""What the server says: acks, replies, errors and signals. Pure.

Acks are the one answer on the hot path, so they are written as bytes; everything else is an envelope.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol import wire_json
from arqonbus.protocol.envelope import JSON_CONTENT, REPLY, SIGNAL, Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.wire_protobuf import length_prefix, varint

_encode = msgspec.json.Encoder().encode

_SEQUENCE_TAG = varint(Envelope.SEQUENCE_FIELD_NUMBER << 3)
_REPLY_TO_TAG = varint(Envelope.REPLY_TO_FIELD_NUMBER << 3 | 2)
_DUPLICATE = varint(Envelope.DUPLICATE_FIELD_NUMBER << 3) + b"\x01"


def now_us() -> int:
    """Wall clock in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def now_text() -> str:
    """The wall clock as RFC 3339 in UTC with microseconds."""
    return wire_json.format_time(now_us())


class AckWriter:
    """Acks of one stored batch: what they share is encoded once."""

    __slots__ = ("_common", "_epoch", "_json")

    def __init__(self, epoch: str, durability: int, server_time_us: int, *, json: bool) -> None:
        shared = Envelope(
            kind=REPLY,
            epoch=epoch,
            durability=durability,  # type: ignore[arg-type]
            server_time_us=server_time_us,
            status=pb.Status(code=Code.OK),
        )
        self._json = json
        if json:
            self._common = wire_json.encode(shared)[:-1]
        else:
            self._common = shared.SerializeToString()

    def write(self, message_id: str, sequence: int, duplicate: bool) -> bytes:
        """One ack, ready to be joined with others: behind its length in protobuf, one line in JSON."""
        if self._json:
            number = str(sequence) if sequence <= wire_json.MAX_SAFE_INTEGER else f'"{sequence}"'
            tail = f',"reply_to":"{message_id}","sequence":{number}'
            return self._common + tail.encode() + (b',"duplicate":true}' if duplicate else b"}")
        raw = message_id.encode()
        body = self._common + _REPLY_TO_TAG + varint(len(raw)) + raw + _SEQUENCE_TAG + varint(sequence)
        if duplicate:
            body += _DUPLICATE
        return length_prefix(len(body)) + body


def reply(message_id: str, result: Any = None) -> Envelope:
    """A successful REPLY; the result, anything that JSON can hold, is its payload."""
    envelope = Envelope(
        kind=REPLY, reply_to=message_id, server_time_us=now_us(), status=pb.Status(code=Code.OK)
    )
    if result is not None:
        envelope.content_type = JSON_CONTENT
        envelope.payload = _encode(result)
    return envelope


def status_of(error: BusError) -> pb.Status:
    """The error as it stands in an envelope."""
    return pb.Status(
        code=error.code,
        message=error.message,
        retry_after_ms=error.retry_after_ms,
        details=dict(error.details),
    )


def refusal(error: BusError, message_id: str) -> Envelope:
    """A REPLY that says why not."""
    return Envelope(kind=REPLY, reply_to=message_id, server_time_us=now_us(), status=status_of(error))


def error_signal(error: BusError, about: str = "") -> Envelope:
    """A SIGNAL for an error; `about` is the id of the envelope at fault, if that asked for no reply."""
    return Envelope(
        kind=SIGNAL, name="error", reply_to=about, server_time_us=now_us(), status=status_of(error)
    )


def signal(name: str, facts: Mapping[str, Any], room: str = "") -> Envelope:
    """A SIGNAL with its facts as JSON."""
    return Envelope(
        kind=SIGNAL,
        name=name,
        room=room,
        server_time_us=now_us(),
        content_type=JSON_CONTENT,
        payload=_encode(facts),
    )


__all__ = ["AckWriter", "error_signal", "now_text", "now_us", "refusal", "reply", "signal", "status_of"]
