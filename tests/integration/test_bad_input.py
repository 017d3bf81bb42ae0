"""Everything a client can get wrong: each has its code, leaks nothing, and the bus goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, REPLY, SIGNAL, Envelope
from arqonbus.protocol.errors import Code
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import BINARY, CONTINUATION, TEXT, Raw
from tests.integration.waiting import until

PROTOBUF, JSON = "arqonbus.v1.protobuf", "arqonbus.v1.json"
LEAKS = ("Traceback", "Error:", "google.", "msgspec", "arqonbus/", "line 1 column", "0x")


def message(**changes: Any) -> Envelope:
    fields: dict[str, Any] = {"id": new_ulid(), "kind": MESSAGE, "room": "orders", "time_us": now_us()}
    return Envelope(**{**fields, **changes})


def framed(**changes: Any) -> bytes:
    return wire_protobuf.frame_of([message(**changes)])


def line(**changes: Any) -> bytes:
    fields = {"id": new_ulid(), "kind": "MESSAGE", "room": "orders", "time": "2026-01-31T12:00:00.000001Z"}
    return json.dumps(
        {key: value for key, value in {**fields, **changes}.items() if value is not None}
    ).encode()


def with_status() -> bytes:
    envelope = message()
    envelope.status.code = "OK"
    return wire_protobuf.frame_of([envelope])


PROTOBUF_CASES: dict[str, tuple[bytes, Code]] = {
    "empty frame": (b"", Code.DECODE_ERROR),
    "garbage": (b"\xff" * 32, Code.DECODE_ERROR),
    "truncated varint": (b"\x80", Code.DECODE_ERROR),
    "varint without end": (b"\x80\x80\x80\x80\x80\x01", Code.DECODE_ERROR),
    "length beyond the frame": (b"\x7fabc", Code.DECODE_ERROR),
    "empty envelope": (b"\x00", Code.DECODE_ERROR),
    "truncated envelope": (framed()[:-3], Code.DECODE_ERROR),
    "not an envelope": (b"\x03\x0a\x7f\x01", Code.DECODE_ERROR),
    "text that is not UTF-8": (b"\x04\x22\x02\xff\xfe", Code.DECODE_ERROR),
    "one good and one bad": (framed() + b"\x05\x0a\x7f\x01\x01\x01", Code.DECODE_ERROR),
    "no kind": (framed(kind=0), Code.VALIDATION_ERROR),
    "unknown kind": (framed(kind=99), Code.VALIDATION_ERROR),
    "a reply": (framed(kind=REPLY), Code.VALIDATION_ERROR),
    "a signal": (framed(kind=SIGNAL), Code.VALIDATION_ERROR),
    "no id": (framed(id=""), Code.VALIDATION_ERROR),
    "id of lower case": (framed(id=new_ulid().lower()), Code.VALIDATION_ERROR),
    "id beyond 128 bits": (framed(id="8" + "Z" * 25), Code.VALIDATION_ERROR),
    "id with a forbidden letter": (framed(id="U" * 26), Code.VALIDATION_ERROR),
    "uuid of version 4": (framed(id="9c5b94b1-35ad-49bb-b118-8e8fc24abf80"), Code.VALIDATION_ERROR),
    "no room and no recipient": (framed(room=""), Code.VALIDATION_ERROR),
    "room with a separator": (framed(room="a:b"), Code.VALIDATION_ERROR),
    "room with a slash": (framed(room="../x"), Code.VALIDATION_ERROR),
    "room with a brace": (framed(room="a{b}"), Code.VALIDATION_ERROR),
    "room with a line break": (framed(room="a\nb"), Code.VALIDATION_ERROR),
    "room of other letters": (framed(room="zürich"), Code.VALIDATION_ERROR),
    "room of 129 characters": (framed(room="r" * 129), Code.VALIDATION_ERROR),
    "channel of 129 characters": (framed(channel="c" * 129), Code.VALIDATION_ERROR),
    "channel with a space": (framed(channel="a b"), Code.VALIDATION_ERROR),
    "room and recipient": (framed(recipient="x"), Code.VALIDATION_ERROR),
    "no time": (framed(time_us=0), Code.VALIDATION_ERROR),
    "time before 1970": (framed(time_us=-1), Code.VALIDATION_ERROR),
    "time after 9999": (framed(time_us=2**63 - 1), Code.VALIDATION_ERROR),
    "another tenant": (framed(tenant="other"), Code.TENANT_MISMATCH),
    "sender set": (framed(sender="me"), Code.VALIDATION_ERROR),
    "sequence set": (framed(sequence=1), Code.VALIDATION_ERROR),
    "epoch set": (framed(epoch="x"), Code.VALIDATION_ERROR),
    "server time set": (framed(server_time_us=1), Code.VALIDATION_ERROR),
    "reply_to set": (framed(reply_to=new_ulid()), Code.VALIDATION_ERROR),
    "status set": (with_status(), Code.VALIDATION_ERROR),
    "durability set": (framed(durability=3), Code.VALIDATION_ERROR),
    "duplicate set": (framed(duplicate=True), Code.VALIDATION_ERROR),
    "33 headers": (framed(headers={str(n): "" for n in range(33)}), Code.VALIDATION_ERROR),
    "headers of 5 KiB": (framed(headers={"k": "v" * 5000}), Code.TOO_LARGE),
    "payload over 1 MiB": (framed(payload=b"x" * (2**20 + 1)), Code.TOO_LARGE),
    "a clock of 65 actors": (framed(clock={f"a{n}": 1 for n in range(65)}), Code.VALIDATION_ERROR),
    "a clock with a bad actor": (framed(clock={"a b": 1}), Code.VALIDATION_ERROR),
    "a cause that is no id": (framed(cause="x"), Code.VALIDATION_ERROR),
    "a trace that is none": (framed(trace="00-0-0-0"), Code.VALIDATION_ERROR),
    "a short signature": (framed(signature=b"x"), Code.VALIDATION_ERROR),
    "a name of 300": (framed(name="n" * 300), Code.VALIDATION_ERROR),
    "a command without name": (framed(kind=COMMAND, room=""), Code.VALIDATION_ERROR),
    "an unknown command": (framed(kind=COMMAND, name="op.rm", room=""), Code.NOT_FOUND),
    "arguments that are no JSON": (framed(kind=COMMAND, name="op.ping", payload=b"{"), Code.VALIDATION_ERROR),
    "arguments with a key twice": (
        framed(kind=COMMAND, name="op.rooms.join", payload=b'{"room":"a","room":"b"}'),
        Code.VALIDATION_ERROR,
    ),
    "an unknown argument": (framed(kind=COMMAND, name="op.ping", payload=b'{"x":1}'), Code.VALIDATION_ERROR),
    "a recipient that is nobody": (framed(room="", recipient="nobody"), Code.NOT_FOUND),
}

JSON_CASES: dict[str, tuple[bytes, Code]] = {
    "empty frame": (b"", Code.DECODE_ERROR),
    "only white space": (b" \n ", Code.DECODE_ERROR),
    "not JSON": (b"{", Code.DECODE_ERROR),
    "a list": (b"[]", Code.DECODE_ERROR),
    "a number": (b"1", Code.DECODE_ERROR),
    "NaN": (b'{"time": NaN}', Code.DECODE_ERROR),
    "a key twice": (line()[:-1] + b', "room": "other"}', Code.DECODE_ERROR),
    "a key twice, deep down": (line()[:-1] + b', "payload": {"a": [{"b": 1, "b": 2}]}}', Code.DECODE_ERROR),
    "nested 10 000 deep": (b'{"payload":' + b"[" * 10_000 + b"]" * 10_000 + b"}", Code.DECODE_ERROR),
    "a lone surrogate": (line()[:-1] + b', "name": "\\ud800"}', Code.DECODE_ERROR),
    "an integer of 10 000 digits": (
        line()[:-1] + b', "sequence": ' + b"9" * 10_000 + b"}",
        Code.VALIDATION_ERROR,
    ),
    "kind in lower case": (line(kind="message"), Code.VALIDATION_ERROR),
    "kind as a number": (line(kind=1), Code.VALIDATION_ERROR),
    "id as a number": (line(id=7), Code.VALIDATION_ERROR),
    "no id": (line(id=None), Code.VALIDATION_ERROR),
    "no time": (line(time=None), Code.VALIDATION_ERROR),
    "a naive time": (line(time="2026-01-31T12:00:00"), Code.VALIDATION_ERROR),
    "a time finer than a microsecond": (line(time="2026-01-31T12:00:00.1234567Z"), Code.VALIDATION_ERROR),
    "a date that does not exist": (line(time="2026-02-30T12:00:00Z"), Code.VALIDATION_ERROR),
    "a leap second": (line(time="2026-06-30T23:59:60Z"), Code.VALIDATION_ERROR),
    "time as a number": (line(time=1), Code.VALIDATION_ERROR),
    "payload twice": (line(payload=1, payload_b64="eA=="), Code.VALIDATION_ERROR),
    "payload of another type": (line(payload=1, content_type="text/plain"), Code.VALIDATION_ERROR),
    "base64 that is none": (line(payload_b64="%%%"), Code.VALIDATION_ERROR),
    "a negative clock": (line(clock={"a": -1}), Code.VALIDATION_ERROR),
    "a clock of 2^64": (line(clock={"a": str(2**64)}), Code.VALIDATION_ERROR),
    "headers as a list": (line(headers=["a"]), Code.VALIDATION_ERROR),
    "a header that is a number": (line(headers={"a": 1}), Code.VALIDATION_ERROR),
    "room with a separator": (line(room="a:b"), Code.VALIDATION_ERROR),
    "another tenant": (line(tenant="other"), Code.TENANT_MISMATCH),
    "sequence set": (line(sequence="1"), Code.VALIDATION_ERROR),
    "a status of the wrong form": (line(status={"code": 1}), Code.VALIDATION_ERROR),
}


async def connected(bus: Bus, subprotocol: str) -> Raw:
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(bus.token(), subprotocol)).status == 101
    [welcome] = await raw.envelopes()
    assert welcome.name == "welcome"
    return raw


async def expect_error(bus: Bus, raw: Raw, opcode: int, data: bytes, code: Code) -> Envelope:
    """The one answer to bad data; it has the code, is counted, leaks nothing, and the bus goes on."""
    before = bus.node.counters.rejected[code]
    raw.send_frame(opcode, data)
    [answer] = await raw.envelopes()
    assert answer.status.code == code
    assert bus.node.counters.rejected[code] == before + 1
    said = answer.status.message + "".join(answer.status.details.values())
    assert said
    assert not any(leak in said for leak in LEAKS), said
    return answer


async def expect_alive(raw: Raw, opcode: int) -> None:
    if opcode == TEXT:
        raw.send_frame(TEXT, line(kind="COMMAND", name="op.ping", room=None))
    else:
        raw.send_frame(BINARY, framed(kind=COMMAND, name="op.ping", room=""))
    [pong] = await raw.envelopes()
    assert pong.status.code == Code.OK


@pytest.mark.parametrize("case", PROTOBUF_CASES)
async def test_bad_protobuf(bus: Bus, case: str) -> None:
    """Each faulty protobuf frame is answered once with its code and the connection goes on."""
    data, code = PROTOBUF_CASES[case]
    raw = await connected(bus, PROTOBUF)
    await expect_error(bus, raw, BINARY, data, code)
    await expect_alive(raw, BINARY)


@pytest.mark.parametrize("case", JSON_CASES)
async def test_bad_json(bus: Bus, case: str) -> None:
    """Each faulty JSON frame is answered once with its code and the connection goes on."""
    data, code = JSON_CASES[case]
    raw = await connected(bus, JSON)
    await expect_error(bus, raw, TEXT, data, code)
    await expect_alive(raw, TEXT)


async def test_a_refused_message_is_answered_to_its_id(bus: Bus) -> None:
    """The refusal of a message with a valid id is a REPLY to it; without one it is a SIGNAL."""
    raw = await connected(bus, PROTOBUF)
    bad = message(room="a:b")
    answer = await expect_error(bus, raw, BINARY, wire_protobuf.frame_of([bad]), Code.VALIDATION_ERROR)
    assert (answer.kind, answer.reply_to, answer.status.details["field"]) == (REPLY, bad.id, "room")
    answer = await expect_error(bus, raw, BINARY, framed(id="x"), Code.VALIDATION_ERROR)
    assert (answer.kind, answer.name) == (SIGNAL, "error")


async def test_a_decode_error_names_the_byte(bus: Bus) -> None:
    """A frame that cannot be read is refused as a whole, with the offset of the envelope at fault."""
    raw = await connected(bus, PROTOBUF)
    good = framed()
    answer = await expect_error(bus, raw, BINARY, good + b"\x7fxx", Code.DECODE_ERROR)
    assert answer.status.details["offset"] == str(len(good))
    assert bus.node.counters.messages_in == 0


@pytest.mark.parametrize(
    ("subprotocol", "opcode", "code"),
    [(PROTOBUF, TEXT, Code.INFRA_PROTOCOL_REQUIRED), (JSON, BINARY, Code.DECODE_ERROR)],
)
async def test_the_other_wires_frame_ends_the_connection(
    bus: Bus, subprotocol: str, opcode: int, code: Code
) -> None:
    """A frame of the wrong type is answered with its code and closed with 1003."""
    raw = await connected(bus, subprotocol)
    await expect_error(bus, raw, opcode, line(), code)
    assert (await raw.close_frame()).close_code == 1003


async def test_text_that_is_not_utf8_ends_the_connection(bus: Bus) -> None:
    """RFC 6455 demands 1007 for text that is not UTF-8; the code is said first."""
    raw = await connected(bus, JSON)
    await expect_error(bus, raw, TEXT, b'{"id": "\xff"}', Code.DECODE_ERROR)
    assert (await raw.close_frame()).close_code == 1007


async def test_too_many_bad_frames_end_the_connection(bus: Bus) -> None:
    """After limits.bad_frames unreadable frames the connection is closed with 1008."""
    raw = await connected(bus, PROTOBUF)
    for _ in range(bus.settings.limits.bad_frames):
        raw.send_frame(BINARY, b"\xff")
    assert (await raw.close_frame()).close_code == 1008


async def test_an_oversize_frame_ends_the_connection(bus: Bus) -> None:
    """A message over max_frame_bytes is closed with 1009, whole or in fragments."""
    size = bus.settings.protocol.max_frame_bytes
    raw = await connected(bus, PROTOBUF)
    raw.send_frame(BINARY, b"x" * (size + 1))
    assert (await raw.close_frame()).close_code == 1009
    raw = await connected(bus, PROTOBUF)
    raw.send_frame(BINARY, b"x" * size, fin=False)
    raw.send_frame(CONTINUATION, b"x" * size, fin=True)
    assert (await raw.close_frame()).close_code == 1009


async def test_fragments_make_one_message(bus: Bus) -> None:
    """A message in three fragments is one message."""
    raw = await connected(bus, PROTOBUF)
    data = framed(kind=COMMAND, name="op.ping", room="")
    raw.send_frame(BINARY, data[:5], fin=False)
    raw.send_frame(CONTINUATION, data[5:9], fin=False)
    raw.send_frame(CONTINUATION, data[9:], fin=True)
    [pong] = await raw.envelopes()
    assert pong.status.code == Code.OK


@pytest.mark.parametrize(
    "send",
    [
        lambda raw: raw.send_frame(BINARY, framed(), mask=False),
        lambda raw: raw.send_frame(0x3, b"x"),
        lambda raw: raw.send_frame(CONTINUATION, b"x"),
        lambda raw: raw.send_frame(BINARY, framed(), rsv=4),
        lambda raw: raw.send_frame(0x9, b"x" * 126),
    ],
    ids=["unmasked", "unknown opcode", "continuation of nothing", "reserved bit", "long ping"],
)
async def test_broken_framing_ends_the_connection(bus: Bus, send: Callable[[Raw], None]) -> None:
    """What RFC 6455 forbids is closed with 1002 and the bus goes on."""
    raw = await connected(bus, PROTOBUF)
    send(raw)
    assert (await raw.close_frame()).close_code == 1002
    assert (await (await bus.client()).command("op.ping"))["pong"]


async def test_unknown_json_keys_are_ignored_and_counted(bus: Bus) -> None:
    """A newer client's keys do no harm."""
    raw = await connected(bus, JSON)
    raw.send_frame(TEXT, line(from_the_future=1, and_more=2))
    [ack] = await raw.envelopes()
    assert ack.status.code == Code.OK
    await raw.close()
    await until(lambda: bus.node.counters.unknown_keys == 2)


