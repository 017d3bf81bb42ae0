"""WebSocket frames of the server, and a room's messages in them on both wires."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from arqonbus.bus.fanout import Fanout
from arqonbus.bus.frames import BINARY, TEXT, Close, framed
from arqonbus.bus.wire import JSON, PROTOBUF, Wire
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import Entry, RoomKey
from tests.unit.bus.people import message, payload_of
from tests.unit.protocol.envelopes import UINT64, sendable_envelopes


def parsed(data: bytes) -> Frame:
    """The frame as another implementation reads it."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    steps = Frame.parse(reader.read_exact, mask=False)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        frame: Frame = end.value
        return frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize(("opcode", "wanted"), [(TEXT, Opcode.TEXT), (BINARY, Opcode.BINARY)])
def test_frames(size: int, opcode: int, wanted: int) -> None:
    """Frames of every length form are what another implementation reads: final, unmasked, no extension."""
    frame = parsed(framed(b"x" * size, opcode))
    assert (frame.opcode, frame.data, frame.fin) == (wanted, b"x" * size, True)
    assert (frame.rsv1, frame.rsv2, frame.rsv3) == (False, False, False)


@pytest.mark.parametrize("code", Close)
def test_close_codes(code: Close) -> None:
    """Every close code is one that an application may send."""
    assert 1000 <= code <= 1012 or 4000 <= code < 4200


@given(st.lists(st.tuples(UINT64, sendable_envelopes()), min_size=1, max_size=4))
def test_both_wires_deliver_the_same(rows: list[tuple[int, Envelope]]) -> None:
    """A member on JSON gets the envelopes, stamped, that a member on protobuf gets."""
    entries = [Entry(number, 7, "", "", one.SerializeToString()) for number, one in rows]
    binary, _ = payload_of(PROTOBUF.entries("e", entries))
    text, _ = payload_of(JSON.entries("e", entries))
    for (envelope, _), line in zip(
        wire_protobuf.decode(binary), wire_json.decode(text.decode()), strict=True
    ):
        assert line.envelope is not None
        if envelope.payload != line.envelope.payload:
            assert envelope.payload.strip() == line.envelope.payload
            envelope.payload = line.envelope.payload
        assert line.envelope == envelope


@pytest.mark.parametrize("wire", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_envelopes_are_joined(wire: Wire) -> None:
    """Encoded envelopes of one client share a frame, in order."""
    both = [message(name="a"), message(name="b")]
    payload, rest = payload_of(wire.join([wire.encode(one) for one in both]))
    assert not rest
    if wire.json:
        assert [line.envelope for line in wire_json.decode(payload.decode())] == both
    else:
        assert [one for one, _ in wire_protobuf.decode(payload)] == both


@pytest.mark.parametrize("wire", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_a_fanout_is_framed_once(wire: Wire) -> None:
    """All members of one wire get the very same bytes object."""
    fanout = Fanout(
        RoomKey("t", "r"), "e", [Entry(1, 1, "", "", message().SerializeToString())], "disconnect"
    )
    assert fanout.frame(wire) is fanout.frame(wire)
    assert fanout.only(fanout.entries).frame(wire) == fanout.frame(wire)
