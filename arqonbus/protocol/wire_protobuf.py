"""Protobuf frames: envelopes, each behind its varint length. Pure.

Nothing is rebuilt on the way through the bus. `decode` hands out every envelope together with its
original bytes; the server's stamps are appended to those bytes, because a protobuf parser takes the last
value of a singular field. Three rules follow, each held by a test: bytes are parsed before they are
stamped (a truncated envelope could become valid once bytes follow it), only scalar fields are stamped
(messages and maps would be merged), and a server field set by a producer is refused.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache

from google.protobuf.message import DecodeError as _ProtobufError

from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import DecodeError

MAX_ENVELOPES = 4096  # in one frame: an error reply is larger than the smallest envelope

_parse = Envelope.FromString
_ID_TAG = Envelope.ID_FIELD_NUMBER << 3 | 2
_LONGEST_ID = 2 + 36  # tag, length, UUID
_LENGTH_BYTES = 4  # a frame is far smaller than 2^28 bytes

Decoded = list[tuple[Envelope, bytes]]


def decode(frame: bytes, most: int = MAX_ENVELOPES, max_bytes: int = sys.maxsize) -> Decoded:
    """All envelopes of a frame with their original bytes, or DecodeError for the frame as a whole.

    `most`: what a bus takes from a client. What the bus sends in one frame is bounded by its bytes only.
    Of an envelope of more than `max_bytes` the id alone is read.
    """
    found: Decoded = []
    position, end = 0, len(frame)
    if not end:
        raise DecodeError("the frame is empty", 0)
    while position < end:
        start = position
        length = frame[position]
        position += 1
        if length > 0x7F:
            length, position = _long_length(frame, start)
        stop = position + length
        if stop > end:
            raise DecodeError("an envelope is longer than what is left of the frame", start)
        if not length:
            raise DecodeError("an envelope is empty", start)
        raw = frame[position:stop]
        try:
            found.append((_parse(raw) if length <= max_bytes else Envelope(id=_claimed_id(raw)), raw))
        except _ProtobufError:
            raise DecodeError("the bytes are not an envelope", position) from None
        position = stop
    if len(found) > most:
        raise DecodeError(f"the frame has more than {most} envelopes", 0)
    return found


def claimed_ids(frame: bytes, most: int = MAX_ENVELOPES) -> list[str]:
    """The ids that the envelopes of a frame begin with, '' where one begins otherwise; nothing is parsed.

    Raises DecodeError as `decode` does for a frame that is not a sequence of envelopes.
    """
    ids: list[str] = []
    position, end = 0, len(frame)
    if not end:
        raise DecodeError("the frame is empty", 0)
    while position < end:
        start = position
        length = frame[position]
        position += 1
        if length > 0x7F:
            length, position = _long_length(frame, start)
        if not 0 < length <= end - position:
            raise DecodeError("an envelope is empty or longer than what is left of the frame", start)
        ids.append(_claimed_id(frame[position : position + _LONGEST_ID]))
        position += length
        if len(ids) > most:
            raise DecodeError(f"the frame has more than {most} envelopes", 0)
    return ids


def _claimed_id(raw: bytes) -> str:
    """The id that an envelope begins with, as encoders write it; '' otherwise."""
    if len(raw) < 2 or raw[0] != _ID_TAG or raw[1] > _LONGEST_ID - 2:
        return ""
    return raw[2 : 2 + raw[1]].decode("utf-8", "ignore")


def _long_length(frame: bytes, start: int) -> tuple[int, int]:
    length = 0
    for index, byte in enumerate(frame[start : start + _LENGTH_BYTES]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return length, start + index + 1
    raise DecodeError("the length of an envelope is cut off or too large", start)


def varint(value: int) -> bytes:
    """Base-128 encoding of a value in 0..2^64-1."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# Two bytes hold 14 bits. Lengths and the low bits of sequences come from these tables: a lookup is a
