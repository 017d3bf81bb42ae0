"""Validation of events (the Continuum contract, v1), with a sentence for each fault.

Pure. Sound events take the fast way, through one typed decoder; only what that refuses is looked at again,
field by field, so that all faults are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from arqonbus.continuum.reflex import FORBIDDEN_KEYS, Boundary
from arqonbus.protocol.errors import Code
from arqonbus.protocol.ids import born_ms, is_message_id, is_ulid
from arqonbus.protocol.names import is_name
from arqonbus.storage.projection import Event

ROOM = "continuum.episode.v1"
DEAD_ROOM = "continuum.episode.dlq.v1"
SCHEMA_VERSION = 1
TYPES = ("episode.created", "episode.updated", "episode.deleted", "episode.summarized")

MAX_BYTES = 256 * 1024
MAX_REFERENCE = 2048
MAX_TAGS = 256
MAX_TAG = 256
MAX_SUMMARY = 4096
MAX_AHEAD = timedelta(hours=24)  # a clock that is wrong by more would win over every later event
OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
MAX_FAULTS = 20
MAX_FAULT = 300

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_000  # an id may hold a time beyond the year 9999, and no store does
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)", re.ASCII)


class InvalidEvent(ValueError):
    """An invalid event: a stable code, every fault, and agent and event as far as they are known."""

    def __init__(self, code: Code, faults: tuple[str, ...], agent: str = "", event: str = "") -> None:
        self.code = code
        self.faults = tuple(map(_shown, faults[:MAX_FAULTS]))
        if len(faults) > MAX_FAULTS:
            self.faults += (f"and {len(faults) - MAX_FAULTS} more",)
        super().__init__("; ".join(self.faults))
        self.agent = agent
        self.event = event


def _shown(fault: str) -> str:
    """A fault names what stood in the record, which may be anything: it is stored, and shown to people."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in fault[:MAX_FAULT])
    return shown if len(shown) <= MAX_FAULT else f"{shown[:MAX_FAULT]}…"


class _Payload(msgspec.Struct, forbid_unknown_fields=True):
    content_ref: str
    tags: list[str]
    metadata: dict[str, Any]
    summary: str | None = None
    embedding_ref: str | None = None


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    event_id: str
    event_type: str
    tenant_id: str
    agent_id: str
    episode_id: str
    source_ts: str
    schema_version: int
    payload: _Payload


_decode = msgspec.json.Decoder(_Event, strict=True).decode
_BOUNDARY = Boundary()


def parse_event(
    raw: bytes, tenant: str, *, now: datetime | None = None, boundary: Boundary = _BOUNDARY
) -> Event:
    """The event in a payload that a client of this tenant published. Raises InvalidEvent with every fault."""
    if len(raw) > MAX_BYTES:
        fault = f"the event has {len(raw)} bytes, and {MAX_BYTES} are the most; publish references"
        raise InvalidEvent(Code.TOO_LARGE, (fault,))
    try:
        given = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _described(raw, tenant, boundary) from None
    faults = tuple(_faults(given, tenant, now or datetime.now(UTC)))
    if faults:
        raise InvalidEvent(_code(given.tenant_id, tenant), faults, *_identity(given.agent_id, given.event_id))
    payload = given.payload
    crossing = tuple(_crossing(payload, boundary))
    if crossing:
        raise InvalidEvent(Code.POLICY_BLOCKED, crossing, given.agent_id, given.event_id)
    if b"\\u0000" in raw and _holds_nul(msgspec.json.decode(raw)):
        fault = "payload holds a NUL character, which no store keeps; leave it out"
        raise InvalidEvent(Code.VALIDATION_ERROR, (fault,), given.agent_id, given.event_id)
    return Event(
        given.tenant_id, given.agent_id, given.event_id, _id_time(given.event_id), given.episode_id,
        given.event_type, datetime.fromisoformat(given.source_ts), given.schema_version, payload.content_ref,
        tuple(payload.tags), payload.metadata, payload.summary, payload.embedding_ref,
    )  # fmt: skip


def _crossing(payload: _Payload, boundary: Boundary) -> Iterator[str]:
    yield from boundary.faults(payload.metadata, "payload.metadata")
    for name in ("content_ref", "embedding_ref", "summary", "tags"):
        yield from boundary.faults(getattr(payload, name), f"payload.{name}")


def encode_event(event: Event) -> bytes:
    """The payload that gives this event again."""
    payload: dict[str, Any] = {
        "content_ref": event.content_ref,
        "tags": list(event.tags),
        "metadata": event.metadata,
    }
    if event.summary is not None:
        payload["summary"] = event.summary
    if event.embedding_ref is not None:
        payload["embedding_ref"] = event.embedding_ref
    return msgspec.json.encode(
        {
            "event_id": event.event,
            "event_type": event.type,
            "tenant_id": event.tenant,
            "agent_id": event.agent,
            "episode_id": event.episode,
            "source_ts": event.source_ts.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "schema_version": event.schema_version,
            "payload": payload,
        }
    )


def _faults(given: _Event, tenant: str, now: datetime) -> Iterator[str]:
    if given.tenant_id != tenant:
        yield "tenant_id is not the tenant of the token that published it"
    if not is_message_id(given.event_id):
        yield "event_id is no ULID and no UUIDv7 in its canonical form"
    elif (born := _id_time(given.event_id)) < OLDEST:
        yield f"event_id is from {born:%Y-%m-%d}, before anything that could have made it"
    elif born > now + MAX_AHEAD:
        yield "event_id is more than 24 h in the future; the clock that made it is wrong"
    if given.event_type not in TYPES:
        yield f"event_type is none of {', '.join(TYPES)}"
    if not is_name(given.agent_id):
        yield "agent_id is no name; write 1-128 of A-Z a-z 0-9 . _ -"
    if not is_ulid(given.episode_id):
        yield "episode_id is no ULID in its canonical form"
    yield from _time_faults(given.source_ts, now)
    if given.schema_version != SCHEMA_VERSION:
        yield f"schema_version is {given.schema_version}, and this version knows {SCHEMA_VERSION}"
    yield from _payload_faults(given.payload)


