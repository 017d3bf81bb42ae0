"""Protobuf frames, and stamps appended to bytes that are never re-encoded."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError as ProtobufError
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol import wire_protobuf as wire
from arqonbus.protocol.envelope import Envelope, check
from arqonbus.protocol.errors import DecodeError, Invalid

from .envelopes import NAMES, UINT64, any_envelopes, sendable_envelopes

SMALL = Envelope(name="n").SerializeToString()


@given(st.lists(any_envelopes(), min_size=1, max_size=5))
def test_frames_are_read_as_they_were_written(envelopes: list[Envelope]) -> None:
    """Decoding is the inverse of framing, and each envelope comes with exactly its own bytes."""
    frame = wire.frame_of(envelopes)
    decoded = wire.decode(frame)
    assert [envelope for envelope, _ in decoded] == envelopes
    assert b"".join(wire.length_prefix(len(raw)) + raw for _, raw in decoded) == frame


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_decode_error(frame: bytes) -> None:
    """Nothing but DecodeError comes out, with an offset inside the frame, or all of the frame was read."""
    try:
        decoded = wire.decode(frame)
    except DecodeError as error:
        offset = error.offset
    else:
        offset = 0
        assert frame.endswith(decoded[-1][1])
        assert sum(len(raw) + 1 for _, raw in decoded) <= len(frame)
    assert 0 <= offset <= len(frame)


REFUSED = {
    "an empty frame": (b"", 0),
    "a length without an envelope": (b"\x01", 0),
    "a length that is cut off": (b"\x80", 0),
    "a length of five bytes": (b"\x80\x80\x80\x80\x01" + bytes(9), 0),
    "a length beyond the frame": (b"\x05\x3a\x01n", 0),
    "an empty envelope": (b"\x00", 0),
    "an empty envelope of a longer length": (b"\x80\x00", 0),
    "an envelope behind a good one that is cut off": (
        bytes((len(SMALL),)) + SMALL + b"\x04\x3a",
        1 + len(SMALL),
    ),
    "bytes that are no envelope": (b"\x01\xff", 1),
    "text that is not UTF-8": (b"\x03\x3a\x01\xff", 1),
    "a field number of zero": (b"\x02\x00\x01", 1),
    "a group that does not end": (b"\x01\x0b", 1),
    "a group that did not begin": (b"\x01\x0c", 1),
    "a wire type that does not exist": (b"\x02\x3e\x00", 1),
    "groups in groups in groups": (b"\xff\x01" + b"\x0b" * 255, 2),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """A frame with any part that cannot be read is refused as a whole, with the offset of that part."""
    frame, offset = REFUSED[case]
    with pytest.raises(DecodeError) as caught:
        wire.decode(frame)
    assert caught.value.offset == offset


def test_too_many_envelopes() -> None:
    """A frame has at most 4096 envelopes, however small they are."""
    one = bytes((len(SMALL),)) + SMALL
    assert len(wire.decode(one * wire.MAX_ENVELOPES)) == wire.MAX_ENVELOPES
    with pytest.raises(DecodeError, match="more than 4096"):
        wire.decode(one * (wire.MAX_ENVELOPES + 1))


@given(UINT64)
def test_varints(value: int) -> None:
    """Integers stand in the bytes as protobuf itself writes them, with and without the table."""
    field = Envelope(sequence=value).SerializeToString()
    assert wire.sequence_field(value) == (field or b"\x50\x00")
    assert wire.varint(value) == (field[1:] or b"\0")
    if value < 1 << 28:
        assert wire.length_prefix(value) == wire.varint(value)


@pytest.mark.parametrize(
    "edge", [0, 127, 128, 16383, 16384, 16385, 2**21 - 1, 2**21, 2**28 - 1, 2**32, 2**53 + 1]
)
def test_varints_at_their_edges(edge: int) -> None:
    """The table and the arithmetic agree where one ends and the other begins."""
    for value in (edge, edge + 16383, edge + 16384):
        assert Envelope.FromString(wire.sequence_field(value)).sequence == value


# -- stamps


@given(sendable_envelopes(), NAMES, NAMES, st.integers(0, 2**63 - 1), UINT64)
def test_a_stamp_sets_and_changes_nothing_else(
    envelope: Envelope, tenant: str, sender: str, time_us: int, sequence: int
) -> None:
    """Bytes with stamps behind them decode to the envelope with the stamped values, exact to 64 bits."""
    raw = envelope.SerializeToString() + wire.sender_stamp(tenant, sender)
    found = Envelope.FromString(wire.stamped(raw, "epoch-é", time_us, sequence))
    assert (found.tenant, found.sender, found.epoch) == (tenant, sender, "epoch-é")
    assert (found.server_time_us, found.sequence) == (time_us, sequence)
    envelope.MergeFrom(
        Envelope(tenant=tenant, sender=sender, epoch="epoch-é", server_time_us=time_us, sequence=sequence)
    )
    assert found == envelope


@given(any_envelopes(), UINT64)
def test_the_last_stamp_wins(envelope: Envelope, sequence: int) -> None:
    """Whatever the bytes said about a stamped field before, the stamp is what is read, zero included."""
    found = Envelope.FromString(wire.stamped(envelope.SerializeToString(), "e", 0, sequence))
    assert (found.epoch, found.server_time_us, found.sequence) == ("e", 0, sequence)


@given(
    st.lists(
        st.tuples(UINT64, st.sampled_from([1, 2, 2**53 + 1]), sendable_envelopes()), min_size=1, max_size=6
    )
)
def test_a_stamped_frame_is_its_stamped_envelopes(entries: list[tuple[int, int, Envelope]]) -> None:
    """A room's frame is what stamping and framing each envelope by itself gives, byte for byte."""
    rows = [(number, time, "", "", one.SerializeToString()) for number, time, one in entries]
    alone = [wire.stamped(data, "epoch", time, number) for number, time, _, _, data in rows]
    assert wire.stamped_frame("epoch", rows) == b"".join(wire.length_prefix(len(a)) + a for a in alone)