# tenth of the cost of the loop above, and both happen once per message.
_SHORT = tuple(varint(value) for value in range(1 << 14))
_CONTINUED = tuple(bytes((value & 0x7F | 0x80, value >> 7 | 0x80)) for value in range(1 << 14))


_SEQUENCE_TAG = varint(Envelope.SEQUENCE_FIELD_NUMBER << 3)

# The same with the field's tag in front, for acks; the numbers of a room come one after the other.
_SHORT_SEQUENCE = tuple(varint(Envelope.SEQUENCE_FIELD_NUMBER << 3) + number for number in _SHORT)


@lru_cache(maxsize=64)
def _high_part(value: int) -> bytes:
    return varint(value)


def sequence_field(sequence: int) -> bytes:
    """Field `sequence` of an envelope, tag included."""
    if sequence < 16384:
        return _SHORT_SEQUENCE[sequence]
    return _SEQUENCE_TAG + _CONTINUED[sequence & 16383] + _high_part(sequence >> 14)


def length_prefix(size: int) -> bytes:
    """The varint that stands before an envelope of `size` bytes."""
    return _SHORT[size] if size < 16384 else varint(size)


def frame_of(envelopes: Iterable[Envelope]) -> bytes:
    """One frame from envelopes that exist as objects (replies, signals, what a client sends)."""
    parts: list[bytes] = []
    for envelope in envelopes:
        raw = envelope.SerializeToString()
        parts.append(length_prefix(len(raw)))
        parts.append(raw)
    return b"".join(parts)


def _text_stamp(number: int, text: str) -> bytes:
    raw = text.encode()
    return varint(number << 3 | 2) + varint(len(raw)) + raw


_SERVER_TIME_TAG = varint(Envelope.SERVER_TIME_US_FIELD_NUMBER << 3)


def sender_stamp(tenant: str, sender: str) -> bytes:
    """The fields that a session appends to accepted envelopes. Neither is ever empty."""
    return _text_stamp(Envelope.TENANT_FIELD_NUMBER, tenant) + _text_stamp(
        Envelope.SENDER_FIELD_NUMBER, sender
    )


def log_stamp(epoch: str, server_time_us: int) -> bytes:
    """The fields that the log adds and a batch shares; the sequence follows."""
    return (
        _epoch_stamp(epoch)
        + _CONTINUED[server_time_us & 16383]
        + _CONTINUED[server_time_us >> 14 & 16383]
        + _high_part(server_time_us >> 28)
    )


@lru_cache(maxsize=1024)
def _epoch_stamp(epoch: str) -> bytes:
    """The epoch, and the tag of the server time that follows it."""
    return _text_stamp(Envelope.EPOCH_FIELD_NUMBER, epoch) + _SERVER_TIME_TAG


def stamped(data: bytes, epoch: str, server_time_us: int, sequence: int) -> bytes:
    """One stored envelope as it is delivered."""
    return data + log_stamp(epoch, server_time_us) + sequence_field(sequence)


def stamped_frame(epoch: str, entries: Iterable[tuple[int, int, str, str, bytes]]) -> bytes:
    """One frame of stored envelopes: (sequence, server time in µs, id, channel, data) each, stamped.

    This is the hot path of fan-out: it runs once per room and tick, whatever the number of members.
    """
    parts: list[bytes] = []
    stamp_time, stamp = -1, b""
    for sequence, time_us, _, _, data in entries:
        if time_us != stamp_time:
            stamp_time, stamp = time_us, log_stamp(epoch, time_us)
        number = sequence_field(sequence)
        size = len(data) + len(stamp) + len(number)
        parts += (_SHORT[size] if size < 16384 else varint(size), data, stamp, number)
    return b"".join(parts)


__all__ = [
    "MAX_ENVELOPES",
    "Decoded",
    "claimed_ids",
    "decode",
    "frame_of",
    "length_prefix",
    "log_stamp",
    "sender_stamp",
    "sequence_field",
    "stamped",
    "stamped_frame",
    "varint",
]
