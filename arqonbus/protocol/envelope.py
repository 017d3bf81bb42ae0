"""Validity of envelopes, independent of the wire format. Pure.

An envelope is the generated protobuf message; there is no second model beside it. `check` tells what a
producer may send. Fields that belong to the server are refused when a producer sets them: the server's
stamps are appended to the producer's bytes, and an appended default value would not win.
"""

from __future__ import annotations

import re

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol.clocks import check_clock
from arqonbus.protocol.errors import Code, Invalid
from arqonbus.protocol.ids import ULID_LENGTH, is_message_id, is_ulid
from arqonbus.protocol.names import is_name

Envelope = pb.Envelope

MESSAGE = pb.MESSAGE
COMMAND = pb.COMMAND
REPLY = pb.REPLY
SIGNAL = pb.SIGNAL

MAX_NAME = 256
MAX_CONTENT_TYPE = 256
MAX_HEADERS = 32
MAX_HEADER_BYTES = 4096
MAX_TIME_US = 253_402_300_800_000_000  # the first microsecond of the year 10000
SIGNATURE_BYTES = 64
JSON_CONTENT = "application/json"
FRAME_CONTENT = "application/vnd.arqonbus.frame"  # envelopes encoded as in a binary frame

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NAME_RULE = "1-128 of A-Z a-z 0-9 . _ -"


def check(envelope: Envelope) -> None:
    """Raise Invalid, naming the field, unless a producer may send this envelope."""
    e = envelope
    if not is_message_id(e.id):
        raise Invalid("id", "id is neither a canonical ULID nor a canonical UUIDv7")
    if e.kind not in (MESSAGE, COMMAND):
        raise Invalid("kind", "kind is neither MESSAGE nor COMMAND; a client sends nothing else")
    if (
        e.sender
        or e.sequence
        or e.epoch
        or e.server_time_us
        or e.reply_to
        or e.durability
        or e.duplicate
        or e.HasField("status")
    ):
        raise _server_field(e)
    if not 0 < e.time_us < MAX_TIME_US:
        raise Invalid("time", "time is missing or outside the years 1970 to 9999")
    if e.kind == COMMAND:
        if not e.name:
            raise Invalid("name", "name is empty; a command names its operation")
        if e.room and not is_name(e.room):
            raise Invalid("room", f"room is not {_NAME_RULE}")
    elif not is_name(e.room):
        if e.room:
            raise Invalid("room", f"room is not {_NAME_RULE}")
        if not e.recipient:
            raise Invalid("room", "a message has neither a room nor a recipient")
    elif e.recipient:
        raise Invalid("recipient", "a message has either a room or a recipient, not both")
    if e.channel and not is_name(e.channel):
        raise Invalid("channel", f"channel is not {_NAME_RULE}")
    check_optional(e)


_PLAIN_TIMES = range(1 << 49, 1 << 56)  # 1987 to 4253: the times whose varint has 8 bytes
_PLAIN_BYTES = (2 + ULID_LENGTH) + 2 + (1 + 8) + 2  # id, kind, time, and the tag and length of the room


def is_plain(envelope: Envelope, size: int, room: str) -> bool:
    """True only for a message that `check` would accept and that sets the everyday fields only.

    `size` is the length of the bytes that the envelope was parsed from, `room` its room, known to be a
    valid name. The everyday fields need a number of bytes that their values tell. If that is exactly
    the size, no byte is left in which another field could be set: one sum instead of a dozen look-ups.
    """
    e = envelope
    channel = e.channel
    name, content, payload = len(e.name), len(e.content_type), len(e.payload)
    need = _PLAIN_BYTES + len(room) + len(channel) + name + content + payload
    if channel:
        need += 2
    if name:
        need += 2
    if content:
        need += 2
    if payload:
        need += 2 if payload < 128 else 3 if payload < 16384 else 4
    return (
        need == size
        and e.kind == MESSAGE
        and name < 128
        and content < 128
        and payload < 2097152
        and e.time_us in _PLAIN_TIMES
        and is_ulid(e.id)
        and (not channel or is_name(channel))
        and e.content_type.isprintable()
    )


def check_optional(envelope: Envelope) -> None:
    """The part of `check` for the fields that most envelopes leave out."""
    e = envelope
    if len(e.name) > MAX_NAME:
        raise Invalid("name", f"name is longer than {MAX_NAME} characters")
    if len(e.content_type) > MAX_CONTENT_TYPE or not e.content_type.isprintable():
        raise Invalid("content_type", f"content_type is not up to {MAX_CONTENT_TYPE} printable characters")
    headers = e.headers
    if headers:
        if len(headers) > MAX_HEADERS:
            raise Invalid("headers", f"more than {MAX_HEADERS} headers")
        size = sum(len(key.encode()) + len(value.encode()) for key, value in headers.items())
        if size > MAX_HEADER_BYTES:
            raise Invalid(
                "headers", f"headers are larger than {MAX_HEADER_BYTES} bytes in all", Code.TOO_LARGE
            )
    if e.recipient and not is_name(e.recipient):
        raise Invalid("recipient", f"recipient is not {_NAME_RULE}")
    if e.cause and not is_message_id(e.cause):
        raise Invalid("cause", "cause is neither a canonical ULID nor a canonical UUIDv7")
    if e.trace and not _TRACEPARENT.fullmatch(e.trace):
        raise Invalid("trace", "trace is not a W3C traceparent of version 00")
    if e.signature and len(e.signature) != SIGNATURE_BYTES:
        raise Invalid("signature", f"signature is not {SIGNATURE_BYTES} bytes")
    if e.clock:
        check_clock(e.clock)


def _server_field(e: Envelope) -> Invalid:
    owned = ("sender", "sequence", "epoch", "server_time_us", "reply_to", "durability", "duplicate")
    name = next((field for field in owned if getattr(e, field)), "status")
    return Invalid(name, f"{name} is set by the server; leave it out")


def is_json(content_type: str) -> bool:
    """True for a JSON media type, whatever its parameters."""
    media = content_type.partition(";")[0].strip().lower()
    return media == JSON_CONTENT or (media.startswith("application/") and media.endswith("+json"))


__all__ = [
    "COMMAND",
    "FRAME_CONTENT",
    "JSON_CONTENT",
    "MAX_HEADERS",
    "MAX_HEADER_BYTES",
    "MESSAGE",
    "REPLY",
    "SIGNAL",
    "Envelope",
    "check",
    "check_optional",
    "is_json",
    "is_plain",
]
