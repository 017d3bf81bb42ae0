"""What each connection of the generator sends, per server. Bytes only: the generator knows no protocol."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us

MAGIC = b"0ARQBNCH"
STAMP = b"0" * 16
RECORD = MAGIC + b"00" + STAMP  # also a ULID
BINARY, TEXT = 0x2, 0x1


@dataclass(frozen=True)
class Shape:
    """`members` in each of `rooms`; every room has one publisher.

    It keeps `window` messages in flight, or sends `rate` messages a second; with neither it is left out.
    """

    name: str
    rooms: int
    members: int
    window: int = 0
    rate: float = 0.0
    size: int = 200


@dataclass(frozen=True)
class Script:
    """One connection: send `connect`, wait for `first`, send `init`, wait for `second`."""

    connect: bytes
    first: bytes
    init: bytes
    second: bytes


@dataclass(frozen=True)
class Speech:
    """How to talk to one server: a member of a room, a publisher, and a message to a room."""

    member: Callable[[str], Script]
    publisher: Callable[[str], Script]
    message: Callable[[str, bytes], bytes]


def frame(payload: bytes, opcode: int) -> bytes:
    """A client frame with the mask 0, so that its payload can be patched in place."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x80 | opcode, 0x80 | size) + bytes(4) + payload
    return struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size) + bytes(4) + payload


def handshake(path: str, subprotocol: str = "", token: str = "") -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


UPGRADED = b"\r\n\r\n"


def arqonbus(token: str) -> Speech:
    connect = handshake("/v1/ws", "arqonbus.v1.protobuf", token)

    def member(room: str) -> Script:
        join = Envelope(
            id=new_ulid(),
            kind=COMMAND,
            name="op.rooms.join",
            time_us=now_us(),
            payload=f'{{"room":"{room}"}}'.encode(),
        )
        return Script(connect, UPGRADED, frame(wire_protobuf.frame_of([join]), BINARY), b'"position"')

    def message(room: str, payload: bytes) -> bytes:
        envelope = Envelope(
            id=new_ulid(), kind=MESSAGE, room=room, name="bench", time_us=now_us(), payload=payload
        )
        return frame(wire_protobuf.frame_of([envelope]), BINARY)

    return Speech(member, lambda room: Script(connect, UPGRADED, b"", b""), message)


def nats() -> Speech:
    connect = handshake("/")

    def script(lines: bytes) -> Script:
        hello = b'CONNECT {"verbose":false,"pedantic":false}\r\n' + lines + b"PING\r\n"
        return Script(connect, UPGRADED, frame(hello, BINARY), b"PONG")

    def message(room: str, payload: bytes) -> bytes:
        return frame(f"PUB {room} {len(payload)}\r\n".encode() + payload + b"\r\n", BINARY)

    return Speech(lambda room: script(f"SUB {room} 1\r\n".encode()), lambda room: script(b""), message)


def mosquitto() -> Speech:
    connect = handshake("/", "mqtt")

    def packet(kind: int, body: bytes) -> bytes:
        size, length = len(body), b""
        while True:
            byte, size = size & 0x7F, size >> 7
            length += bytes((byte | (0x80 if size else 0),))
            if not size:
                return bytes((kind,)) + length + body

    def text(value: str) -> bytes:
        return struct.pack("!H", len(value)) + value.encode()

    hello = frame(packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text("")), BINARY)

    def member(room: str) -> Script:
        subscribe = frame(packet(0x82, b"\x00\x01" + text(room) + b"\x00"), BINARY)
        return Script(connect, UPGRADED, hello + subscribe, b"\x90\x03\x00\x01\x00")

    def message(room: str, payload: bytes) -> bytes:
        return frame(packet(0x30, text(room) + payload), BINARY)

    return Speech(member, lambda room: Script(connect, UPGRADED, hello, b"\x20\x02\x00\x00"), message)


def plain() -> Speech:
    """Our own small servers of other libraries: the path names the room, the payload is the message."""

    def script(room: str, role: str) -> Script:
        return Script(handshake(f"/{role}/{room}"), UPGRADED, b"", b"ready")

    return Speech(
        lambda room: script(room, "member"),
        lambda room: script(room, "publisher"),
        lambda room, payload: frame(payload, BINARY),
    )


def socketio() -> Speech:

    def script(room: str, role: str) -> Script:
        connect = handshake(f"/socket.io/?EIO=4&transport=websocket&role={role}&room={room}")
        return Script(connect, b'"maxPayload"', frame(b"40", TEXT), b'42["ready"]')

    def message(room: str, payload: bytes) -> bytes:
        return frame(b'42["publish","' + payload + b'"]', TEXT)

    return Speech(lambda room: script(room, "member"), lambda room: script(room, "publisher"), message)


def valkey() -> Speech:
    """No WebSocket: pub/sub over TCP, as a bound."""

    def command(*parts: bytes) -> bytes:
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)

    return Speech(
        lambda room: Script(b"", b"", command(b"SUBSCRIBE", room.encode()), b":1\r\n"),
        lambda room: Script(b"", b"", command(b"PING"), b"PONG"),
        lambda room, payload: command(b"PUBLISH", room.encode(), payload),
    )


def _blob(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _connection(script: Script, *, publisher: bool, driver: bool, room: int) -> bytes:
    head = struct.pack("<III", publisher, driver, room)
    return head + _blob(script.connect) + _blob(script.first) + _blob(script.init) + _blob(script.second)


def write_acked(
    path: Path, publishers: list[tuple[Script, bytes]], window: int, *, warm_up: float, seconds: float
) -> None:
    """The scenario of publishers that are driven by their own acks: each has a script and a message.

    The message holds RECORD where the server's ack repeats it.
    """
    parts = [struct.pack("<IIIddd", len(publishers), len(publishers), window, 0.0, warm_up, seconds)]
    for number, (script, template) in enumerate(publishers):
        stamp_at = template.index(MAGIC) + len(RECORD) - len(STAMP)
        parts.append(_connection(script, publisher=True, driver=True, room=number))
        parts.append(_blob(template) + struct.pack("<ii", stamp_at, -1))
    path.write_bytes(b"".join(parts))


def write(path: Path, speech: Speech, shape: Shape, *, warm_up: float, seconds: float) -> None:
    """The scenario file of the generator."""
    payload = RECORD.ljust(shape.size, b".")
    parts: list[bytes] = []
    for room in range(shape.rooms):
        name = f"room-{room}"
        for member in range(shape.members):
            parts.append(_connection(speech.member(name), publisher=False, driver=member == 0, room=room))
        if shape.window or shape.rate:
            template = speech.message(name, payload)
            stamp_at = template.index(MAGIC) + len(RECORD) - len(STAMP)
            own_id = template.find(b"\x0a\x1a", 0, 32)  # field 1 of an envelope: a ULID of 26 bytes
            parts.append(
                _connection(speech.publisher(name), publisher=True, driver=False, room=room)
                + _blob(template)
                + struct.pack("<ii", stamp_at, own_id + 2 if own_id >= 0 else -1)
            )
    head = struct.pack("<IIIddd", len(parts), shape.rooms, shape.window, shape.rate, warm_up, seconds)
    path.write_bytes(head + b"".join(parts))


__all__ = [
    "RECORD",
    "Shape",
    "Speech",
    "arqonbus",
    "mosquitto",
    "nats",
    "plain",
    "socketio",
    "valkey",
    "write",
    "write_acked",
]
