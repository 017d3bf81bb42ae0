"""NATS messages as envelopes and back: nothing is lost, and no header steers the other side."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.bridge.messages import one_line, size_of, to_dead_letter, to_envelope, to_headers
from arqonbus.protocol.envelope import MESSAGE, Envelope, check
from arqonbus.protocol.errors import Invalid
from arqonbus.protocol.ids import is_ulid, new_ulid

PLACE = {"stream": "S", "sequence": 7, "time_us": 1_800_000_000_000_000}
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["a\r\nNats-Rollup: all", " x ", "", "é", "\x00", "\x85", "ok"]
)
KEYS = TEXTS | st.sampled_from(
    ["Nats-Rollup", "nats-expected-stream", "ArqonBus-Origin", "Content-Type", "traceparent", "a:b"]
)

ULID, UUID7 = "01M7ZHEP0S082JF4RCYEWTPT2J", "01a1ff17-5819-7020-949e-4c33cfc63478"


def envelope_of(**fields: object) -> Envelope:
    return Envelope(id=new_ulid(), kind=MESSAGE, room="r", time_us=1, sender="s", **fields)  # type: ignore[arg-type]


@given(headers=st.dictionaries(KEYS, TEXTS, max_size=8))
def test_headers_survive(headers: dict[str, str]) -> None:
    """What a producer writes into headers comes out as it was, and means nothing else to NATS."""
    written = to_headers(envelope_of(headers=headers), "here", "E", 1)
    for key, value in written.items():
        assert re.fullmatch(r"[!-9;-~]+", key)
        assert value
        assert value.isprintable()
        assert value == value.strip()
    free = {key for key in written if not key.startswith("ArqonBus-")}
    assert {key for key in free if key.lower().startswith("nats-")} == {"Nats-Msg-Id"}
    assert written["ArqonBus-Origin"] == "here"
    back = to_envelope("r", written, b"", **PLACE)  # type: ignore[arg-type]
    assert dict(back.headers) == {key: value for key, value in headers.items() if key != "ack"}


def test_all_fields_survive() -> None:
    """Channel, name, cause, trace, content type and signature go over and back."""
    fields = {
        "channel": "c", "name": "n", "cause": new_ulid(), "content_type": "text/plain",
        "payload": b"\x00\xff", "trace": f"00-{'1' * 32}-{'2' * 16}-01", "signature": bytes(range(64)),
    }  # fmt: skip
    sent = envelope_of(**fields)
    back = to_envelope("r", to_headers(sent, "here", "E", 1), sent.payload, **PLACE)  # type: ignore[arg-type]
    check(back)
    assert {name: getattr(back, name) for name in fields} == fields


@pytest.mark.parametrize("own", [ULID, UUID7])
def test_own_id(own: str) -> None:
    """The producer's id is kept where it is one of the bus."""
    assert to_envelope("r", {"Nats-Msg-Id": own}, b"", **PLACE).id == own  # type: ignore[arg-type]


@pytest.mark.parametrize("own", ["", "1", "x" * 26, ULID.lower(), UUID7.upper()])
def test_derived_id(own: str) -> None:
    """Else the place in the stream gives it: the same again, and another one for every other place."""
    first = to_envelope("r", {"Nats-Msg-Id": own}, b"", **PLACE)  # type: ignore[arg-type]
    again = to_envelope("r", {}, b"other", **PLACE)  # type: ignore[arg-type]
    assert is_ulid(first.id)
    assert first.id == again.id
    for change in ({"stream": "T"}, {"sequence": 8}, {"time_us": 1_800_000_000_001_000}):
        assert to_envelope("r", {}, b"", **{**PLACE, **change}).id != first.id  # type: ignore[arg-type]


def test_no_ack_is_not_carried() -> None:
    """The header that asks the bus for no ack would leave the bridge waiting."""
    assert not to_envelope("r", {"ack": "none"}, b"", **PLACE).headers  # type: ignore[arg-type]
    assert not to_envelope("r", {"ArqonBus-Headers": '{"ack":"none"}'}, b"", **PLACE).headers  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {"ArqonBus-Signature": "é"},
        {"ArqonBus-Signature": "a"},
        {"ArqonBus-Headers": "[]"},
        {"ArqonBus-Headers": '{"a":1}'},
        {"ArqonBus-Headers": '{"a":'},
        {"ArqonBus-Headers": "[" * 100_000},
    ],
)
def test_unusable_headers(headers: dict[str, str]) -> None:
    """What cannot be read is refused as a producer's mistake."""
    with pytest.raises(Invalid):
        to_envelope("r", headers, b"", **PLACE)  # type: ignore[arg-type]


def test_dead_letter() -> None:
    """It has the reason and where it came from, and no header that JetStream would act on."""
    headers = {"Nats-Msg-Id": "1", "Nats-Rollup": "all", "a": "b"}
    dead = to_dead_letter(headers, "s.x", "TOO_LARGE", "a\r\nb", stream="S", sequence=7)
    assert dead == {
        "a": "b", "ArqonBus-Nats-Msg-Id": "1", "Nats-Msg-Id": "arqonbus-dead-S-7", "ArqonBus-Subject": "s.x",
        "ArqonBus-Code": "TOO_LARGE", "ArqonBus-Reason": "a??b",
    }  # fmt: skip


def test_size() -> None:
    """As nats-server counts it: the header block and the payload."""
    block = b"NATS/1.0\r\na: \xc3\xa9\r\n\r\n"
    assert size_of({"a": "é"}, b"xyz") == len(block) + 3


@given(st.text())
def test_one_line(text: str) -> None:
    """No text of somebody else breaks a line."""
    assert one_line(text).isprintable()
