"""A WebSocket client that sends exactly the bytes it is told to, and reads frames without judging them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import struct
from typing import Any, ClassVar, NamedTuple

from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import Envelope

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0


class Frame(NamedTuple):
    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        return int(struct.unpack("!H", self.payload[:2])[0])


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def masked(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """One client frame."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + struct.pack("!H", size)
    else:
        head = bytes((first, bit | 127)) + struct.pack("!Q", size)
    if not mask:
        return head + payload
    key = os.urandom(4)
    repeated = (key * (size // 4 + 1))[:size]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
    return head + key + body


class Raw:
    """One TCP connection to the bus's port. The fixture of the package closes what tests leave open."""

    opened: ClassVar[list[Raw]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        cls.opened.append(raw)
        return raw

    async def upgrade(
        self, token: str | None, subprotocol: str = "", *, target: str = "/v1/ws", headers: str = ""
    ) -> Response:
        lines = [
            f"GET {target} HTTP/1.1",
            "Host: bus",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if subprotocol:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        return await self.request("\r\n".join(lines) + f"\r\n{headers}\r\n")

    async def request(self, text: str) -> Response:
        self.writer.write(text.encode("latin-1"))
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *rest = head.strip().split("\r\n")
            headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Response(int(first.split()[1]), headers, body)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def send_frame(self, opcode: int, payload: bytes, **options: Any) -> None:
        self.send(masked(opcode, payload, **options))

    async def frame(self, seconds: float = 10.0) -> Frame:
        async with asyncio.timeout(seconds):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                size = struct.unpack("!H", await self.reader.readexactly(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", await self.reader.readexactly(8))[0]
            return Frame(first & 0x0F, await self.reader.readexactly(size))

    async def envelopes(self) -> list[Envelope]:
        """The envelopes of the next data frame."""
        frame = await self.frame()
        assert frame.opcode in (TEXT, BINARY), frame
        if frame.opcode == TEXT:
            found = [line.envelope for line in wire_json.decode(frame.payload.decode())]
            return [envelope for envelope in found if envelope is not None]
        return [envelope for envelope, _ in wire_protobuf.decode(frame.payload)]

    async def close_frame(self) -> Frame:
        """The next close frame; what comes before it is read over."""
        while True:
            frame = await self.frame()
            if frame.opcode == CLOSE:
                return frame

    async def ended(self) -> bool:
        """True once the bus has closed the connection."""
        async with asyncio.timeout(10):
            while await self.reader.read(65536):
                pass
            return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    @classmethod
    async def close_all(cls) -> None:
        while cls.opened:
            await cls.opened.pop().close()