async def test_unknown_protobuf_fields_are_passed_on(bus: Bus) -> None:
    """A newer producer's field reaches a newer consumer untouched."""
    reader, writer = await connected(bus, PROTOBUF), await connected(bus, PROTOBUF)
    reader.send_frame(
        BINARY, framed(kind=COMMAND, name="op.rooms.join", room="", payload=b'{"room":"orders"}')
    )
    await reader.envelopes()
    unknown = b"\xca\x3e\x03new"  # field 1001, three bytes
    body = message().SerializeToString() + unknown
    writer.send_frame(BINARY, wire_protobuf.length_prefix(len(body)) + body)
    frame = await reader.frame()
    assert unknown in frame.payload


async def test_more_messages_than_allowed_are_refused_with_a_hint(start_bus: StartBus) -> None:
    """Over the rate each message is answered RATE_LIMITED with a time to wait; those within it are stored."""
    bus = await start_bus("limits.messages_per_second=10", "limits.messages_burst=20")
    raw = await connected(bus, PROTOBUF)
    raw.send_frame(BINARY, wire_protobuf.frame_of([message() for _ in range(30)]))
    answers: list[Envelope] = []
    while len(answers) < 30:
        answers += await raw.envelopes()
    refused = [a for a in answers if a.status.code == Code.RATE_LIMITED]
    assert len(refused) == 10
    assert all(a.status.retry_after_ms > 0 and a.reply_to for a in refused)
