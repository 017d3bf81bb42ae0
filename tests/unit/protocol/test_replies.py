"""Replies, acks and signals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol import replies, wire_json, wire_protobuf
from arqonbus.protocol.envelope import REPLY, SIGNAL, Envelope
from arqonbus.protocol.errors import BusError, Code, Invalid

from .envelopes import IDS, UINT64

EPOCH = "01ARZ3NDEKTSV4RRFFQ69G5FAW"
ACKS = st.lists(st.tuples(IDS, UINT64), min_size=1, max_size=8)


def ack(message_id: str, sequence: int, durability: int, time_us: int, *, duplicate: bool) -> Envelope:
    return Envelope(
        kind=REPLY,
        reply_to=message_id,
        sequence=sequence,
        epoch=EPOCH,
        durability=durability,  # type: ignore[arg-type]
        server_time_us=time_us,
        duplicate=duplicate,
        status=pb.Status(code="OK"),
    )


@given(ACKS, st.sampled_from([1, 2, 3]), st.integers(1, 2**53 + 1), st.booleans())
def test_acks_in_protobuf(
    acks: list[tuple[str, int]], durability: int, time_us: int, duplicate: bool
) -> None:
    """An ack that is written as bytes is the envelope that it stands for."""
    writer = replies.AckWriter(EPOCH, durability, time_us, json=False)
    frame = b"".join(writer.write(one, sequence, duplicate=duplicate) for one, sequence in acks)
    wanted = [ack(one, sequence, durability, time_us, duplicate=duplicate) for one, sequence in acks]
    assert [envelope for envelope, _ in wire_protobuf.decode(frame)] == wanted


@given(ACKS, st.sampled_from([1, 2, 3]), st.booleans())
def test_acks_in_json(acks: list[tuple[str, int]], durability: int, duplicate: bool) -> None:
    """The same holds on the JSON wire, integers beyond 2^53-1 included."""
    writer = replies.AckWriter(EPOCH, durability, 1, json=True)
    for one, sequence in acks:
        [line] = wire_json.decode(writer.write(one, sequence, duplicate=duplicate).decode())
        assert line.error is None
        assert line.envelope == ack(one, sequence, durability, 1, duplicate=duplicate)


@given(ACKS)
def test_acks_of_new_messages(acks: list[tuple[str, int]]) -> None:
    """Many acks written as one piece are the single ones behind each other, byte for byte."""
    writer = replies.AckWriter(EPOCH, 3, 1, json=False)
    together = writer.write_new([one for one, _ in acks], [sequence for _, sequence in acks])
    assert together == b"".join(writer.write(one, sequence, duplicate=False) for one, sequence in acks)


def test_an_ack_is_for_each_id() -> None:
    """Ids and sequences that do not pair are an error, never acks that are missing."""
    writer = replies.AckWriter(EPOCH, 3, 1, json=False)
    with pytest.raises(ValueError, match="zip"):
        writer.write_new(["a", "b"], [1])


def test_a_refusal_says_everything() -> None:
    """A refusal is a REPLY with the code, the sentence, the hint and the details."""
    error = BusError(Code.RATE_LIMITED, "too much", retry_after_ms=7, details={"a": "b"})
    answer = replies.refusal(error, "id")
    assert (answer.kind, answer.reply_to) == (REPLY, "id")
    assert (answer.status.code, answer.status.message) == ("RATE_LIMITED", "too much")
    assert (answer.status.retry_after_ms, dict(answer.status.details)) == (7, {"a": "b"})


def test_an_error_signal() -> None:
    """An error about nothing that asked for a reply is a SIGNAL named error."""
    answer = replies.error_signal(Invalid("room", "bad"), "id")
    assert (answer.kind, answer.name, answer.reply_to) == (SIGNAL, "error", "id")
    assert dict(answer.status.details) == {"field": "room"}


def test_results_and_facts_are_json() -> None:
    """The result of a command and the facts of a signal are JSON payloads; no result means no payload."""
    answer = replies.reply("id", {"a": [1]})
    assert (answer.status.code, answer.content_type) == ("OK", "application/json")
    assert json.loads(answer.payload) == {"a": [1]}
    assert not replies.reply("id").payload
    signal = replies.signal("gap", {"first": 1}, "room")
    assert (signal.name, signal.room, json.loads(signal.payload)) == ("gap", "room", {"first": 1})


def test_the_time_as_text_is_now() -> None:
    """The clock as text is the clock in microseconds."""
    before = replies.now_us()
    assert before <= wire_json.parse_time("time", replies.now_text()) <= replies.now_us()
