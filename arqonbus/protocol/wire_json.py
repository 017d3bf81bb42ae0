"""JSON frames: one envelope a line. For people, browsers and the edge. Pure.

The fields have the names of the protobuf schema, with these differences: `time` and `server_time` are
RFC 3339 in UTC with microseconds; `durability` is in lower case; `payload` is any JSON value where the
content type is JSON, and `payload_b64` is base64 where it is not; integers beyond 2^53-1 are written as
strings, and both forms are read. A JSON payload passes through as the text it was, so that no number is
rounded on the way. A key that stands twice is refused: two readers would disagree about its value.
Sources: RFC 8259, RFC 3339, RFC 4648.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol.envelope import JSON_CONTENT, Envelope, is_json
from arqonbus.protocol.errors import Code, DecodeError, Invalid

MAX_ENVELOPES = 4096
MAX_DEPTH = 64
SHORT_LINE = 4096  # characters that are read whole at little cost
MAX_LINE_BYTES = 64 * 1024  # of a line that a client sends, beside its payload
MAX_SAFE_INTEGER = (1 << 53) - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d)(?:\.(\d{1,6}))?(Z|[+-]\d\d:\d\d)",
    re.ASCII | re.IGNORECASE,
)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class _Fields(msgspec.Struct, forbid_unknown_fields=False, omit_defaults=True):
    """The JSON form of an envelope, in the order it is written. No type is converted into another."""

    kind: str = ""
    id: str = ""
    tenant: str = ""
    room: str = ""
    channel: str = ""
    sender: str = ""
    name: str = ""
    epoch: str = ""
    content_type: str = ""
    reply_to: str = ""
    recipient: str = ""
    cause: str = ""
    trace: str = ""
    time: str | None = None
    server_time: str | None = None
    sequence: int | str = 0
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload_b64: str | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, str] = {}
    clock: dict[str, int | str] = {}
    signature: str = ""
    durability: str = ""
    duplicate: bool = False
    status: dict[str, Any] | None = None


KNOWN_KEYS: Final = frozenset(field.name for field in msgspec.structs.fields(_Fields))
_PLAIN_TEXT: Final = (
    "id",
    "tenant",
    "room",
    "channel",
    "sender",
    "name",
    "epoch",
    "content_type",
    "reply_to",
    "recipient",
    "cause",
    "trace",
)
_read_fields: Callable[[bytes], _Fields] = msgspec.json.Decoder(_Fields).decode
_write: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_read: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_read_members: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_KINDS: Final[dict[int, str]] = {number: name if number else "" for name, number in pb.Kind.items()}
_DURABILITIES: Final[dict[int, str]] = {number: name.lower() for name, number in pb.Durability.items()}


class JsonLine(NamedTuple):
    """One line of a frame: an envelope or what is wrong with it, and how many unknown keys it had.

    `id` is what the line claimed as its id, so that a refusal can be sent as a reply to it.
    """

    envelope: Envelope | None
    error: Invalid | None
    id: str
    unknown_keys: int


def decode(frame: str, most: int = MAX_ENVELOPES, max_payload_bytes: int = sys.maxsize) -> list[JsonLine]:
    """The lines of a frame in order. DecodeError if a line is not a JSON object as it must be.

    `most`: what a bus takes from a client. What the bus sends in one frame is bounded by its bytes only. Of
    a line with a payload of more than `max_payload_bytes` the payload is not read.
    """
    lines: list[JsonLine] = []
    offset = 0
    for text in frame.split("\n"):
        if text and not text.isspace():
            if len(lines) == most:
                raise DecodeError(f"the frame has more than {most} envelopes", offset)
            lines.append(_decode_line(text, offset, max_payload_bytes))
        offset += len(text) + 1
    if not lines:
        raise DecodeError("the frame is empty", 0)
    return lines


def claimed_ids(frame: str, most: int = MAX_ENVELOPES) -> list[str]:
    """The ids that the lines of a frame claim, '' where one has none. DecodeError as from `decode`."""
    ids: list[str] = []
    offset = 0
    for text in frame.split("\n"):
        if text and not text.isspace():
            try:
                ids.append(_claimed_id(_read_members(text.encode())))
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                raise DecodeError("the line is not a JSON object in UTF-8", offset) from None
            if len(ids) > most:
                raise DecodeError(f"the frame has more than {most} envelopes", offset)
        offset += len(text) + 1
    return ids


def _claimed_id(members: Mapping[str, Any]) -> str:
    claimed = members.get("id", "")
    if isinstance(claimed, msgspec.Raw):
        claimed = _read(bytes(claimed))
    return claimed if isinstance(claimed, str) else ""


def _decode_line(text: str, offset: int, max_payload_bytes: int) -> JsonLine:
    if len(text) <= SHORT_LINE:
        given: Mapping[str, Any] = read_object(text, offset, _read_digits)
    else:
        given = _read_long_line(text, offset)
    claimed = _claimed_id(given)
    unknown = sum(1 for key in given if key not in KNOWN_KEYS)
    try:
        data = text.encode()
        if len(text) > SHORT_LINE:
            _check_line_size(data, given, max_payload_bytes)
            # If the line is the only object in it, every colon outside of strings stands behind a key of it.
            if text.count("{") == 1:
                repeated = len(given) != _outside_strings(text).count(":")
            else:
                repeated = _has_repeated_key(text)
            if repeated:
                raise DecodeError("a JSON object has the same key twice", offset)
        return JsonLine(_envelope(_read_fields(data)), None, claimed, unknown)
    except Invalid as error:
        return JsonLine(None, error, claimed, unknown)
    except msgspec.ValidationError as error:
        return JsonLine(None, _mistyped(str(error)), claimed, unknown)
    except (msgspec.DecodeError, UnicodeError):
        raise DecodeError("the line is not valid JSON in UTF-8", offset) from None


def _read_long_line(text: str, offset: int) -> Mapping[str, msgspec.Raw]:
    """The members of a line that is a JSON object, as they stand there: nothing is built of them."""
    if nesting_exceeds(text, MAX_DEPTH):
        raise DecodeError(f"the JSON is nested deeper than {MAX_DEPTH} levels", offset)
    try:
        return _read_members(text.encode())
    except (msgspec.DecodeError, UnicodeError):
        if len(text) <= MAX_LINE_BYTES:
            read_object(text, offset, _read_digits)  # which says what is wrong, and where
        raise DecodeError("the line is not a JSON object in UTF-8", offset) from None


def _check_line_size(data: bytes, members: Mapping[str, msgspec.Raw], max_payload_bytes: int) -> None:
    """Raise Invalid before a line is worked through that is larger than an envelope may be."""
    payload = len(bytes(members.get("payload", b"")))
    if payload > max_payload_bytes:
        raise Invalid("payload", f"the payload is larger than {max_payload_bytes} bytes", Code.TOO_LARGE)
    rest = len(data) - payload - len(bytes(members.get("payload_b64", b"")))
    if max_payload_bytes < sys.maxsize and rest > MAX_LINE_BYTES:
        raise Invalid(
            "envelope", f"the line without its payload is larger than {MAX_LINE_BYTES} bytes", Code.TOO_LARGE
        )


def read_object(text: str, offset: int = 0, read: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """A JSON object, read strictly: bounded depth, no key twice, no NaN. Raises DecodeError."""
    if nesting_exceeds(text, MAX_DEPTH):
        raise DecodeError(f"the JSON is nested deeper than {MAX_DEPTH} levels", offset)
    try:
        members = (read or _read_numbers)(text)
    except json.JSONDecodeError as error:
        raise DecodeError("the line is not valid JSON", offset + error.pos) from None
    except _RepeatedKey:
        raise DecodeError("a JSON object has the same key twice", offset) from None
    except ValueError:
        raise DecodeError(
            "NaN, Infinity and integers of thousands of digits are not accepted", offset
        ) from None
    if not isinstance(members, dict):
        raise DecodeError("the line is not a JSON object", offset)
    return members


class _RepeatedKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RepeatedKey
    return members


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def strict_reader(number: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    """Reads JSON as all readers would: no key twice, no NaN. `number` is made of the digits of each number.

    The reader raises ValueError, and RecursionError for what is nested too deeply.
    """
    return json.JSONDecoder(
        object_pairs_hook=_unique, parse_constant=_refuse, parse_int=number, parse_float=number
    ).decode


def _has_unique_keys(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        raise _RepeatedKey


_check_keys = json.JSONDecoder(
    object_pairs_hook=_has_unique_keys, parse_constant=_refuse, parse_int=str, parse_float=str
).decode
_read_numbers = strict_reader()
_read_digits = strict_reader(str)


def nesting_exceeds(text: str, limit: int) -> bool:
    """True if arrays and objects are nested deeper than `limit`. Of invalid text it may be wrong.

    The innermost pairs of brackets are taken away, `limit` times: a few passes of C, whatever stands there.
    """
    if text.count("{") + text.count("[") <= limit:
        return False
    raw = _outside_strings(text).encode("utf-8", "replace")
    brackets = raw.translate(None, _NOT_BRACKETS).replace(b"{", b"[").replace(b"}", b"]")
    for _ in range(limit):
        rest = brackets.replace(b"[]", b"")
        if len(rest) == len(brackets):
            return rest.count(b"[") > limit
        brackets = rest
    return bool(brackets)


def _outside_strings(text: str) -> str:
    """The parts of a JSON text outside strings."""
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    return "".join(text.split('"')[::2]) if '"' in text else text


def _has_repeated_key(text: str) -> bool:
    """True if an object in a valid JSON text has the same key twice. Builds nothing but the keys."""
    try:
        _check_keys(text)
    except _RepeatedKey:
        return True
    return False


def _mistyped(text: str) -> Invalid:
    """msgspec says `Expected `str`, got `int` - at `$.room``: keep the types, name the field."""
    reason, _, path = text.partition(" - at ")
    field = re.sub(r"[\[.].*", "", path.strip("`").removeprefix("$").removeprefix(".")) or "envelope"
    return Invalid(field, f"{field} has the wrong type: {reason.replace('`', '').lower()}")


def _envelope(fields: _Fields) -> Envelope:
    envelope = Envelope()
    for name in _PLAIN_TEXT:
        value = getattr(fields, name)
        if value:
            setattr(envelope, name, value)
    envelope.kind = _enum(pb.Kind, "kind", fields.kind)
    if fields.time is not None:
        envelope.time_us = parse_time("time", fields.time)
    if fields.server_time is not None:
        envelope.server_time_us = parse_time("server_time", fields.server_time)
    envelope.sequence = _unsigned("sequence", fields.sequence)
    _set_payload(envelope, fields)
    for key, text in fields.headers.items():
        envelope.headers[key] = text
    for actor, counter in fields.clock.items():
        envelope.clock[actor] = _unsigned("clock", counter)
    if fields.signature:
        envelope.signature = _unbase64("signature", fields.signature)
    if fields.durability:
        envelope.durability = _enum(pb.Durability, "durability", fields.durability.upper())
    envelope.duplicate = fields.duplicate
    if fields.status is not None:
        _set_status(envelope, fields.status)
    return envelope


def _enum(enum: Any, field: str, text: str) -> Any:
    if not text:
        return 0
    if text not in enum.keys() or text.endswith("_UNSPECIFIED"):  # noqa: SIM118  (a protobuf enum is no dict)
        raise Invalid(field, f"{field} is not one of {', '.join(enum.keys()[1:])}")
    return enum.Value(text)


def _unsigned(field: str, value: int | str) -> int:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 20):
            raise Invalid(field, f"{field} is not a decimal integer")
        value = int(value)
    if not 0 <= value < 1 << 64:
        raise Invalid(field, f"{field} is outside 0..2^64-1")
    return value


def _set_payload(envelope: Envelope, fields: _Fields) -> None:
    if isinstance(fields.payload_b64, str):
        if not isinstance(fields.payload, msgspec.UnsetType):
            raise Invalid("payload", "an envelope has either payload or payload_b64, not both")
        envelope.payload = _unbase64("payload_b64", fields.payload_b64)
    elif not isinstance(fields.payload, msgspec.UnsetType):
        if not fields.content_type:
            envelope.content_type = JSON_CONTENT
        elif not is_json(fields.content_type):
            raise Invalid("payload", "payload is JSON but content_type is not; use payload_b64")
        envelope.payload = bytes(fields.payload)


def _unbase64(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(field, f"{field} is not base64 with padding") from None


def _set_status(envelope: Envelope, status: dict[str, Any]) -> None:
    try:
        envelope.status.code = status.get("code", "")
        envelope.status.message = status.get("message", "")
        envelope.status.retry_after_ms = status.get("retry_after_ms", 0)
        envelope.status.details.update(status.get("details", {}))
    except (TypeError, ValueError):
        raise Invalid("status", "status is not {code, message, retry_after_ms, details}") from None


def parse_time(field: str, text: str) -> int:
    """Microseconds since 1970 UTC from RFC 3339. A time without a zone, or finer than µs, is Invalid."""
    match = _RFC3339.fullmatch(text)
    if not match:
        if _RFC3339.fullmatch(text + "Z"):
            raise Invalid(field, f"{field} has no time zone; end it with Z")
        raise Invalid(
            field, f"{field} is not RFC 3339 with at most 6 decimals, as 2026-01-31T12:00:00.000001Z"
        )
    seconds, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(seconds.upper() + ("+00:00" if zone in "Zz" else zone))
        since = moment.astimezone(UTC) - _EPOCH  # an offset must not lead out of the years 1 to 9999
    except (ValueError, OverflowError):
        raise Invalid(field, f"{field} is not a date that exists") from None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + int((fraction or "").ljust(6, "0"))


def format_time(time_us: int) -> str:
    """RFC 3339 in UTC with six decimals."""
    seconds, fraction = divmod(time_us, 1_000_000)
    return f"{_format_second(seconds)}.{fraction:06d}Z"


@lru_cache(maxsize=4096)
def _format_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds").removesuffix("+00:00")


def encode(envelope: Envelope) -> bytes:
    """The envelope as one line without its newline. Unset fields are left out."""
    fields = _Fields(
        _name_in(_KINDS, envelope.kind),
        envelope.id,
        envelope.tenant,
        envelope.room,
        envelope.channel,
        envelope.sender,
        envelope.name,
        envelope.epoch,
        envelope.content_type,
        envelope.reply_to,
        envelope.recipient,
        envelope.cause,
        envelope.trace,
        format_time(time_us) if (time_us := envelope.time_us) else None,
        format_time(time_us) if (time_us := envelope.server_time_us) else None,
        safe_integer(envelope.sequence),
    )
    _write_payload(envelope, fields)
    if envelope.headers:
        fields.headers = dict(envelope.headers)
    if envelope.clock:
        fields.clock = {actor: safe_integer(counter) for actor, counter in envelope.clock.items()}
    if envelope.signature:
        fields.signature = base64.b64encode(envelope.signature).decode()
    if envelope.durability:
        fields.durability = _name_in(_DURABILITIES, envelope.durability)
    if envelope.duplicate:
        fields.duplicate = True
    if envelope.HasField("status"):
        fields.status = _status(envelope.status)
    return _write(fields)


def _name_in(names: Mapping[int, str], number: int) -> str:
    """Name of an enum value; unknown values keep their number; empty for 0."""
    return names[number] if number in names else str(number)


def safe_integer(value: int) -> int | str:
    """The integer as JSON writes it: a string where not every reader keeps it exact."""
    return value if value <= MAX_SAFE_INTEGER else str(value)


def _status(status: pb.Status) -> dict[str, Any]:
    fields: dict[str, Any] = {"code": status.code}
    if status.message:
        fields["message"] = status.message
    if status.retry_after_ms:
        fields["retry_after_ms"] = status.retry_after_ms
    if status.details:
        fields["details"] = dict(status.details)
    return fields


def _write_payload(envelope: Envelope, fields: _Fields) -> None:
    payload = envelope.payload
    if is_json(fields.content_type):
        text = one_line_json(payload)
        if text is not None and (text == payload == payload.strip() or not envelope.signature):
            fields.payload = msgspec.Raw(text)
            return
    if payload:
        fields.payload_b64 = base64.b64encode(payload).decode()


def one_line_json(payload: bytes) -> bytes | None:
    """The payload as JSON text without line breaks, or None if it is not JSON that all can read.

    A producer on the protobuf wire may call anything JSON. What is embedded in a frame of the bus must be
    one value, valid, without a key twice, less deep by one than the whole line, and must not end the line.
    Otherwise the reader would have to refuse the frame, and with it what others have sent.
    """
    try:
        text = payload.decode()
        if not _is_flat(text, payload) and (
            nesting_exceeds(text, MAX_DEPTH - 1) or ("{" in text and _has_repeated_key(text))
        ):
            return None
        formatted: bytes = msgspec.json.format(payload, indent=-1)
    except (ValueError, msgspec.DecodeError):
        return None
    return formatted if b"\n" in payload or b"\r" in payload else payload


def _is_flat(text: str, payload: bytes) -> bool:
    """True for one object without nested containers and repeated keys, by one scan.

    Every key is followed by a colon. Where there are no more colons than different keys, none stands twice.
    """
    if "[" in text or text.count("{") != 1:
        return False
    try:
        members = _read(payload)
    except msgspec.DecodeError:  # a number that no double holds, or no JSON: looked at closely
        return False
    return isinstance(members, dict) and len(members) == text.count(":")


def frame_of(envelopes: Iterable[Envelope]) -> bytes:
    """One text frame, in UTF-8."""
    return b"\n".join([encode(envelope) for envelope in envelopes])


__all__ = [
    "MAX_DEPTH",
    "MAX_ENVELOPES",
    "JsonLine",
    "claimed_ids",
    "decode",
    "encode",
    "format_time",
    "frame_of",
    "parse_time",
    "read_object",
    "safe_integer",
    "strict_reader",
]