@pytest.mark.parametrize("size", [0, 1, 16_300, 16_350, 16_384, 2**20])
def test_a_stamped_frame_of_any_size(size: int) -> None:
    """The length in front is right on both sides of the table's end."""
    data = Envelope(payload=bytes(size)).SerializeToString()
    [(found, _)] = wire.decode(wire.stamped_frame("e", [(7, 1, "", "", data)]))
    assert (len(found.payload), found.sequence) == (size, 7)


def test_truncated_bytes_can_become_valid_by_a_stamp() -> None:
    """Trap 1: bytes that are cut off may become valid when a stamp follows, so they are parsed before."""
    whole = Envelope(id="a", name="n" * 30).SerializeToString()
    stamp = wire.sender_stamp("tenant", "sender") + wire.log_stamp("epoch", 1) + wire.sequence_field(2)
    became_valid = 0
    for cut in range(1, len(whole)):
        raw = whole[:cut]
        try:
            Envelope.FromString(raw)
        except ProtobufError:
            with pytest.raises(DecodeError):
                wire.decode(wire.length_prefix(len(raw)) + raw)
            try:
                Envelope.FromString(raw + stamp)
            except ProtobufError:
                continue
            became_valid += 1
    assert became_valid, "the trap is gone; the rule that guards against it can go as well"


def test_messages_and_maps_merge() -> None:
    """Trap 2: a message or a map behind another is merged with it, so neither can be stamped."""
    first = Envelope(headers={"a": "1"}, status=pb.Status(code="X")).SerializeToString()
    second = Envelope(headers={"b": "2"}, status=pb.Status(message="m")).SerializeToString()
    found = Envelope.FromString(first + second)
    assert dict(found.headers) == {"a": "1", "b": "2"}
    assert (found.status.code, found.status.message) == ("X", "m")


@pytest.mark.parametrize("field", ["tenant", "sender", "epoch", "server_time_us", "sequence"])
def test_what_is_stamped_is_a_scalar(field: str) -> None:
    """Only fields of which the last one wins are stamped."""
    descriptor = Envelope.DESCRIPTOR.fields_by_name[field]
    assert not descriptor.is_repeated
    assert descriptor.message_type is None


@pytest.mark.parametrize(
    "forged",
    [
        Envelope(sender="x"),
        Envelope(sequence=1),
        Envelope(epoch="x"),
        Envelope(server_time_us=1),
        Envelope(reply_to="x"),
        Envelope(status=pb.Status()),
        Envelope(durability=3),
        Envelope(duplicate=True),
    ],
    ids=lambda envelope: str(envelope.ListFields()[0][0].name),
)
def test_default_values_do_not_overwrite(forged: Envelope) -> None:
    """Trap 3: a default value overwrites nothing, so a producer that sets a server's field is refused."""
    assert Envelope.FromString(forged.SerializeToString() + Envelope().SerializeToString()) == forged
    forged.MergeFrom(Envelope(id="01ARZ3NDEKTSV4RRFFQ69G5FAV", kind=1, room="r", time_us=1))
    with pytest.raises(Invalid, match="set by the server"):
        check(forged)
