"""One pipelined connection to one Valkey server: commands are written at once, replies are matched in order.

Implements the protocol (RESP3) and knows nothing of the bus. It never repeats a command: if the connection
breaks, every unanswered command gets LinkLost, because it is unknown how far the server got.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from ssl import SSLContext
from typing import Any, NamedTuple, Protocol, cast

import hiredis

from arqonbus.storage.witness import Incarnation

Command = tuple[str | int | float | bytes, ...]
OnReplies = Callable[[list[Any]], None]
OnPush = Callable[["ValkeyLink", list[Any]], None]

_NOTHING = object()
_BEAT_SECONDS = 1.0
_FAREWELL_SECONDS = 1.0  # for written data to be sent before the connection is aborted


_pack = cast(
    "Callable[[Command], bytes]", hiredis.pack_command
)  # its type annotation allows one argument only


class Endpoint(NamedTuple):
    """Address of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Finder(Protocol):
    """Service discovery: the primary, its number of replicas, and notification of a new primary."""

    async def primary(self) -> Endpoint: ...

    def replicas(self) -> int: ...

    def add(self, listener: Callable[[Endpoint], None]) -> None: ...

    def remove(self, listener: Callable[[Endpoint], None]) -> None: ...


class Access(NamedTuple):
    """Credentials and timeouts in seconds. `finder`: asked for the address before each attempt."""

    username: str = ""
    password: str = ""
    tls: SSLContext | None = None
    connect_timeout: float = 5.0
    reply_timeout: float = 10.0
    finder: Finder | None = None


class ReplyError(Exception):
    """An error reply of the server; `code` is its first word."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class LinkLost(Exception):
    """The connection ended before the reply; whether the command took effect is unknown."""


class NotSent(LinkLost):
    """The connection had ended before the command was written: it had no effect."""


class ValkeyLink(asyncio.Protocol):
    """An open connection. Use `ValkeyLink.connect`."""

    def __init__(self, endpoint: Endpoint, access: Access, on_push: OnPush | None) -> None:
        self.endpoint = endpoint
        self.lost: asyncio.Future[LinkLost] = asyncio.get_running_loop().create_future()
        self.incarnation = Incarnation("", flushes=False, promoted=False)  # set by ValkeyEngine.prepare
        self.on_stray_error: Callable[[ReplyError], None] | None = None
        self._access = access
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_NOTHING)
        self._waiting: deque[tuple[int, list[Any], OnReplies]] = deque()
        self._progress = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._cause = ""

    @classmethod
    async def connect(cls, endpoint: Endpoint, access: Access, on_push: OnPush | None = None) -> ValkeyLink:
        """Connect and authenticate. Raises OSError, TimeoutError, LinkLost or ReplyError."""
        loop = asyncio.get_running_loop()
        link = cls(endpoint, access, on_push)
        async with asyncio.timeout(access.connect_timeout):
            await loop.create_connection(lambda: link, endpoint.host, endpoint.port, ssl=access.tls)
            try:
                hello: Command = ("HELLO", 3)
                if access.password:
                    hello += ("AUTH", access.username or "default", access.password)
                await link.call(*hello)
            except BaseException:
                link.abort("the handshake failed")
                raise
        return link

    def send(self, commands: Sequence[Command], on_replies: OnReplies) -> None:
        """Write the commands at once; `on_replies` gets one reply (or ReplyError, LinkLost) for each."""
        if self._transport is None:
            refusal = NotSent(self._cause or f"The connection to Valkey at {self.endpoint} is closed.")
            self._loop.call_soon(on_replies, [refusal] * len(commands))
            return
        if not self._waiting:
            self._progress = self._loop.time()
        self._waiting.append((len(commands), [], on_replies))
        self._transport.write(b"".join([_pack(command) for command in commands]))

    def push(self, *command: str | int | float | bytes) -> None:
        """Write a command that is answered by push messages only, such as SSUBSCRIBE."""
        if self._transport is not None:
            self._transport.write(_pack(command))

    async def call(self, *command: str | int | float | bytes) -> Any:
        """The reply of one command. Raises ReplyError or LinkLost."""
        return (await self.pipeline([command]))[0]

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """The replies of all commands. Raises the first ReplyError or LinkLost among them."""
        replies = await self.flight(commands)
        for reply in replies:
            if isinstance(reply, ReplyError | LinkLost):
                raise reply
        return replies

    def flight(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """The replies of all commands, with errors as values.

        The commands are written before this returns.
        """
        future: asyncio.Future[list[Any]] = self._loop.create_future()

        def settle(replies: list[Any]) -> None:
            if not future.done():
                future.set_result(replies)

        self.send(commands, settle)
        return future

    def abort(self, cause: str) -> None:
        """End the connection now. Unanswered commands get LinkLost."""
        self._cause = self._cause or f"The connection to Valkey at {self.endpoint} was ended: {cause}."
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Close the connection after its outstanding replies; a subscription connection has none."""
        if self._waiting and self.on_stray_error is None:
            with contextlib.suppress(LinkLost):
                await self.pipeline([("PING",)])
        if self._transport is not None:
            self._transport.close()
        await asyncio.wait([self.lost], timeout=_FAREWELL_SECONDS)
        if self._transport is not None:
            self._transport.abort()
            await asyncio.wait([self.lost])

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport does not inherit from it
        self._beat = self._loop.call_later(_BEAT_SECONDS, self._on_beat)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop: process the complete replies."""
        reader = self._reader
        pushed = answered = False
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                if isinstance(reply, hiredis.PushNotification):
                    pushed = True
                    if self._on_push is not None:
                        self._on_push(self, reply)
                    continue
                answered = True
                if self.on_stray_error is not None and isinstance(reply, ReplyError):
                    self.on_stray_error(reply)
                else:
                    self._hand_out(reply)
        except hiredis.HiredisError as error:
            self.abort(f"it does not speak the Valkey protocol ({error})")
        if answered or not pushed:  # push messages are no sign that commands are being answered
            self._progress = self._loop.time()

    def _hand_out(self, reply: Any) -> None:
        if not self._waiting:
            self.abort("it sent an unexpected reply")
            return
        count, replies, on_replies = self._waiting[0]
        replies.append(reply)
        if len(replies) == count:
            self._waiting.popleft()
            on_replies(replies)
        if isinstance(reply, ReplyError) and reply.code == "READONLY":
            self.abort("it is no longer the primary")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop: fail all waiting commands."""
        if self._beat is not None:
            self._beat.cancel()
        self._transport = None
        if not self._cause:
            reason = str(exc) if exc else "the server closed it"
            self._cause = f"The connection to Valkey at {self.endpoint} broke: {reason}."
        lost = LinkLost(self._cause)
        waiting, self._waiting = self._waiting, deque()
        if not self.lost.done():
            self.lost.set_result(lost)
        for count, replies, on_replies in waiting:
            on_replies(replies + [lost] * (count - len(replies)))

    def _on_beat(self) -> None:
        """Detect a stopped or disconnected server, which sends no FIN, by missing replies."""
        silent = self._loop.time() - self._progress
        if self._waiting and silent > self._access.reply_timeout:
            self.abort(f"no reply for {silent:.0f} s")
            return
        if not self._waiting:
            self.send([("PING",)], lambda _: None)
        self._beat = self._loop.call_later(_BEAT_SECONDS, self._on_beat)


__all__ = [
    "Access",
    "Command",
    "Endpoint",
    "Finder",
    "LinkLost",
    "NotSent",
    "OnPush",
    "ReplyError",
    "ValkeyLink",
]
