"""JSON frames."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arqonbus.protocol import wire_json as wire
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import DecodeError, Invalid

from .envelopes import any_envelopes

JSON = "application/json"


def read(text: str) -> Envelope:
    """The one envelope of a frame that is right."""
    [line] = wire.decode(text)
    assert line.error is None, line.error
    assert line.envelope is not None
    return line.envelope


def refused(text: str) -> Invalid:
    """What is wrong with the one line of a frame."""
    [line] = wire.decode(text)
    assert line.envelope is None
    assert line.error is not None
    return line.error


@given(st.lists(any_envelopes(), min_size=1, max_size=4))
def test_frames_are_read_as_they_were_written(envelopes: list[Envelope]) -> None:
    """Decoding is the inverse of encoding for every envelope: fields, 64-bit integers, payload bytes."""
    lines = wire.decode(wire.frame_of(envelopes).decode())
    assert [line.error for line in lines] == [None] * len(envelopes)
    for line, envelope in zip(lines, envelopes, strict=True):
        assert line.envelope is not None
        if envelope.payload != line.envelope.payload:  # a JSON text keeps its value, not the space around it
            assert not envelope.signature
            assert json.loads(line.envelope.payload) == json.loads(envelope.payload)
            envelope.payload = line.envelope.payload
        assert line.envelope == envelope


JSON_PIECES = st.lists(
    st.sampled_from(
        [
            "{",
            "}",
            "[",
            "]",
            '"',
            ":",
            ",",
            "1",
            "0",
            "-",
            ".",
            "e5",
            "a",
            "\\",
            "\\u",
            "d800",
            "null",
            "NaN",
            '"a"',
            '"a":1',
            " ",
            "\n",
            "\r",
            "\t",
            "\x01",
            "\u2028",
            "é",
            "\ufeff",
            "true",
            "[" * 62,
            "]" * 62,
        ]
    ),
    max_size=12,
).map("".join)


@given(st.one_of(JSON_PIECES.map(str.encode), st.binary(max_size=20)), st.booleans())
@example(b'{"a":1,"a":2}', False)
@example(b"[" * 63 + b"]" * 63, False)
@example(b"[" * 64 + b"]" * 64, False)
@example(b'"\\ud800"', False)
@example(b' {"a" : 1}\r\n', True)
@example(b"9" * 5000, False)
def test_what_is_called_json_can_always_be_read(payload: bytes, signed: bool) -> None:
    """Whatever a producer calls JSON, its line can be read again and the lines beside it are not lost."""
    envelope = Envelope(content_type=JSON, payload=payload, signature=bytes(64 * signed))
    [before, line, after] = wire.decode(
        wire.frame_of([Envelope(id="a"), envelope, Envelope(id="b")]).decode()
    )
    assert (before.id, after.id) == ("a", "b")
    assert line.envelope is not None
    if line.envelope.payload != payload:
        assert not signed, "a signature would no longer hold"
        assert json.loads(line.envelope.payload, parse_int=str) == json.loads(payload, parse_int=str)


@pytest.mark.parametrize(
    "text",
    [
        "1.10",
        "1e400",
        "-0",
        "0.0",
        "12345678901234567890123",
        "1E5",
        '"\\u00e9"',
        "9" * 5000,
        '{"b":1,"a":1.0}',
        '{"a": [1, 2 ],\t"b":{}}',
        '"\\/"',
        "[" * 63 + "]" * 63,
    ],
)
def test_a_json_payload_keeps_its_text(text: str) -> None:
    """A JSON payload passes both ways as the text it was, so that no number is rounded."""
    envelope = read(f'{{"payload":{text}}}')
    assert envelope.payload == text.encode()
    assert envelope.content_type == JSON
    assert f'"payload":{text}' in wire.encode(envelope).decode()


READ_AS: dict[str, tuple[str, Envelope]] = {
    "nothing": ("{}", Envelope()),
    "integers as text": ('{"sequence":"18446744073709551615"}', Envelope(sequence=2**64 - 1)),
    "integers as numbers": ('{"sequence":18446744073709551615}', Envelope(sequence=2**64 - 1)),
    "counters in both forms": (
        '{"clock":{"a":1,"b":"9007199254740993"}}',
        Envelope(clock={"a": 1, "b": 2**53 + 1}),
    ),
    "time with an offset": ('{"time":"1970-01-01T02:00:00.000001+02:00"}', Envelope(time_us=1)),
    "empty texts": ('{"room":"","kind":"","headers":{}}', Envelope()),
    "base64": ('{"payload_b64":"AP8="}', Envelope(payload=b"\0\xff")),
    "base64 of a JSON type": (
        '{"payload_b64":"MQ==","content_type":"application/json"}',
        Envelope(payload=b"1", content_type=JSON),
    ),
    "null as a payload": ('{"payload":null}', Envelope(payload=b"null", content_type=JSON)),
    "escapes": ('{"name":"\\u00e9\\ud834\\udd1e"}', Envelope(name="é𝄞")),
    "space everywhere": (' { "name" : "n" } \r', Envelope(name="n")),
    "a durability": ('{"durability":"durable"}', Envelope(durability=3)),
}


@pytest.mark.parametrize("case", READ_AS)
def test_read_as(case: str) -> None:
    """Every form that the protocol allows is read as the same envelope."""
    text, envelope = READ_AS[case]
    assert read(text) == envelope


FIELD_AT_FAULT: dict[str, tuple[str, str]] = {
    "kind in lower case": ('{"kind":"message"}', "kind"),
    "no kind by name": ('{"kind":"KIND_UNSPECIFIED"}', "kind"),
    "kind as a number": ('{"kind":1}', "kind"),
    "id as a number": ('{"id":1}', "id"),
    "room as null": ('{"room":null}', "room"),
    "sequence below zero": ('{"sequence":-1}', "sequence"),
    "sequence of 2^64": ('{"sequence":"18446744073709551616"}', "sequence"),
    "sequence with a sign": ('{"sequence":"+1"}', "sequence"),
    "sequence with a space": ('{"sequence":" 1"}', "sequence"),
    "sequence with an underscore": ('{"sequence":"1_0"}', "sequence"),
    "sequence in other digits": ('{"sequence":"١"}', "sequence"),
    "sequence as empty text": ('{"sequence":""}', "sequence"),
    "sequence as a fraction": ('{"sequence":1.5}', "sequence"),
    "sequence as a boolean": ('{"sequence":true}', "sequence"),
    "sequence of 5000 digits": ('{"sequence":' + "9" * 5000 + "}", "sequence"),
    "a counter of 5000 digits": ('{"clock":{"a":"' + "9" * 5000 + '"}}', "clock"),
    "a counter that is null": ('{"clock":{"a":null}}', "clock"),
    "headers as a list": ('{"headers":[]}', "headers"),
    "a header that is a number": ('{"headers":{"a":1}}', "headers"),
    "both payloads": ('{"payload":1,"payload_b64":""}', "payload"),
    "a payload of another type": ('{"payload":1,"content_type":"text/plain"}', "payload"),
    "base64 without padding": ('{"payload_b64":"MQ"}', "payload_b64"),
    "base64 for web addresses": ('{"payload_b64":"-_8="}', "payload_b64"),
    "base64 with a line break": ('{"payload_b64":"MQ==\\n"}', "payload_b64"),
    "base64 with other letters": ('{"payload_b64":"é"}', "payload_b64"),
    "a signature that is no base64": ('{"signature":"%"}', "signature"),
    "duplicate as a number": ('{"duplicate":1}', "duplicate"),
    "a durability in upper case of nothing": ('{"durability":"DURABILITY_UNSPECIFIED"}', "durability"),
    "a status that is a list": ('{"status":[]}', "status"),
    "a status with a number as code": ('{"status":{"code":1}}', "status"),
    "a status with text as hint": ('{"status":{"retry_after_ms":"1"}}', "status"),
    "a status with a negative hint": ('{"status":{"retry_after_ms":-1}}', "status"),
    "a status with a hint of 2^32": ('{"status":{"retry_after_ms":4294967296}}', "status"),
    "details as text": ('{"status":{"details":"abc"}}', "status"),
    "details as a number": ('{"status":{"details":5}}', "status"),
    "details as null": ('{"status":{"details":null}}', "status"),
    "details of lists": ('{"status":{"details":[["a","b","c"]]}}', "status"),
    "a detail that is a number": ('{"status":{"details":{"a":1}}}', "status"),
}


@pytest.mark.parametrize("case", FIELD_AT_FAULT)
def test_the_field_at_fault_is_named(case: str) -> None:
    """A value of the wrong type or form refuses its line and names the field; it is never converted."""
    text, field = FIELD_AT_FAULT[case]
    assert refused(text).field_name == field


UNREADABLE: dict[str, tuple[str, int]] = {
    "an empty frame": ("", 0),
    "only line breaks": ("\n\n", 0),
    "a text": ('"a"', 0),
    "half an object": ('{"id":', 6),
    "two objects in a line": ("{}{}", 2),
    "a bad second line": ("{}\n{", 4),
    "a list in the second line": ("{}\n[]", 3),
    "a key twice": ('{"id":"a","id":"a"}', 0),
    "an unknown key twice": ('{"x":1,"x":1}', 0),
    "a key twice by an escape": ('{"id":"a","\\u0069d":"b"}', 0),
    "a key twice far inside": ('{"payload":[{"a":{"b":1,"b":1}}]}', 0),
    "NaN": ('{"payload":NaN}', 0),
    "Infinity": ('{"payload":-Infinity}', 0),
    "a control character": ('{"id":"\x01"}', 7),
    "a lone surrogate": ('{"id":"\\ud800"}', 0),
    "a raw lone surrogate": ('{"id":"\ud800"}', 0),
    "a byte order mark": ("\ufeff{}", 0),
    "65 levels": ('{"payload":' + "[" * 64 + "]" * 64 + "}", 0),
    "100 000 levels that do not end": ("[" * 100_000, 0),
    "a leading zero": ('{"payload":01}', 12),
    "a comment": ("{}//", 2),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable(case: str) -> None:
    """A frame with a line that is no strict JSON object is refused as a whole, with the offset."""
    text, offset = UNREADABLE[case]
    with pytest.raises(DecodeError) as caught:
        wire.decode(text)
    assert caught.value.offset == offset


@given(st.one_of(JSON_PIECES, st.text(max_size=60)))
def test_any_text_is_a_frame_or_a_decode_error(text: str) -> None:
    """Nothing but DecodeError comes out, with an offset inside the frame."""
    try:
        lines = wire.decode(text)
    except DecodeError as error:
        offset = error.offset
    else:
        offset = 0
        assert all((line.envelope is None) != (line.error is None) for line in lines)
    assert 0 <= offset <= len(text)


def test_unknown_keys_are_ignored_and_counted() -> None:
    """Keys of a newer schema do no harm; the line tells how many there were."""
    [line] = wire.decode('{"id":"a","colour":"red","x":{"y":[1]}}')
    assert (line.envelope, line.unknown_keys, line.id) == (Envelope(id="a"), 2, "a")


def test_a_refused_line_tells_its_id() -> None:
    """A line that is refused still tells the id it claimed, and the lines beside it are read."""
    first, second, third = wire.decode('{"id":"a"}\n{"id":"b","kind":1}\n\n{"id":7}')
    assert (first.id, second.id, third.envelope) == ("a", "b", None)
    assert second.error is not None


def test_too_many_lines() -> None:
    """A frame has at most 4096 lines; empty ones do not count."""
    assert len(wire.decode("{}\n\n" * wire.MAX_ENVELOPES)) == wire.MAX_ENVELOPES
    with pytest.raises(DecodeError, match="more than 4096"):
        wire.decode("{}\n" * (wire.MAX_ENVELOPES + 1))


def test_integers_that_not_every_reader_keeps() -> None:
    """Integers up to 2^53-1 are written as numbers, greater ones as text."""
    written: Any = json.loads(wire.encode(Envelope(sequence=2**53 - 1, clock={"a": 2**53})))
    assert (written["sequence"], written["clock"]["a"]) == (2**53 - 1, str(2**53))


def test_a_kind_that_is_not_known_is_shown() -> None:
    """An enum number of a newer schema is written as its digits instead of failing the frame."""
    assert json.loads(wire.encode(Envelope(kind=77)))["kind"] == "77"  # type: ignore[arg-type]


# -- time


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
@example(0)
@example(-1)
@example(-62_135_596_800_000_000)
def test_times_are_read_as_they_were_written(time_us: int) -> None:
    """Every microsecond from the year 1 to 9999 is written and read back exactly."""
    assert wire.parse_time("time", wire.format_time(time_us)) == time_us


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-1439, 1439))
def test_times_with_an_offset(moment: datetime, minutes: int) -> None:
    """A time with an offset is the moment that the standard library says."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    assert wire.parse_time("time", aware.isoformat()) == since // timedelta(microseconds=1)


