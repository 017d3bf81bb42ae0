"""One WebSocket connection to a bus: envelopes out, envelopes in, and a watch over its life.

Never reconnects.

What is sent in one turn of the event loop leaves in one WebSocket message, up to the limits of the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from arqonbus.client.errors import Disconnected, Rejected
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code, DecodeError

WireName = Literal["protobuf", "json"]
MAX_BATCH_BYTES = 256 * 1024
MAX_BATCH = 1024
UNREADABLE = 1007
FLUSH_SECONDS = 2.0
MIN_MARGIN, MAX_MARGIN = 1.0, 10.0


class Socket(ClientConnection):
    """A connection that knows when it last heard anything from the other end, pings included."""

    heard = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


class Link:
    """An open connection. Made by `open_link`."""

    def __init__(self, socket: Socket, wire: WireName) -> None:
        self.welcome: dict[str, Any] = {}
        self.over = False  # nothing that is sent would be answered
        self._socket = socket
        self._json = wire == "json"
        self._loop = asyncio.get_running_loop()
        self._max_frame = MAX_BATCH_BYTES
        self._max_payload = sys.maxsize
        self._outbox: deque[bytes] = deque()
        self._failure: tuple[int, str] | None = None  # what this end found wrong
        self._wake = asyncio.Event()
        self._written: asyncio.Future[None] | None = None
        self._writer = self._loop.create_task(self._write())
        self._interval = 0.0
        self._margin = 0.0
        self._grace = 0.0
        self._probed_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._pinging: asyncio.Task[None] | None = None
        socket.heard = self._loop.time()

    def welcomed(self, welcome: dict[str, Any], default_ping_interval: float) -> None:
        """Keep the bus's limits, and begin to watch for silence that its pings do not explain."""
        self.welcome = welcome
        limits = welcome.get("limits", {})
        self._max_frame = int(limits.get("max_frame_bytes") or MAX_BATCH_BYTES)
        self._max_payload = int(limits.get("max_payload_bytes") or sys.maxsize)
        self._interval = welcome.get("ping_interval_ms", 0) / 1000 or default_ping_interval
        self._margin = max(MIN_MARGIN, min(MAX_MARGIN, self._interval / 2))
        self._look()

    # -- sending

    def send(self, envelope: Envelope) -> None:
        """Queue one envelope.

        Raises Rejected (TOO_LARGE) when the bus would not take it, Disconnected when over.
        """
        if self.over:
            raise Disconnected("the connection has ended")
        if self._json:
            data = wire_json.encode(envelope)
        else:
            raw = envelope.SerializeToString()
            data = wire_protobuf.length_prefix(len(raw)) + raw
        if len(data) > self._max_frame:
            raise _too_large(
                f"the message has {len(data)} bytes on the wire; the bus accepts {self._max_frame}"
            )
        if len(data) > self._max_payload and len(envelope.payload) > self._max_payload:
            raise _too_large(
                f"the payload has {len(envelope.payload)} bytes; the bus accepts {self._max_payload}"
            )
        if not self._outbox:
            self._wake.set()
        self._outbox.append(data)

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    await self._socket.send(self._batch())
                if self._written is not None and not self._written.done():
                    self._written.set_result(None)

    def _batch(self) -> str | bytes:
        """The next envelopes as one message: at least one, within the limits of the bus."""
        most = min(MAX_BATCH_BYTES, self._max_frame)
        outbox = self._outbox
        batch = [outbox.popleft()]
        size = len(batch[0]) + self._json
        while outbox and len(batch) < MAX_BATCH and size + len(outbox[0]) <= most:
            batch.append(outbox.popleft())
            size += len(batch[-1]) + self._json  # a newline between two lines of JSON
        return b"\n".join(batch).decode() if self._json else b"".join(batch)

    # -- receiving

    async def frames(self) -> AsyncIterator[tuple[list[Envelope], int]]:
        """Envelopes of each message that arrives, and their mean size in bytes, until the connection ends."""
        with contextlib.suppress(ConnectionClosed):
            async for data in self._socket:
                try:
                    envelopes = _envelopes(data)
                except DecodeError as error:
                    self._failure = UNREADABLE, f"the bus sent data that cannot be read: {error}"
                    return
                yield envelopes, len(data) // max(1, len(envelopes))

    @property
    def close_code(self) -> int:
        """The code with which it ended; 1006 without a close frame."""
        return self._failure[0] if self._failure else self._socket.close_code or 1006

    @property
    def close_reason(self) -> str:
        """The reason with which it ended."""
        return self._failure[1] if self._failure else self._socket.close_reason or "the connection broke"

    # -- liveness

    def probe(self, within: float = MAX_MARGIN) -> None:
        """Ask for a sign of life now; without one in `within` seconds, or the margin, the link ends."""
        if not self._interval or self._probed_at:
            return
        self._cancel_timer()
        self._probed_at = self._loop.time()
        self._grace = max(MIN_MARGIN, min(self._margin, within))
        self._pinging = self._loop.create_task(self._ping())
        self._timer = self._loop.call_later(self._grace, self._judge)

    async def _ping(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._socket.ping()

    def _look(self) -> None:
        """Probe if it was silent for an interval, else look again when that could be so."""
        due = self._socket.heard + self._interval
        if self._loop.time() >= due:
            self.probe()
        else:
            self._timer = self._loop.call_at(due, self._look)

    def _judge(self) -> None:
        waited, self._probed_at = self._loop.time() - self._probed_at, 0.0
        if self._socket.heard > self._loop.time() - waited:
            self._look()
        elif waited > 1.5 * self._grace:  # this program itself stood still: the ping had no fair chance
            self.probe()
        else:
            silent = self._loop.time() - self._socket.heard
            self.abort(f"nothing was heard from the bus for {silent:.1f} s")

    def abort(self, reason: str) -> None:
        """End the link without a closing handshake."""
        if self._failure is None:
            self._failure = 1006, reason
        self._socket.transport.abort()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the end

    async def flush(self) -> None:
        """Wait until what was sent is on its way, for a short time at most."""
        if self._outbox and not self._writer.done():
            self._written = self._loop.create_future()
            await asyncio.wait(
                (self._writer, self._written), timeout=FLUSH_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )

    async def close(self) -> None:
        """Close it, with a closing handshake if the other end takes part."""
        self._cancel_timer()
        self._interval = 0.0
        tasks = [task for task in (self._writer, self._pinging) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._socket.close()


def _envelopes(data: str | bytes) -> list[Envelope]:
    """The envelopes of one message of the bus, however many."""
    if isinstance(data, str):
        lines = wire_json.decode(data, most=sys.maxsize)
        return [line.envelope for line in lines if line.envelope is not None]
    return [envelope for envelope, _ in wire_protobuf.decode(data, most=sys.maxsize)]


def _too_large(message: str) -> Rejected:
    return Rejected(BusError(Code.TOO_LARGE, message))


__all__ = ["Link", "Socket", "WireName"]
