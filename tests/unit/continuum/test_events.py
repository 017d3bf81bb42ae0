"""Parsing events: every fault has its sentence, and any bytes are valid or refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.continuum.events import (
    MAX_BYTES,
    MAX_FAULTS,
    TYPES,
    InvalidEvent,
    encode_event,
    parse_event,
)
from arqonbus.continuum.reflex import Boundary
from arqonbus.protocol.errors import Code
from arqonbus.protocol.ids import derived_ulid
from arqonbus.storage.projection import Event

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
BORN = int(NOW.timestamp() * 1000)
ABSENT = object()

SOUND = {
    "event_id": derived_ulid(BORN, "event"),
    "event_type": "episode.updated",
    "tenant_id": "demo",
    "agent_id": "agent-1",
    "episode_id": derived_ulid(BORN, "episode"),
    "source_ts": "2026-03-15T11:59:59.123456Z",
    "schema_version": 1,
    "payload": {"content_ref": "sqlite://episodes/1", "tags": ["a", "b"], "metadata": {"n": 1.5}},
}


def _raw(path: str = "", value: object = ABSENT) -> bytes:
    """A sound event with one thing another way, or without it."""
    record = json.loads(json.dumps(SOUND))
    if path:
        *way, name = path.split(".")
        place = record
        for step in way:
            place = place[step]
        place.pop(name, None)
        if value is not ABSENT:
            place[name] = value
    return json.dumps(record).encode()


def _refused(raw: bytes) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        parse_event(raw, "demo", now=NOW)
    return caught.value


def test_a_sound_event_is_taken_as_it_is():
    """Every field, its times in UTC, and the time in its id."""
    assert parse_event(_raw(), "demo", now=NOW) == Event(
        "demo", "agent-1", SOUND["event_id"], NOW, SOUND["episode_id"], "episode.updated",
        NOW - timedelta(microseconds=876_544), 1, "sqlite://episodes/1", ("a", "b"), {"n": 1.5}, None, None,
    )  # fmt: skip


FAULTS = [
    ("event_id", ABSENT, "event_id is missing; it is text"),
    ("event_id", 7, "event_id is a number, and not text"),
    ("event_id", "seven", "event_id is no ULID and no UUIDv7 in its canonical form"),
    ("event_id", SOUND["event_id"].lower(), "event_id is no ULID and no UUIDv7 in its canonical form"),
    ("event_id", derived_ulid(0, "old"), "event_id is from 1970-01-01, before anything that could"),
    ("event_id", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "event_id is more than 24 h in the future"),
    ("event_type", "episode.exploded", "event_type is none of episode.created, episode.updated"),
    ("event_type", None, "event_type is null, and not text"),
    ("tenant_id", "other", "tenant_id is not the tenant of the token that published it"),
    ("agent_id", "", "agent_id is no name; write 1-128 of A-Z a-z 0-9 . _ -"),
    ("agent_id", "a b", "agent_id is no name"),
    ("agent_id", "a:b", "agent_id is no name"),
    ("agent_id", "a" * 129, "agent_id is no name"),
    ("episode_id", "018e0000-0000-7000-8000-000000000000", "episode_id is no ULID in its canonical form"),
    ("source_ts", "2026-03-15T12:00:00", "source_ts is no time in UTC with six decimals at most, such as"),
    ("source_ts", "2026-03-15T12:00:00+01:00", "source_ts is no time in UTC"),
    ("source_ts", "2026-03-15T12:00:00.1234567Z", "source_ts is no time in UTC"),
    ("source_ts", "2026-03-15", "source_ts is no time in UTC"),
    ("source_ts", 1_773_576_000, "source_ts is a number, and not text"),
    ("source_ts", "2026-02-30T12:00:00Z", "source_ts is a time that does not exist"),
    ("source_ts", "2026-03-16T12:00:01Z", "source_ts is more than 24 h in the future"),
    ("source_ts", "1999-12-31T23:59:59Z", "source_ts is before 2000-01-01"),
    ("schema_version", "1", "schema_version is text, and not a whole number"),
    ("schema_version", True, "schema_version is true or false, and not a whole number"),
    ("schema_version", 1.0, "schema_version is a number, and not a whole number"),
    ("schema_version", 2, "schema_version is 2, and this version knows 1"),
    ("payload", ABSENT, "payload is missing; it is an object"),
    ("payload", [], "payload is a list, and not an object"),
    ("payload.content_ref", ABSENT, "payload.content_ref is missing; it is text"),
    ("payload.content_ref", "  ", "payload.content_ref is empty"),
    ("payload.content_ref", "x" * 2049, "payload.content_ref has more than 2048 characters"),
    ("payload.tags", ABSENT, "payload.tags is missing; it is a list of texts"),
    ("payload.tags", "a,b", "payload.tags is text, and not a list of texts"),
    ("payload.tags", ["a", 1], "payload.tags[1] is a number, and not text"),
    ("payload.tags", ["a"] * 257, "payload.tags has more than 256 tags"),
    ("payload.tags", ["a" * 257], "or one of more than 256 characters"),
    ("payload.metadata", None, "payload.metadata is null, and not an object"),
    ("payload.metadata", ["a"], "payload.metadata is a list, and not an object"),
    ("payload.summary", 5, "payload.summary is a number, and not text"),
    ("payload.summary", "s" * 4097, "payload.summary has more than 4096 characters; a longer one is content"),
    ("payload.embedding_ref", "", "payload.embedding_ref is empty"),
    ("payload.importance", 1, "payload.importance is no field of schema version 1"),
    ("signature", "x", "signature is no field of schema version 1"),
    ("payload.metadata.deep", "a\0b", "payload holds a NUL character, which no store keeps"),
    ("payload.tags", ["\0"], "payload holds a NUL character"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "sentence"), FAULTS)
def test_each_fault_has_its_sentence(path, value, sentence):
    """It names the field; agent and event are told where they are sound."""
    refused = _refused(_raw(path, value))
    assert len(refused.faults) == 1
    assert sentence in str(refused)
    assert refused.code is (Code.TENANT_MISMATCH if path == "tenant_id" else Code.VALIDATION_ERROR)
    assert refused.agent == ("" if path == "agent_id" else "agent-1")
    if path != "event_id":
        assert refused.event == SOUND["event_id"]


BLOCKED = [
    ("payload.metadata.raw_content", "hello", "payload.metadata.raw_content is content"),
    ("payload.metadata.a", {"b": [{"embedding_vector": []}]}, "payload.metadata.a.b[0].embedding_vector"),
    ("payload.metadata.vector", [0.5] * 33, "payload.metadata.vector is a vector of 33 numbers"),
    ("payload.metadata.page", "data:text/html,x", "payload.metadata.page is an inline body (data:)"),
    ("payload.content_ref", "data:,hello", "payload.content_ref is an inline body"),
    ("payload.metadata.big", "x" * 65_537, "payload.metadata.big is larger than 65536 bytes"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), BLOCKED)
def test_what_crosses_the_reflex_boundary_is_named(path, value, sentence):
    """As blocked by policy, with the path to it."""
    refused = _refused(_raw(path, value))
    assert refused.code is Code.POLICY_BLOCKED
    assert sentence in str(refused)


UNREADABLE = [
    (b"", Code.DECODE_ERROR, "the payload is no JSON in UTF-8"),
    (b"{", Code.DECODE_ERROR, "the payload is no JSON in UTF-8"),
    (b'{"a": "\xff"}', Code.DECODE_ERROR, "the payload is no JSON in UTF-8"),
    (_raw().replace(b"sqlite://", b"\\ud800"), Code.DECODE_ERROR, "the payload is no JSON in UTF-8"),
    (b'{"a": 1e999}', Code.DECODE_ERROR, "the payload holds a number that is out of range"),
    (b'{"a": NaN}', Code.DECODE_ERROR, "the payload is no JSON in UTF-8"),
    (b"[" * 100_000, Code.DECODE_ERROR, "the payload is too deep to be read"),
    (b"null", Code.VALIDATION_ERROR, "the payload is null, and not an object"),
    (b'"event"', Code.VALIDATION_ERROR, "the payload is text, and not an object"),
    (b" " * (MAX_BYTES + 1), Code.TOO_LARGE, "the event has 262145 bytes, and 262144 are the most"),
]


@pytest.mark.parametrize(("raw", "code", "sentence"), UNREADABLE, ids=[each[2] for each in UNREADABLE])
def test_what_is_no_object_is_refused(raw, code, sentence):
    """As what it is."""
    refused = _refused(raw)
    assert (refused.code, sentence in str(refused)) == (code, True)


def test_everything_that_is_wrong_is_said_at_once():
    """In a record that has the shape of an event, and in one that has not."""
    record = SOUND | {"agent_id": "", "schema_version": 3, "event_type": "x"}
    assert len(_refused(json.dumps(record).encode()).faults) == 3
    assert len(_refused(b"{}").faults) == 8


def test_faults_are_few_short_and_printable():
    """Whatever stands in the record: they are stored, logged and shown."""
    record = SOUND | {f"\0\x1b[2J{n}" + "x" * 400: n for n in range(100)}
    refused = _refused(json.dumps(record).encode())
    assert len(refused.faults) == MAX_FAULTS + 1
    assert refused.faults[-1] == "and 80 more"
    assert str(refused).isprintable()
    deep = SOUND | {"payload": SOUND["payload"] | {"metadata": {"\0" + "k" * 5000: {"raw_content": 1}}}}
    refused = _refused(json.dumps(deep).encode())
    assert str(refused).isprintable()
    assert len(str(refused)) < 400


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).filter(
    lambda text: not text.lower().startswith("data:")
)
_numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=8,
)
_references = _texts.map(lambda text: "ram://" + text)


@given(
    type=st.sampled_from(TYPES),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2026, 3, 15), timezones=st.just(UTC)),
    reference=_references,
    tags=st.lists(_texts, max_size=5),
    metadata=st.dictionaries(_texts, _json, max_size=4),
    summary=st.none() | _texts,
    embedding=st.none() | _references,
)
def test_an_event_survives_its_encoding(type, at, reference, tags, metadata, summary, embedding):
    """The same values, of the same types."""
    event = Event(
        "demo", "agent-1", SOUND["event_id"], NOW, SOUND["episode_id"], type, at, 1, reference, tuple(tags),
        metadata, summary, embedding,
    )  # fmt: skip
    open_boundary = Boundary(frozenset(), 0)
    again = parse_event(encode_event(event), "demo", now=NOW, boundary=open_boundary)
    assert again == event
    assert repr(again.metadata) == repr(metadata)


def _outcome(raw: bytes) -> Event | InvalidEvent:
    try:
        return parse_event(raw, "demo", now=NOW)
    except InvalidEvent as refused:
        return refused


@given(st.binary(max_size=200) | _json.map(msgspec.json.encode))
def test_any_bytes_are_an_event_or_refused(raw):
    """With faults that can be shown; nothing else happens."""
    outcome = _outcome(raw)
    assert isinstance(outcome, Event) or (outcome.faults and str(outcome).isprintable())


@given(st.data())
def test_any_change_to_an_event_gives_one_or_is_refused(data):
    """Fields with any value, and bytes that are flipped; what is an event still survives its encoding."""
    record = SOUND | {"payload": dict(SOUND["payload"])}
    where = data.draw(st.sampled_from([record, record["payload"]]))
    where[data.draw(st.sampled_from(sorted(where)))] = data.draw(_json)
    raw = bytearray(msgspec.json.encode(record))
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    outcome = _outcome(bytes(raw))
    if isinstance(outcome, Event):
        assert parse_event(encode_event(outcome), "demo", now=NOW) == outcome
    else:
        assert str(outcome).isprintable()