TIMES = {
    "1970-01-01T00:00:00Z": 0,
    "1970-01-01t00:00:00.1z": 100_000,
    "1970-01-01T00:00:00.000001Z": 1,
    "1969-12-31T23:59:59.999999Z": -1,
    "1970-01-01T00:00:00-00:00": 0,
    "1970-01-01T05:45:00+05:45": 0,
    "2024-02-29T23:59:59.999999Z": 1_709_251_199_999_999,
}


@pytest.mark.parametrize("text", TIMES)
def test_time(text: str) -> None:
    """RFC 3339 in all its spellings is read to the microsecond."""
    assert wire.parse_time("time", text) == TIMES[text]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-01-31T12:00:00", "no time zone"),
        ("2026-01-31T12:00:00.5", "no time zone"),
        ("2026-01-31T12:00:00.1234567Z", "at most 6 decimals"),
        ("2026-01-31T12:00:00.Z", "not RFC 3339"),
        ("2026-01-31 12:00:00Z", "not RFC 3339"),
        ("2026-01-31T12:00Z", "not RFC 3339"),
        ("2026-01-31T24:00:00Z", "not RFC 3339"),
        ("2026-01-31T12:00:00+0200", "not RFC 3339"),
        ("2026-01-31T12:00:00Z\n", "not RFC 3339"),
        ("2026-W05-6T12:00:00Z", "not RFC 3339"),
        ("２026-01-31T12:00:00Z", "not RFC 3339"),
        ("10000-01-01T00:00:00Z", "not RFC 3339"),
        ("", "not RFC 3339"),
        ("2026-02-29T12:00:00Z", "not a date"),
        ("2026-06-30T23:59:60Z", "not a date"),
        ("0000-01-01T00:00:00Z", "not a date"),
        ("2026-01-31T12:00:00+24:00", "not a date"),
        ("9999-12-31T23:59:59-00:01", "not a date"),
        ("0001-01-01T00:00:00+00:01", "not a date"),
    ],
)
def test_time_that_is_refused(text: str, why: str) -> None:
    """A time without a zone, finer than a microsecond, of another form or impossible is refused as such."""
    with pytest.raises(Invalid, match=why):
        wire.parse_time("time", text)
