"""Golden bytes: every version and every language reads them alike."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import Envelope, is_json

from .corpus import CASES, MANIFEST, described, fields_of, frame_of, lines_of, schema, shortened

GOLDEN: dict[str, Any] = json.loads(MANIFEST.read_text("utf-8"))
SHORT = [name for name, case in GOLDEN["cases"].items() if isinstance(case["frame"], str)]


def exactly(line: str) -> Any:
    """The members of a JSON line; numbers stay the text that they are."""
    return json.loads(line, parse_int=lambda text: ("int", text), parse_float=lambda text: ("float", text))


def test_the_schema_is_the_golden_one() -> None:
    """No field number, type, label, enum number or JSON name has changed."""
    assert schema() == GOLDEN["schema"]


def test_every_case_is_golden() -> None:
    """The manifest and the cases have the same names, so that none is tested in one place only."""
    assert list(CASES) == list(GOLDEN["cases"])


def test_every_field_is_in_the_corpus() -> None:
    """No field of the schema is without golden bytes."""
    used = {field for case in GOLDEN["cases"].values() for one in case["envelopes"] for field in one}
    assert used == set(Envelope.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_golden(name: str) -> None:
    """Each case is written as its golden bytes, and has its golden fields."""
    now, golden = shortened(described(CASES[name])), GOLDEN["cases"][name]
    assert (now["frame"], now["envelopes"]) == (golden["frame"], golden["envelopes"])


@pytest.mark.parametrize("name", CASES)
def test_lines_are_golden(name: str) -> None:
    """Each case is written as its golden JSON: the same keys and values, and numbers by the same digits."""
    golden = GOLDEN["cases"][name]["lines"]
    for line, wanted in zip(lines_of(CASES[name]), golden, strict=True):
        if isinstance(wanted, str):
            assert exactly(line) == exactly(wanted)
        else:
            assert shortened(line) == wanted


@pytest.mark.parametrize("name", SHORT)
def test_golden_bytes_are_read(name: str) -> None:
    """The golden frame is read as the golden fields, and its envelopes come with their own bytes."""
    golden = GOLDEN["cases"][name]
    decoded = wire_protobuf.decode(bytes.fromhex(golden["frame"]))
    assert [fields_of(envelope) for envelope, _ in decoded] == golden["envelopes"]
    framed = b"".join(wire_protobuf.length_prefix(len(raw)) + raw for _, raw in decoded)
    assert framed.hex() == golden["frame"]


@pytest.mark.parametrize("name", CASES)
def test_unknown_fields_are_forwarded(name: str) -> None:
    """What a newer schema put behind the known fields stands in the bytes that are passed on."""
    unknown = CASES[name].unknown
    for envelope, raw in wire_protobuf.decode(frame_of(CASES[name])):
        stamped = wire_protobuf.stamped(raw + wire_protobuf.sender_stamp("t", "s"), "e", 1, 2)
        assert unknown in stamped
        assert unknown in Envelope.FromString(stamped).SerializeToString()
        assert envelope.SerializeToString(deterministic=True).endswith(unknown)


@pytest.mark.parametrize("name", CASES)
def test_both_wires_say_the_same(name: str) -> None:
    """Protobuf to JSON to protobuf gives the same envelope, to the last digit and byte."""
    case = CASES[name]
    lines = wire_json.decode(wire_json.frame_of(case.envelopes).decode())
    assert [(line.error, line.unknown_keys) for line in lines] == [(None, 0)] * len(case.envelopes)
    for line, envelope in zip(lines, case.envelopes, strict=True):
        assert line.envelope is not None
        assert fields_of(line.envelope) == fields_of(envelope)


@pytest.mark.parametrize("name", CASES)
def test_a_json_payload_stands_as_it_is(name: str) -> None:
    """The text of a JSON payload is in the line to the byte; any other payload is base64."""
    for line, envelope in zip(lines_of(CASES[name]), CASES[name].envelopes, strict=True):
        members = exactly(line)
        assert not {"payload", "payload_b64"} <= set(members)
        if "payload" in members:
            assert is_json(envelope.content_type)
            assert envelope.payload.decode() in line
        else:
            assert ("payload_b64" in members) == bool(envelope.payload)