def _time_faults(text: str, now: datetime) -> Iterator[str]:
    if not _TIME.fullmatch(text):
        yield "source_ts is no time in UTC with six decimals at most, such as 2026-01-31T12:00:00.123456Z"
        return
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        yield "source_ts is a time that does not exist"
        return
    if time > now + MAX_AHEAD:
        yield "source_ts is more than 24 h in the future; the clock that made it is wrong"
    elif time < OLDEST:
        yield f"source_ts is before {OLDEST:%Y-%m-%d}; the clock that made it is wrong"


def _payload_faults(payload: _Payload) -> Iterator[str]:
    for name in ("content_ref", "embedding_ref"):
        reference = getattr(payload, name)
        if reference is None:
            continue
        if not reference.strip():
            yield f"payload.{name} is empty; it is the reference that all of this is about"
        elif len(reference) > MAX_REFERENCE:
            yield f"payload.{name} has more than {MAX_REFERENCE} characters; it is a reference, not content"
    if len(payload.tags) > MAX_TAGS or any(len(tag) > MAX_TAG for tag in payload.tags):
        yield f"payload.tags has more than {MAX_TAGS} tags, or one of more than {MAX_TAG} characters"
    if payload.summary is not None and len(payload.summary) > MAX_SUMMARY:
        yield f"payload.summary has more than {MAX_SUMMARY} characters; a longer one is content"


def _code(claimed: str, tenant: str) -> Code:
    return Code.TENANT_MISMATCH if claimed != tenant else Code.VALIDATION_ERROR


def _id_time(event: str) -> datetime:
    return _EPOCH + timedelta(milliseconds=min(born_ms(event), _LAST_MS))


def _identity(agent: Any, event: Any) -> tuple[str, str]:
    """Agent and event, as far as they are what they should be: they are shown, and looked for."""
    return (
        agent if isinstance(agent, str) and is_name(agent) else "",
        event if isinstance(event, str) and is_message_id(event) else "",
    )


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(each) for pair in value.items() for each in pair)
    return isinstance(value, (list, tuple)) and any(map(_holds_nul, value))


# -- what is wrong with a record that has not the shape of an event

_FIELDS: Mapping[str, tuple[type, str]] = {
    "event_id": (str, "text"),
    "event_type": (str, "text"),
    "tenant_id": (str, "text"),
    "agent_id": (str, "text"),
    "episode_id": (str, "text"),
    "source_ts": (str, "text"),
    "schema_version": (int, "a whole number"),
    "payload": (dict, "an object"),
}
_PAYLOAD_FIELDS: Mapping[str, tuple[type, str]] = {
    "content_ref": (str, "text"),
    "tags": (list, "a list of texts"),
    "metadata": (dict, "an object"),
    "summary": (str, "text"),
    "embedding_ref": (str, "text"),
}
_OPTIONAL = ("summary", "embedding_ref")


def _described(raw: bytes, tenant: str, boundary: Boundary) -> InvalidEvent:
    try:
        given = msgspec.json.decode(raw)
    except RecursionError:
        return InvalidEvent(Code.DECODE_ERROR, ("the payload is too deep to be read",))
    except msgspec.ValidationError:
        fault = "the payload holds a number that is out of range; write it as text"
        return InvalidEvent(Code.DECODE_ERROR, (fault,))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return InvalidEvent(Code.DECODE_ERROR, ("the payload is no JSON in UTF-8",))
    if not isinstance(given, dict):
        return InvalidEvent(Code.VALIDATION_ERROR, (f"the payload is {_shape(given)}, and not an object",))
    faults = list(_shape_faults(given, _FIELDS, ""))
    payload = given.get("payload")
    if isinstance(payload, dict):
        faults += _shape_faults(payload, _PAYLOAD_FIELDS, "payload.")
        tags = payload.get("tags")
        if isinstance(tags, list):
            faults += [
                f"payload.tags[{number}] is {_shape(tag)}, and not text"
                for number, tag in enumerate(tags)
                if not isinstance(tag, str)
            ]
        faults += boundary.faults(payload)
    claimed = given.get("tenant_id")
    identity = _identity(given.get("agent_id"), given.get("event_id"))
    return InvalidEvent(
        _code(claimed, tenant) if isinstance(claimed, str) else Code.VALIDATION_ERROR,
        tuple(faults) or ("the payload has not the shape of an event",),
        *identity,
    )


def _shape_faults(
    given: Mapping[str, Any], fields: Mapping[str, tuple[type, str]], prefix: str
) -> Iterator[str]:
    for name, (kind, words) in fields.items():
        if name not in given:
            if name not in _OPTIONAL:
                yield f"{prefix}{name} is missing; it is {words}"
        elif given[name] is None and name in _OPTIONAL:
            continue
        elif not isinstance(given[name], kind) or isinstance(given[name], bool):
            yield f"{prefix}{name} is {_shape(given[name])}, and not {words}"
    for name in given.keys() - fields.keys() - FORBIDDEN_KEYS:
        yield f"{prefix}{name[:40]} is no field of schema version {SCHEMA_VERSION}"


def _shape(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")


__all__ = [
    "DEAD_ROOM",
    "ROOM",
    "SCHEMA_VERSION",
    "TYPES",
    "InvalidEvent",
    "encode_event",
    "parse_event",
]
