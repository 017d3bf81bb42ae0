"""Validation of producers' envelopes, and its short cut for everyday messages."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol.canonical import check_canonical
from arqonbus.protocol.envelope import (
    COMMAND,
    MAX_TIME_US,
    MESSAGE,
    REPLY,
    SIGNAL,
    Envelope,
    check,
    is_json,
    is_plain,
)
from arqonbus.protocol.errors import Code, Invalid
from arqonbus.protocol.names import is_name
from arqonbus.protocol.wire_protobuf import varint

from .envelopes import sendable_envelopes

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
NOW_US = 1_769_860_800_123_456
EVERYDAY = {"id", "kind", "room", "channel", "name", "time_us", "content_type", "payload"}


def message(**changes: Any) -> Envelope:
    return Envelope(**{"id": ULID, "kind": MESSAGE, "room": "orders", "time_us": NOW_US, **changes})


ACCEPTED: dict[str, Envelope] = {
    "the fewest fields": message(),
    "a command without a room": Envelope(id=ULID, kind=COMMAND, name="op.ping", time_us=1),
    "a command with a room": message(kind=COMMAND, name="op.rooms.info"),
    "a command with a recipient": message(kind=COMMAND, name="op.x", recipient="r"),
    "a direct message": message(room="", recipient="r"),
    "a tenant": message(tenant="anything"),  # the session compares it with the token
    "the first time": message(time_us=1),
    "the last time": message(time_us=MAX_TIME_US - 1),
    "names of 128": message(room="r" * 128, channel="c" * 128),
    "a name of 256": message(name="é" * 256),
    "a content type of 256": message(content_type="x" * 256),
    "32 headers": message(headers={str(n): "" for n in range(32)}),
    "headers of 4096 bytes": message(headers={"k": "v" * 4095}),
    "64 actors": message(clock={f"a{n}": 2**64 - 1 for n in range(64)}),
    "a trace": message(trace=f"00-{'a' * 32}-{'b' * 16}-01"),
    "a signature": message(signature=bytes(64)),
}

REFUSED: dict[str, tuple[Envelope, str]] = {
    "no id": (message(id=""), "id"),
    "an id that is none": (message(id=ULID.lower()), "id"),
    "no kind": (message(kind=0), "kind"),
    "a reply": (message(kind=REPLY), "kind"),
    "a signal": (message(kind=SIGNAL), "kind"),
    "a newer kind": (message(kind=5), "kind"),
    "a negative kind": (message(kind=-1), "kind"),
    "sender": (message(sender="x"), "sender"),
    "sequence": (message(sequence=2**64 - 1), "sequence"),
    "epoch": (message(epoch="x"), "epoch"),
    "server time": (message(server_time_us=-1), "server_time_us"),
    "reply_to": (message(reply_to=ULID), "reply_to"),
    "durability": (message(durability=pb.MEMORY), "durability"),
    "duplicate": (message(duplicate=True), "duplicate"),
    "an empty status": (message(status=pb.Status()), "status"),
    "no time": (message(time_us=0), "time"),
    "a time before 1970": (message(time_us=-1), "time"),
    "a time after 9999": (message(time_us=MAX_TIME_US), "time"),
    "the greatest time": (message(time_us=2**63 - 1), "time"),
    "a command without a name": (message(kind=COMMAND), "name"),
    "a command with a bad room": (message(kind=COMMAND, name="x", room="a b"), "room"),
    "neither room nor recipient": (message(room=""), "room"),
    "a bad room": (message(room="a/b"), "room"),
    "a bad room and a recipient": (message(room="a/b", recipient="r"), "room"),
    "room and recipient": (message(recipient="r"), "recipient"),
    "a bad channel": (message(channel="a:b"), "channel"),
    "a bad recipient": (message(room="", recipient="a b"), "recipient"),
    "a name of 257": (message(name="n" * 257), "name"),
    "a content type of 257": (message(content_type="n" * 257), "content_type"),
    "a content type with a line break": (message(content_type="a\r\nb"), "content_type"),
    "33 headers": (message(headers={str(n): "" for n in range(33)}), "headers"),
    "headers of 4097 bytes": (message(headers={"é": "v" * 4095}), "headers"),
    "a bad cause": (message(cause="x"), "cause"),
    "a trace of another version": (message(trace=f"01-{'a' * 32}-{'b' * 16}-01"), "trace"),
    "a trace of zeros": (message(trace=f"00-{'0' * 32}-{'b' * 16}-01"), "trace"),
    "a trace with a line break": (message(trace=f"00-{'a' * 32}-{'b' * 16}-01\n"), "trace"),
    "a signature of 63 bytes": (message(signature=bytes(63)), "signature"),
    "a clock of 65 actors": (message(clock={f"a{n}": 1 for n in range(65)}), "clock"),
    "a clock with a bad actor": (message(clock={"": 1}), "clock"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    """What the protocol allows a producer is accepted, up to each bound."""
    check(ACCEPTED[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """What it does not allow is refused with the name of the field, and the value is not repeated."""
    envelope, field = REFUSED[case]
    with pytest.raises(Invalid) as caught:
        check(envelope)
    assert caught.value.field_name == field
    assert caught.value.code == (Code.TOO_LARGE if "4097" in case else Code.VALIDATION_ERROR)


@given(sendable_envelopes())
def test_what_may_be_sent_is_accepted(envelope: Envelope) -> None:
    """Every envelope that follows the rules passes, in whatever combination."""
    check(envelope)


IN_ANOTHER_TYPE = {
    "payload as 32 bits": b"\x6d\x01\x02\x03\x04",
    "sender as a number": b"\x30\x01",
    "sequence as bytes": b"\x52\x01x",
    "id as a group": b"\x0b\x0c",
    "a header whose value is 32 bits": b"\x72\x07\x0a\x00\x15\x01\x02\x03\x04",
    "a clock whose counter is text": b"\x8a\x01\x06\x0a\x01a\x12\x01b",
}


@pytest.mark.parametrize("case", IN_ANOTHER_TYPE)
def test_a_field_in_another_wire_type(case: str) -> None:
    """A known field in another wire type is refused: parsers disagree whether it is the field."""
    raw = message().SerializeToString() + IN_ANOTHER_TYPE[case]
    with pytest.raises(Invalid, match="wire type"):
        check_canonical(Envelope.FromString(raw), raw, strict=False)


NEWER = b"\xc0\x3e\x07" + b"\xca\x3e\x03new" + b"\xd5\x3e\1\2\3\4" + b"\xd1\x3e" + b"\0" * 8


def test_a_field_of_a_newer_schema() -> None:
    """Fields with numbers that are not known here pass, in every wire type, unless the room is judged."""
    raw = message().SerializeToString() + NEWER
    check_canonical(Envelope.FromString(raw), raw, strict=False)
    with pytest.raises(Invalid):
        check_canonical(Envelope.FromString(raw), raw, strict=True)


NOT_CANONICAL: dict[str, bytes] = {
    "a group": b"\xc3\x3e\xc4\x3e",
    "a second payload": b"\x6a\x01a\x6a\x01b",
    "a second name": b"\x3a\x01a\x3a\x01a",
    "a second id": b"\x0a\x01a",
    "a header twice": b"\x72\x03\x0a\x01a" * 2,
    "a header too often": b"\x72\x00" * 100_000,
    "a clock entry twice": b"\x8a\x01\x05\x0a\x01a\x10\x01" * 2,
    "33 unknown fields": b"\xc0\x3e\x07" * 33,
    "many unknown fields": b"\xc0\x3e\x07" * 500_000,
    "a large unknown field": b"\xca\x3e\x81\x20" + b"x" * 4097,
    "two status": b"\xaa\x01\x00" * 2,
}


@pytest.mark.parametrize("case", NOT_CANONICAL)
def test_bytes_that_say_more_than_the_envelope(case: str) -> None:
    """Whatever a parser would skip or overwrite is refused, before it is worked through."""
    raw = message().SerializeToString() + NOT_CANONICAL[case]
    with pytest.raises(Invalid):
        check_canonical(Envelope.FromString(raw), raw, strict=False)


@given(sendable_envelopes())
def test_what_an_encoder_writes_is_canonical(envelope: Envelope) -> None:
    """Also when it writes the fields in another order, or values that are the default."""
    raw = envelope.SerializeToString()
    check_canonical(Envelope.FromString(raw), raw, strict=True)
    if not envelope.duplicate:
        more = b"\xb8\x01\x00" + raw
        check_canonical(Envelope.FromString(more), more, strict=True)


JSON_TYPES = {
    "application/json": True,
    "Application/JSON; charset=utf-8": True,
    " application/json ": True,
    "application/problem+json": True,
    "application/json+x": False,
    "text/json": False,
    "text/x+json": False,
    "application/jsonx": False,
    "": False,
    ";": False,
}


@pytest.mark.parametrize("content_type", JSON_TYPES)
def test_json_types(content_type: str) -> None:
    """application/json and application/*+json are JSON, whatever their case and parameters."""
    assert is_json(content_type) == JSON_TYPES[content_type]


# -- the short cut


def longer_varint(value: int, more: int) -> bytes:
    """The value with `more` bytes that add nothing."""
    raw = bytearray(varint(value))
    for _ in range(min(more, 10 - len(raw))):
        raw[-1] |= 0x80
        raw.append(0)
    return bytes(raw)


@st.composite
def fields(draw: st.DrawFn) -> bytes:
    """One field, well or badly encoded, known or not."""
    number = draw(st.sampled_from([1, 2, 3, 4, 4, 5, 6, 7, 8, 10, 12, 13, 13, 14, 16, 20, 21, 23, 24, 1000]))
    wire_type = draw(st.sampled_from([0, 0, 0, 1, 2, 2, 2, 2, 5]))
    tag = longer_varint(number << 3 | wire_type, draw(st.integers(0, 1)))
    if wire_type == 0:
        value = draw(st.one_of(st.sampled_from([0, 1, NOW_US]), st.integers(0, 2**64 - 1)))
        return tag + longer_varint(value, draw(st.integers(0, 2)))
    if wire_type == 2:
        raw = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from(
                    [b"", b"r", b"room", b"r" * 128, ULID.encode(), "é".encode(), b"\x7f", b"x" * 200]
                ),
            )
        )
        return tag + longer_varint(len(raw), draw(st.integers(0, 1))) + raw
    return tag + draw(st.binary(min_size=8, max_size=8))[: 8 if wire_type == 1 else 4]


def one_by_one(envelope: Envelope) -> list[bytes]:
    """The bytes of each field that is set."""
    parts = []
    for field, value in envelope.ListFields():
        alone = Envelope()
        if field.message_type is not None:
            getattr(alone, field.name).MergeFrom(value)
        else:
            setattr(alone, field.name, value)
        parts.append(alone.SerializeToString())
    return parts


def expect_sound(raw: bytes) -> bool:
    """Whether the bytes are taken by the short cut; if so, everything that it promises has to hold."""
    try:
        envelope = Envelope.FromString(raw)
    except DecodeError:
        return False
    if not is_name(envelope.room) or not is_plain(envelope, len(raw), envelope.room):
        return False
    check(envelope)
    assert {field.name for field, _ in envelope.ListFields()} <= EVERYDAY
    assert len(UnknownFieldSet(envelope)) == 0
    assert len(envelope.SerializeToString()) == len(raw), "a byte is left that nothing accounts for"
    assert envelope.kind == MESSAGE
    return True


@settings(max_examples=600)
@given(sendable_envelopes(), st.lists(fields(), max_size=4), st.randoms(use_true_random=False))
def test_the_short_cut_is_sound(envelope: Envelope, more: list[bytes], order: random.Random) -> None:
    """Whatever else is in the bytes, in whatever order: a message taken as plain is plain and valid."""
    parts = [*one_by_one(envelope), *more]
    order.shuffle(parts)
    raw = b"".join(parts)
    if expect_sound(raw):
        fields_seen = len(Envelope.FromString(raw).ListFields())
        assert fields_seen == sum(map(bool, parts)), "a field stands twice, and was not seen"


@settings(max_examples=300)
@given(sendable_envelopes(), st.randoms(use_true_random=False))
def test_the_short_cut_is_sound_for_changed_bytes(envelope: Envelope, dice: random.Random) -> None:
    """Bytes flipped, cut out, moved and doubled, also at the same total length, do not get past it."""
    original = envelope.SerializeToString()
    for _ in range(20):
        raw = bytearray(original[:400])
        for _ in range(dice.randint(1, 3)):
            at, other = dice.randrange(len(raw)), dice.randrange(len(raw))
            match dice.randrange(5):
                case 0:
                    raw[at] ^= 1 << dice.randrange(8)
                case 1:
                    raw[at] = dice.choice(b"\x00\x01\x08\x0a\x10\x22\x2a\x3a\x40\x62\x6a\x72\x7f\x80\xff")
                case 2:
                    raw[at], raw[other] = raw[other], raw[at]
                case 3:
                    raw[at:at] = raw[other : other + 4]
                case _:
                    del raw[at : at + dice.randrange(1, 4)]
            if not raw:
                break
        expect_sound(bytes(raw))


BESIDE = {
    "a longer room is hidden by a shorter one": b"\x22\x03abc\x22\x01a",
    "a shorter room is hidden by a longer one": b"\x22\x01a\x22\x03abc",
    "an empty payload stands beside": b"\x6a\x00",
    "an empty channel stands beside": b"\x2a\x00",
    "a kind of MESSAGE stands beside": b"\x10\x01",
    "a sender that is empty": b"\x32\x00",
    "headers without key and value": b"\x72\x00",
    "an unknown field": b"\xc0\x3e\x00",
}


@pytest.mark.parametrize("case", BESIDE)
@pytest.mark.parametrize("size", range(0, 40))
def test_the_short_cut_counts_every_byte(case: str, size: int) -> None:
    """Fields that leave no value behind still need bytes, and those are never mistaken for a payload's."""
    extra = BESIDE[case]
    for envelope in (message(payload=bytes(size)), message(payload=bytes(size), channel="c" * size)):
        assert not expect_sound(extra + envelope.SerializeToString())
        assert not expect_sound(envelope.SerializeToString() + extra)


TAKEN = {
    "no payload": message(),
    "a payload": message(payload=b"x", content_type="application/json", name="n", channel="c"),
    "long texts": message(payload=b"x" * 16384, content_type="c" * 127, name="n" * 127, room="r" * 127),
}
NOT_TAKEN = {
    "a command": message(kind=COMMAND, name="n"),
    "headers": message(headers={"ack": "none"}),
    "an id of UUIDv7": message(id="01890a5d-ac96-774b-bcce-b302099a8057"),
    "a time of another length": message(time_us=1),
    "a name with other letters": message(name="é"),
    "a name of 128": message(name="n" * 128),
    "a channel with a separator": message(channel="a:b"),
    "a content type with a control character": message(content_type="a\nb"),
    "a sender": message(sender="s"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_everyday_messages_take_the_short_cut(case: str) -> None:
    """A message of everyday fields in their shortest form is taken, or the short cut would be for nothing."""
    assert expect_sound(TAKEN[case].SerializeToString())


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_others_do_not_take_the_short_cut(case: str) -> None:
    """Everything else takes the long way, also what is valid."""
    assert not expect_sound(NOT_TAKEN[case].SerializeToString())
