"""What has to hold for any bytes at all. Each target takes bytes and raises when a promise is broken."""

from __future__ import annotations

from collections import Counter

from arqonbus.bus.session import NoGates, Session, SessionLimits
from arqonbus.bus.wire import JSON, PROTOBUF
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import MESSAGE, Envelope, check, is_plain
from arqonbus.protocol.errors import BusError, DecodeError
from arqonbus.protocol.ids import is_message_id
from arqonbus.protocol.names import is_name
from arqonbus.shield.grants import parse_grants
from arqonbus.shield.tokens import NEVER, Identity

_STAMP = wire_protobuf.sender_stamp("acme", "me") + wire_protobuf.log_stamp("epoch", 7)
_WHO = Identity("acme", "alice", "human", "user", parse_grants({"o*": ["publish"]}), NEVER, "")
_LIMITS = SessionLimits(
    messages_per_second=50,
    messages_burst=50,
    bytes_per_second=10_000,
    bytes_burst=40_000,
    max_payload_bytes=500,
    bad_frames=3,
)
_HEADER = Envelope(
    id="01ARZ3NDEKTSV4RRFFQ69G5FAV", kind=MESSAGE, room="orders", time_us=1_769_860_800_123_456
).SerializeToString()


class Broken(AssertionError):
    """A promise that did not hold. No statement of the bus can raise it, and none is left out under -O."""


def hold(promise: bool, sentence: str) -> None:
    if not promise:
        raise Broken(sentence)


def protobuf_frames(data: bytes) -> None:
    """A frame is read whole or refused; what is read can be stamped and is passed on to the last byte."""
    try:
        decoded = wire_protobuf.decode(data)
    except DecodeError as error:
        hold(0 <= error.offset <= len(data), "the offset is outside the frame")
        return
    hold(sum(len(raw) + 1 for _, raw in decoded) <= len(data), "bytes were read twice")
    for envelope, raw in decoded:
        stamped = Envelope.FromString(raw + _STAMP + wire_protobuf.sequence_field(2**53 + 1))
        hold(
            (stamped.tenant, stamped.sender, stamped.epoch, stamped.server_time_us, stamped.sequence)
            == ("acme", "me", "epoch", 7, 2**53 + 1),
            "a stamp does not hold",
        )
        hold(stamped.payload == envelope.payload, "a stamp changed the payload")
        try:
            check(envelope)
        except BusError:
            valid = False
        else:
            valid = True
        if is_name(envelope.room) and is_plain(envelope, len(raw), envelope.room):
            hold(valid, "a plain envelope is not valid")
            hold(len(envelope.SerializeToString()) == len(raw), "a plain envelope has a byte too many")
        if valid:
            [line] = wire_json.decode(wire_json.encode(envelope).decode())
            hold(line.envelope is not None, "a valid envelope cannot be read as JSON")


def json_frames(data: bytes) -> None:
    """A text is read whole or refused; what is read can be written and read again as the same.

    Carriage returns are left out: between the tokens of a payload they are white space that is not kept.
    """
    text = data.decode("utf-8", "ignore").replace("\r", " ")
    try:
        lines = wire_json.decode(text)
    except DecodeError as error:
        hold(0 <= error.offset <= len(text), "the offset is outside the frame")
        return
    for line in lines:
        hold((line.envelope is None) != (line.error is None), "a line is neither read nor refused")
        if line.envelope is not None:
            raw = line.envelope.SerializeToString()
            hold(Envelope.FromString(raw) == line.envelope, "the envelope does not fit protobuf")
            [again] = wire_json.decode(wire_json.encode(line.envelope).decode())
            hold(again.error is None, "what was written cannot be read")
            hold(again.envelope == line.envelope, "what was written is something else")


def session_frames(data: bytes) -> None:
    """Frames of any content never raise, have one outcome per envelope, and let nothing unstamped through.

    The first byte says what the rest is: 0 frames as they are, 1 one envelope each, 2 fields behind a valid
    header, 3 text. Frames are separated by 0xF5, which is no part of UTF-8.
    """
    mode, rest = data[:1], data[1:]
    frames: list[bytes | str] = []
    for part in rest.split(b"\xf5")[:8]:
        if mode == b"\x03":
            frames.append(part.decode("utf-8", "ignore"))
        elif mode == b"\x00":
            frames.append(part)
        else:
            raw = part if mode == b"\x01" else _HEADER + part
            frames.append(wire_protobuf.length_prefix(len(raw)) + raw)
    wire = JSON if mode == b"\x03" else PROTOBUF
    session = Session("me", _WHO, wire, _LIMITS, lambda room: frozenset(), Counter(), 0.0, NoGates())
    for now, frame in enumerate(frames):
        intake = session.receive([frame], now * 0.1)
        accepted = [item for items in intake.publications.values() for item in items]
        outcomes = len(accepted) + len(intake.commands) + len(intake.directs) + len(intake.answers)
        hold(outcomes == _envelopes_in(frame), "an envelope has not exactly one outcome")
        for item in [*accepted, *intake.directs]:
            envelope = Envelope.FromString(item.data)
            hold((envelope.tenant, envelope.sender) == ("acme", "me"), "the sender is forged")
            hold(not (envelope.sequence or envelope.epoch or envelope.reply_to), "a server's field is forged")
            hold(len(envelope.payload) <= 500, "the payload is too large")
            hold(envelope.id == item.id, "the id is another")
        for key, items in intake.publications.items():
            hold(key.tenant == "acme" and key.room.startswith("o"), "the room was not granted")
            hold(bool(items), "a room without a message is to be stored")
        for answer in intake.answers:
            hold(bool(answer.status.code and answer.status.message), "an answer says nothing")
            hold(
                not answer.reply_to or is_message_id(answer.reply_to), "an answer to something that is no id"
            )
            PROTOBUF.encode(answer)
            JSON.encode(answer)


def _envelopes_in(frame: bytes | str) -> int:
    """How many envelopes a frame has; one that cannot be read counts as one."""
    try:
        return len(wire_json.decode(frame) if isinstance(frame, str) else wire_protobuf.decode(frame))
    except DecodeError:
        return 1


__all__ = ["Broken", "json_frames", "protobuf_frames", "session_frames"]
