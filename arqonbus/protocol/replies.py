"""Envelopes of the server: acks, replies, errors and signals. Pure.

Acks are the one answer on the hot path, so they are written as bytes; everything else is an envelope.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol import wire_json
from arqonbus.protocol.envelope import FRAME_CONTENT, JSON_CONTENT, REPLY, SIGNAL, Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.wire_protobuf import length_prefix, log_stamp, sequence_field, varint

_encode = msgspec.json.Encoder().encode

_REPLY_TO_TAG = varint(Envelope.REPLY_TO_FIELD_NUMBER << 3 | 2)
_DUPLICATE = varint(Envelope.DUPLICATE_FIELD_NUMBER << 3) + b"\x01"


def now_us() -> int:
    """Wall clock in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def now_text() -> str:
    """The wall clock as RFC 3339 in UTC with microseconds."""
    return wire_json.format_time(now_us())


@lru_cache
def _acked(durability: int) -> bytes:
    """The bytes that all acks of a durability share."""
    fields = Envelope(kind=REPLY, durability=durability, status=pb.Status(code=Code.OK))  # type: ignore[arg-type]
    return fields.SerializeToString()


class AckWriter:
    """Acks of one stored batch, each ready to be joined with other envelopes of its wire.

    What they share is encoded once: kind, epoch, durability, time and status.
    """

    __slots__ = ("_common", "_heads", "_json")

    def __init__(self, epoch: str, durability: int, server_time_us: int, *, json: bool) -> None:
        self._json = json
        if json:
            fields = Envelope(epoch=epoch, server_time_us=server_time_us)
            fields.MergeFromString(_acked(durability))
            self._common = wire_json.encode(fields)[:-1]
        else:
            self._common = _acked(durability) + log_stamp(epoch, server_time_us)
        self._heads: dict[tuple[int, int], bytes] = {}

    def write(self, message_id: str, sequence: int, *, duplicate: bool) -> bytes:
        """One ack."""
        if self._json:
            shown = _encode(wire_json.safe_integer(sequence)).decode()
            text = f',"reply_to":"{message_id}","sequence":{shown}'
            return self._common + text.encode() + (b',"duplicate":true}' if duplicate else b"}")
        raw, number = message_id.encode(), sequence_field(sequence)
        body = self._common + _REPLY_TO_TAG + varint(len(raw)) + raw + number
        if duplicate:
            body += _DUPLICATE
        return length_prefix(len(body)) + body

    def write_new(self, ids: Iterable[str], sequences: Iterable[int]) -> bytes:
        """Protobuf acks of messages that are no duplicates, as one piece."""
        parts: list[bytes] = []
        heads = self._heads
        for message_id, sequence in zip(ids, sequences, strict=True):
            number = sequence_field(sequence)
            shape = (len(message_id), len(number))
            head = heads.get(shape)
            if head is None:
                reply_to = _REPLY_TO_TAG + varint(shape[0])
                size = len(self._common) + len(reply_to) + shape[0] + shape[1]
                head = heads[shape] = length_prefix(size) + self._common + reply_to
            parts += (head, message_id.encode(), number)
        return b"".join(parts)


def reply(message_id: str, result: Any = None) -> Envelope:
    """A successful REPLY; the result, anything that JSON can hold, is its payload."""
    envelope = Envelope(
        kind=REPLY, reply_to=message_id, server_time_us=now_us(), status=pb.Status(code=Code.OK)
    )
    if result is not None:
        envelope.content_type = JSON_CONTENT
        envelope.payload = _encode(result)
    return envelope


def frame_reply(message_id: str, envelopes: bytes, facts: Mapping[str, str]) -> Envelope:
    """A successful REPLY whose payload is a frame of envelopes; its headers say what is known of them."""
    return Envelope(
        kind=REPLY,
        reply_to=message_id,
        server_time_us=now_us(),
        status=pb.Status(code=Code.OK),
        content_type=FRAME_CONTENT,
        payload=envelopes,
        headers=facts,
    )


def status_of(error: BusError) -> pb.Status:
    """The error in the form of an envelope's status."""
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


__all__ = [
    "AckWriter",
    "error_signal",
    "frame_reply",
    "now_text",
    "now_us",
    "refusal",
    "reply",
    "signal",
    "status_of",
]
