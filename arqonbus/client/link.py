"""One WebSocket connection to a bus: frames out, envelopes in. Knows nothing of reconnecting.

What is sent in one tick of the event loop leaves in one WebSocket message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from collections.abc import AsyncIterator
from typing import Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from arqonbus.client.errors import ConnectionRefused
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import DecodeError

WireName = Literal["protobuf", "json"]
MAX_BATCH_BYTES = 256 * 1024
MAX_BATCH = 1024

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class TryAgain(Exception):
    """No connection just now. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Link:
    """An open connection. Made by `open_link`."""

    def __init__(self, socket: ClientConnection, wire: WireName) -> None:
        self._socket = socket
        self._json = wire == "json"
        self._outbox: list[Envelope] = []
        self._unreadable = ""
        self._wake = asyncio.Event()
        self._writer = asyncio.create_task(self._write())

    def send(self, envelope: Envelope) -> None:
        """Queue one envelope."""
        self._outbox.append(envelope)
        self._wake.set()

    async def frames(self) -> AsyncIterator[list[Envelope]]:
        """The envelopes of each message that comes, until the connection ends."""
        with contextlib.suppress(ConnectionClosed):
            async for data in self._socket:
                try:
                    envelopes = _envelopes(data)
                except DecodeError as error:
                    self._unreadable = f"the bus sent what cannot be read: {error}"
                    return
                yield envelopes

    @property
    def close_code(self) -> int:
        return 1007 if self._unreadable else self._socket.close_code or 1006

    @property
    def close_reason(self) -> str:
        return self._unreadable or self._socket.close_reason or "the connection broke"

    async def close(self) -> None:
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        await self._socket.close()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    await self._socket.send(self._batch())

    def _batch(self) -> str | bytes:
        """The next envelopes as one message; at least one, not many more bytes than the bound."""
        size = count = 0
        for envelope in self._outbox:
            count += 1
            size += envelope.ByteSize()
            if size >= MAX_BATCH_BYTES or count == MAX_BATCH:
                break
        batch, self._outbox = self._outbox[:count], self._outbox[count:]
        return wire_json.frame_of(batch).decode() if self._json else wire_protobuf.frame_of(batch)


def _envelopes(data: str | bytes) -> list[Envelope]:
    """What one message of the bus holds, however many: it may be all that was missed in an hour."""
    if isinstance(data, str):
        lines = wire_json.decode(data, most=sys.maxsize)
        return [line.envelope for line in lines if line.envelope is not None]
    return [envelope for envelope, _ in wire_protobuf.decode(data, most=sys.maxsize)]


async def open_link(url: str, token: str, wire: WireName, tls: ssl.SSLContext | None) -> Link:
    """Connect and upgrade. Raises ConnectionRefused when the bus says no, TryAgain when it can't now."""
    try:
        socket = await connect(
            url,
            subprotocols=[f"arqonbus.v1.{wire}"],  # type: ignore[list-item]
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            max_size=None,
            ping_interval=None,  # the bus pings; silence is its business and TCP's
            open_timeout=10,
            close_timeout=2,
            ssl=tls,
        )
    except InvalidStatus as answer:
        raise _refusal(answer) from answer
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise TryAgain(f"no bus answers at {url}: {error}") from error
    return Link(socket, wire)


def _refusal(answer: InvalidStatus) -> Exception:
    response = answer.response
    try:
        body = json.loads(response.body or b"{}")
    except ValueError:
        body = {}
    message = str(body.get("message", "the server refused the connection"))
    if response.status_code in _TRY_AGAIN:
        after = response.headers.get("Retry-After", "0")
        return TryAgain(message, float(after) if after.isdigit() else 0.0)
    return ConnectionRefused(response.status_code, str(body.get("code", "")), message)


__all__ = ["Link", "TryAgain", "WireName", "open_link"]
