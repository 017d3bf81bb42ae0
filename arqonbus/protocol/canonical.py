"""The canonical form of an envelope's bytes: what was parsed is all that is stored. Pure.

A protobuf parser takes the last value of a singular field and skips fields that it does not know. Bytes of
which nothing is checked would be stored and delivered all the same, so they are bounded here or refused.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from arqonbus.protocol.clocks import MAX_ENTRIES
from arqonbus.protocol.envelope import MAX_HEADERS, Envelope
from arqonbus.protocol.errors import Code, Invalid

MAX_UNKNOWN_FIELDS = 32
MAX_UNKNOWN_BYTES = 4096
MAX_OVERHEAD_BYTES = 32 * 1024  # of an envelope beyond its payload

_FIELDS = {number: field.name for number, field in Envelope.DESCRIPTOR.fields_by_number.items()}
_MAPS = {Envelope.HEADERS_FIELD_NUMBER: MAX_HEADERS, Envelope.CLOCK_FIELD_NUMBER: MAX_ENTRIES}
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_TYPES = frozenset((13, 14, 3, 4, 8))  # of descriptors: uint32, enum, int64, uint64, bool
_OWN_TYPES = {
    number: _VARINT if field.type in _VARINT_TYPES else _LENGTH
    for number, field in Envelope.DESCRIPTOR.fields_by_number.items()
}


def is_canonical(envelope: Envelope, raw: bytes) -> bool:
    """True if its sizes prove that nothing in the bytes is repeated or unknown. False proves nothing.

    Drops what is unknown from the envelope.
    """
    if envelope.ByteSize() != len(raw):
        envelope.DiscardUnknownFields()
        return False
    envelope.DiscardUnknownFields()
    return envelope.ByteSize() == len(raw)


def check_canonical(envelope: Envelope, raw: bytes, *, strict: bool) -> None:
    """Raise Invalid unless the bytes say no more than the envelope that was parsed from them.

    `strict`: unknown fields are refused. Otherwise MAX_UNKNOWN_FIELDS of MAX_UNKNOWN_BYTES together pass;
    the envelope itself keeps none of them.
    """
    if is_canonical(envelope, raw):
        return
    seen: dict[int, int] = {}
    unknown = unknown_bytes = position = 0
    while position < len(raw):
        start = position
        tag, position = _varint(raw, position)
        number, wire_type = tag >> 3, tag & 7
        if number in _FIELDS and wire_type != _OWN_TYPES[number]:
            raise Invalid("envelope", "a field of the envelope has a wire type that is not its own")
        position = _end_of(raw, position, wire_type)
        if number not in _FIELDS:
            unknown += 1
            unknown_bytes += position - start
            if strict:
                raise Invalid("envelope", "fields that the bus does not know are refused in this room")
            if unknown > MAX_UNKNOWN_FIELDS or unknown_bytes > MAX_UNKNOWN_BYTES:
                raise Invalid(
                    "envelope",
                    f"more than {MAX_UNKNOWN_FIELDS} fields or {MAX_UNKNOWN_BYTES} bytes that the bus "
                    "does not know",
                )
            continue
        seen[number] = seen.get(number, 0) + 1
        if seen[number] > _MAPS.get(number, 1):
            what = "more entries than it may have" if number in _MAPS else "more than one value"
            raise Invalid(_FIELDS[number], f"{_FIELDS[number]} has {what}")
    for number, entries in ((14, len(envelope.headers)), (17, len(envelope.clock))):
        if seen.get(number, 0) != entries:
            raise Invalid(_FIELDS[number], f"{_FIELDS[number]} has a key twice, or one of another wire type")


def check_size(envelope: Envelope, raw: bytes, max_payload_bytes: int) -> None:
    """Raise Invalid (TOO_LARGE) for a payload, or an envelope around it, that is larger than allowed."""
    if len(envelope.payload) > max_payload_bytes:
        raise Invalid("payload", f"the payload is larger than {max_payload_bytes} bytes", Code.TOO_LARGE)
    if len(raw) > len(envelope.payload) + MAX_OVERHEAD_BYTES:
        raise Invalid(
            "envelope", f"the envelope without its payload is larger than {MAX_OVERHEAD_BYTES} bytes",
            Code.TOO_LARGE,
        )  # fmt: skip


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """A varint and where it ends. The bytes were parsed before, so it does end."""
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _end_of(raw: bytes, position: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return _varint(raw, position)[1]
    if wire_type == _LENGTH:
        size, position = _varint(raw, position)
        return position + size
    if wire_type == _FIXED64:
        return position + 8
    if wire_type == _FIXED32:
        return position + 4
    raise Invalid("envelope", "groups are not accepted")


__all__ = [
    "MAX_OVERHEAD_BYTES",
    "MAX_UNKNOWN_BYTES",
    "MAX_UNKNOWN_FIELDS",
    "check_canonical",
    "check_size",
    "is_canonical",
]
