"""A bus that misbehaves on command: a relay on the level of envelopes in front of a real one.

It takes part in both WebSocket connections, so it can close with any code, drop, hold, repeat and change what
the real bus says. Whatever no step mentions passes unchanged, on either wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response

from arqonbus.protocol import replies, wire_json, wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, REPLY, SIGNAL, Envelope
from arqonbus.protocol.errors import BusError, Code
from tests.servers.processes import free_port

GONE = 1001


def is_sendable(code: int) -> bool:
    """Whether a close code may stand in a close frame (RFC 6455, section 7.4)."""
    return code >= 3000 or code in {1000, 1001, 1002, 1003, *range(1007, 1015)}


class _Pair:
    """One connection of the program with its connection to the real bus."""

    def __init__(self, near: ServerConnection, far: ClientConnection) -> None:
        self.near = near
        self.far = far
        self.json = (near.subprotocol or "").endswith("json")
        self.asked: dict[str, str] = {}  # operations by the id of their command
        self.down = asyncio.Lock()

    def frame(self, envelopes: list[Envelope]) -> str | bytes:
        if self.json:
            return wire_json.frame_of(envelopes).decode()
        return wire_protobuf.frame_of(envelopes)

    def envelopes(self, data: str | bytes) -> list[Envelope]:
        if isinstance(data, str):
            found = [line.envelope for line in wire_json.decode(data, most=1 << 30)]
            return [envelope for envelope in found if envelope is not None]
        return [envelope for envelope, _ in wire_protobuf.decode(data, most=1 << 30)]


class ScriptedBus:
    """Relays to `url`. Each attribute is a fault; the values are those of a bus without any."""

    def __init__(self, url: str) -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}/v1/ws"
        self.welcome_patch: dict[str, Any] = {}
        self.no_welcome = False
        self.close_after_welcome: list[int] = []  # close codes of the next connections
        self.close_on: dict[str, list[int]] = {}  # by operation, or MESSAGE
        self.drop_replies: dict[str, int] = {}  # to an operation, or MESSAGE: how many
        self.hold_replies: set[str] = set()
        self.refuse: dict[str, list[dict[str, Any]]] = {}  # by operation: statuses instead of running it
        self.repeat_messages = False
        self.commands: list[str] = []  # operations that came, in order
        self._held: list[tuple[_Pair, Envelope]] = []
        self._url = url
        self._pairs: list[_Pair] = []
        self._dialled: dict[int, ClientConnection] = {}
        self._server: Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await serve(
            self._relay,
            "127.0.0.1",
            self.port,
            process_request=self._dial,
            select_subprotocol=lambda _, offered: next((o for o in offered if "bearer" not in o), None),
            compression=None,
            max_size=None,
            ping_interval=None,
        )

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close(close_connections=True)
            await self._server.wait_closed()
        for far in self._dialled.values():
            await far.close()

    # -- steps

    async def close(self, code: int, reason: str = "scripted") -> None:
        """Close the program's connections with a code."""
        for pair in list(self._pairs):
            await pair.near.close(code, reason)

    async def signal(self, name: str, facts: dict[str, Any], room: str = "") -> None:
        """Send a signal to the program."""
        for pair in self._pairs:
            await self._send(pair, [replies.signal(name, facts, room)])

    async def error_signal(self, code: str, message: str) -> None:
        """Send a signal `error` that belongs to no request."""
        for pair in self._pairs:
            await self._send(pair, [replies.error_signal(BusError(Code(code), message))])

    async def say(self, data: str) -> None:
        """Send bytes that are no envelope."""
        for pair in self._pairs:
            await pair.near.send(data if pair.json else data.encode())

    async def release(self) -> None:
        """Send the replies that were held."""
        self.hold_replies.clear()
        held, self._held = self._held, []
        for pair, reply in held:
            with contextlib.suppress(ConnectionClosed):
                await self._send(pair, [reply])

    # -- the work

    async def _dial(self, near: ServerConnection, request: Request) -> Response | None:
        """Connect to the real bus first, so that what it refuses is refused here in the same way."""
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        headers = {name: request.headers[name] for name in ("Authorization",) if name in request.headers}
        try:
            far = await connect(
                self._url,
                subprotocols=offered or None,  # type: ignore[arg-type]
                additional_headers=headers,
                compression=None,
                max_size=None,
                ping_interval=None,
                proxy=None,
            )
        except InvalidStatus as answer:
            return answer.response
        except OSError:
            return near.respond(503, "no bus")  # type: ignore[arg-type]
        self._dialled[id(near)] = far
        return None

    async def _relay(self, near: ServerConnection) -> None:
        pair = _Pair(near, self._dialled.pop(id(near)))
        self._pairs.append(pair)
        ways = [
            asyncio.create_task(self._way(pair, pair.near, self._up)),
            asyncio.create_task(self._way(pair, pair.far, self._down)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._pairs.remove(pair)
            code = pair.far.close_code or GONE
            await near.close(code if is_sendable(code) else GONE, pair.far.close_reason or "")
            await pair.far.close()

    @staticmethod
    async def _way(pair: _Pair, source: Any, handle: Callable[..., Any]) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for data in source:
                await handle(pair, data)

    async def _up(self, pair: _Pair, data: str | bytes) -> None:
        passing: list[Envelope] = []
        for envelope in pair.envelopes(data):
            kind = envelope.name if envelope.kind == COMMAND else "MESSAGE"
            if envelope.kind == COMMAND:
                pair.asked[envelope.id] = envelope.name
                self.commands.append(envelope.name)
            statuses = self.refuse.get(kind)
            if statuses:
                status = statuses.pop(0)
                refusal = Envelope(kind=REPLY, reply_to=envelope.id)
                refusal.status.code = status["code"]
                refusal.status.message = status.get("message", "scripted")
                refusal.status.retry_after_ms = status.get("retry_after_ms", 0)
                await self._send(pair, [refusal])
                continue
            codes = self.close_on.get(kind)
            if codes:
                await pair.near.close(codes.pop(0), "scripted")
                return
            passing.append(envelope)
        if passing:
            await pair.far.send(pair.frame(passing))

    async def _down(self, pair: _Pair, data: str | bytes) -> None:
        passing: list[Envelope] = []
        for envelope in pair.envelopes(data):
            if envelope.kind == SIGNAL and envelope.name == "welcome":
                if self.no_welcome:
                    continue
                facts = json.loads(envelope.payload)
                for key, value in self.welcome_patch.items():
                    facts[key] = {**facts[key], **value} if isinstance(value, dict) else value
                envelope.payload = json.dumps(facts).encode()
                if self.close_after_welcome:
                    await self._send(pair, [envelope])
                    await pair.near.close(self.close_after_welcome.pop(0), "scripted")
                    return
            elif envelope.kind == REPLY and not self._lets_pass(pair, envelope):
                continue
            passing.append(envelope)
            if envelope.kind == MESSAGE and self.repeat_messages:
                passing.append(envelope)
        if passing:
            await self._send(pair, passing)

    def _lets_pass(self, pair: _Pair, reply: Envelope) -> bool:
        """Whether a reply is neither dropped nor held."""
        asked = pair.asked.pop(reply.reply_to, "MESSAGE")
        if self.drop_replies.get(asked, 0):
            self.drop_replies[asked] -= 1
            return False
        if asked in self.hold_replies:
            self._held.append((pair, reply))
            return False
        return True

    async def _send(self, pair: _Pair, envelopes: list[Envelope]) -> None:
        async with pair.down:
            await pair.near.send(pair.frame(envelopes))


__all__ = ["ScriptedBus"]
