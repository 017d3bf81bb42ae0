"""Bytes that no check has seen are stored and delivered: 2 MiB in an unknown field pass a limit of 1 MiB, and
a secret in an overwritten field passes the content policy."""

from __future__ import annotations

import json

import pytest

from arqonbus.protocol import wire_json
from arqonbus.protocol.envelope import MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from arqonbus.protocol.wire_protobuf import length_prefix
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import BINARY, TEXT, Raw

SECRET = b"AKIA" + b"IOSFODNN7EXAMPLE"
SECOND_PAYLOAD = b"\x6a" + bytes((len(SECRET),)) + SECRET
UNKNOWN = b"\xca\x3e" + bytes((len(SECRET),)) + SECRET
LARGE_UNKNOWN = b"\xca\x3e\x80\x80\x60" + b"x" * 0x180000


async def published(bus: Bus, room: str, before: bytes = b"", behind: bytes = b"") -> str:
    """The code of the answer to a message with more bytes than an encoder would write."""
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(bus.token(), "arqonbus.v1.protobuf")).status == 101
    await raw.envelopes()
    data = Envelope(id=new_ulid(), kind=MESSAGE, room=room, time_us=now_us(), payload=b"harmless")
    encoded = data.SerializeToString()
    data_bytes = encoded[:28] + before + encoded[28:] + behind
    raw.send_frame(BINARY, length_prefix(len(data_bytes)) + data_bytes)
    [answer] = await raw.envelopes()
    return answer.status.code


async def test_what_is_stored_was_checked(start_bus: StartBus) -> None:
    """The forms are refused in every room, a small unknown field in judged ones."""
    bus = await start_bus("policy.mode=enforce", "policy.secrets=block", 'policy.rooms=["judged"]')
    for room in ("judged", "open"):
        assert await published(bus, room) == "OK"
        assert await published(bus, room, before=SECOND_PAYLOAD) == "VALIDATION_ERROR"
        assert await published(bus, room, behind=LARGE_UNKNOWN) == "TOO_LARGE"
        assert await published(bus, room, behind=b"\x72\x03\x0a\x01a" * 2000) == "VALIDATION_ERROR"
    assert await published(bus, "judged", behind=UNKNOWN) == "VALIDATION_ERROR"
    assert await published(bus, "open", behind=UNKNOWN) == "OK"


@pytest.mark.parametrize("letter", ["x", "€"])
async def test_json_is_counted_in_bytes(start_bus: StartBus, letter: str) -> None:
    """A frame of 3 bytes a character counts for all of them; a refused one is answered by its id."""
    bus = await start_bus("limits.bytes_per_second=100KB", "protocol.max_frame_bytes=500KB")
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(bus.token(), "arqonbus.v1.json")).status == 101
    await raw.envelopes()
    envelope = Envelope(id=new_ulid(), kind=MESSAGE, room="orders", time_us=now_us())
    line = json.loads(wire_json.encode(envelope)) | {"payload": letter * 150_000}
    codes = []
    for _ in range(2):
        line["id"] = new_ulid()
        raw.send_frame(TEXT, json.dumps(line, ensure_ascii=False).encode())
        [answer] = await raw.envelopes()
        assert answer.reply_to == line["id"]
        codes.append(answer.status.code)
    assert codes == (["OK", "OK"] if letter == "x" else ["OK", "RATE_LIMITED"])
