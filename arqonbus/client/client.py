"""The client: connects, publishes, subscribes, commands, and comes back by itself.

async with Client("ws://127.0.0.1:9100/v1/ws", token) as client:
    async with await client.subscribe("orders") as orders:
        ack = await client.publish("orders", {"item": 1})
        async for message in orders:
            print(message.json())
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol

from arqonbus.client.backoff import Backoff
from arqonbus.client.errors import ClientError, Closed, ConnectionRefused, Disconnected, Rejected
from arqonbus.client.group import Group
from arqonbus.client.history import history
from arqonbus.client.link import Link, TryAgain, WireName, open_link
from arqonbus.client.message import Ack, Message, Payload, command_envelope, error_of, message_envelope
from arqonbus.client.subscription import OnLost, Subscription
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.envelope import MESSAGE, REPLY, SIGNAL, Envelope
from arqonbus.protocol.errors import Code

Token = str | Callable[[], str | Awaitable[str]]


class Signer(Protocol):
    """Puts a signature into a message; MessageSigner of protocol.signatures is one."""

    def sign(self, envelope: Envelope, tenant: str) -> None: ...


PROTOCOL_ERRORS = frozenset({1002, 1003, 1007, 1008, 1009})


def is_final(close_code: int) -> bool:
    """Whether a close code means that coming back as we are is of no use."""
    return close_code in PROTOCOL_ERRORS or 4100 <= close_code <= 4199


class Client:
    """A connection that lasts. All methods are for one event loop.

    `token` is a string, or a function that gives a fresh one; with a function the client renews its token
    on the open connection before it ends. `timeout` is in seconds and bounds each publish and command,
    reconnects included.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        wire: WireName = "protobuf",
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
        on_signal: Callable[[Envelope], None] | None = None,
        on_direct: Callable[[Message], None] | None = None,
        signer: Signer | None = None,
    ) -> None:
        """`signer` signs what is published; see protocol.signatures."""
        self.url = url
        self.welcome: dict[str, Any] = {}
        self.reconnects = 0
        self._token = token
        self._wire: WireName = wire
        self._timeout = timeout
        self._tls = tls
        self._on_signal = on_signal
        self._on_direct = on_direct
        self._signer = signer
        self._link: Link | None = None
        self._online = asyncio.Event()
        self._replies: dict[str, asyncio.Future[Envelope]] = {}
        self._joins: dict[str, Subscription] = {}
        self._subscriptions: list[Subscription] = []
        self._backoff = Backoff()
        self._runner: asyncio.Task[None] | None = None
        self._renewals: set[asyncio.Task[None]] = set()
        self._end: ClientError | None = None

    # -- life

    async def connect(self) -> None:
        """Connect and wait for the welcome. Raises ConnectionRefused, or Disconnected after the timeout."""
        self._runner = asyncio.create_task(self._run())
        try:
            await self._until_online(asyncio.get_running_loop().time() + self._timeout)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End everything; subscriptions end their iteration."""
        self._finish(Closed(1000, "the client was closed"))
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        for subscription in list(self._subscriptions):
            await subscription.close()

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- what users do

    async def publish(
        self,
        room: str,
        payload: Payload,
        *,
        channel: str = "",
        name: str = "",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
        message_id: str = "",
        cause: str = "",
        clock: Mapping[str, int] | None = None,
    ) -> Ack:
        """Publish and wait for the ack. Tried again, with the same id, until the timeout.

        Raises Rejected when the bus says no, Disconnected when no ack came in time.
        """
        envelope = message_envelope(
            payload,
            room=room,
            channel=channel,
            name=name,
            content_type=content_type,
            headers=headers,
            message_id=message_id,
            cause=cause,
            clock=clock,
        )
        if self._signer is not None:
            await self._until_online(asyncio.get_running_loop().time() + self._timeout)
            self._signer.sign(envelope, self.welcome["tenant"])
        return Ack.of(await self._ask(envelope, again=True), room)

    async def send(self, recipient: str, payload: Payload, *, name: str = "", content_type: str = "") -> Ack:
        """Send to one client. Raises Rejected (NOT_FOUND) when it is not connected."""
        envelope = message_envelope(payload, recipient=recipient, name=name, content_type=content_type)
        return Ack.of(await self._ask(envelope, again=False), "")

    async def command(
        self, operation: str, arguments: Mapping[str, Any] | None = None, *, again: bool = False
    ) -> Any:
        """Run an operation and give its result. Raises Rejected, or Disconnected if no answer came.

        `again`: ask again after a lost connection or a busy bus, which may run the operation twice.
        """
        result = await self._result(operation, arguments or {}, again=again)
        return json.loads(result.payload) if result.payload else None

    async def _result(self, operation: str, arguments: Mapping[str, Any], *, again: bool) -> Envelope:
        return await self._ask(command_envelope(operation, arguments), again=again)

    def history(
        self,
        room: str,
        *,
        channel: str = "",
        begin: datetime | None = None,
        end: datetime | None = None,
        newest_first: bool = False,
        strict_sequence: bool = False,
        page: int = 1000,
    ) -> AsyncGenerator[Message, None]:
        """What a room holds of begin <= t < end, page after page. Raises Rejected; see history."""
        return history(
            self._result,
            room,
            channel=channel,
            begin=begin,
            end=end,
            newest_first=newest_first,
            strict_sequence=strict_sequence,
            page=page,
        )

    async def subscribe(
        self,
        room: str,
        *,
        channel: str = "",
        since: Position | None = None,
        presence: bool = False,
        on_lost: OnLost | None = None,
    ) -> Subscription:
        """Join a room, from now or from behind a position. It is joined again after each reconnect."""
        if any(s.room == room and s.channel == channel for s in self._subscriptions):
            raise ValueError(f"this client is subscribed to {room} already")
        subscription = Subscription(room, channel, since, presence, on_lost, self._unsubscribe)
        deadline = asyncio.get_running_loop().time() + self._timeout
        while subscription not in self._subscriptions:
            await self._until_online(deadline)
            with contextlib.suppress(Disconnected):
                await self._join(subscription)
            if asyncio.get_running_loop().time() >= deadline:
                raise Disconnected(f"room {room} could not be joined within {self._timeout:g} s")
        return subscription

    def group(
        self,
        room: str,
        group: str,
        *,
        consumer: str = "",
        concurrency: int = 1,
        lease: float = 30.0,
        start: Literal["begin", "end"] | int = "begin",
        max_deliveries: int = 5,
        retry_delay: float = 1.0,
        wait: float = 5.0,
    ) -> Group:
        """Work in a consumer group, which is made if it is not there; see Group."""
        return Group(
            self._result,
            room,
            group,
            consumer=consumer or self.welcome["client"],
            concurrency=concurrency,
            lease=lease,
            start=start,
            max_deliveries=max_deliveries,
            retry_delay=retry_delay,
            wait=min(
                wait, self._timeout / 2
            ),  # an answer that comes too late has leased its jobs for nothing
        )

    # -- requests

    async def _ask(self, envelope: Envelope, *, again: bool) -> Envelope:
        """The successful reply to an envelope. `again`: repeat it after a lost connection or a busy bus."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        backoff = Backoff()
        while True:
            await self._until_online(deadline)
            try:
                reply = await self._exchange(envelope, deadline)
            except Disconnected:
                if not again or loop.time() >= deadline or self._end is not None:
                    raise
                continue
            status = reply.status
            if status.code == Code.OK:
                return reply
            error = error_of(envelope, reply)
            wait = backoff.next(status.retry_after_ms / 1000)
            if not (again and status.retry_after_ms) or loop.time() + wait >= deadline:
                raise Rejected(error)
            await asyncio.sleep(wait)

    async def _exchange(self, envelope: Envelope, deadline: float) -> Envelope:
        link = self._link
        if link is None:
            raise Disconnected("the connection is down")
        future: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self._replies[envelope.id] = future
        try:
            link.send(envelope)
            async with asyncio.timeout_at(deadline):
                return await future
        except TimeoutError:
            raise Disconnected(f"no answer within {self._timeout:g} s") from None
        finally:
            self._replies.pop(envelope.id, None)

    async def _until_online(self, deadline: float) -> None:
        if self._end is not None:
            raise self._end
        try:
            async with asyncio.timeout_at(deadline):
                await self._online.wait()
        except TimeoutError:
            raise Disconnected(f"no connection to {self.url} within {self._timeout:g} s") from None
        if self._end is not None:
            raise self._end

    def _join_envelope(self, subscription: Subscription) -> Envelope:
        """A join whose reply puts the subscription in place before anything behind it is read."""
        envelope = command_envelope("op.rooms.join", subscription.join_arguments())
        self._joins[envelope.id] = subscription
        return envelope

    async def _unsubscribe(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            if self._online.is_set() and self._end is None:
                with contextlib.suppress(Rejected, Disconnected):
                    await self.command(
                        "op.rooms.leave", {"room": subscription.room, "channel": subscription.channel}
                    )

    # -- the connection

    async def _run(self) -> None:
        try:
            while True:
                await self._connect_once()
        except ClientError as error:
            self._finish(error)

    async def _connect_once(self) -> None:
        """One connection from its beginning to its end. Raises when there shall not be another."""
        try:
            link = await open_link(self.url, await self._fresh_token(), self._wire, self._tls)
        except TryAgain as obstacle:
            await asyncio.sleep(self._backoff.next(obstacle.after))
            return
        try:
            self._link = link
            async for envelopes in link.frames():
                for envelope in envelopes:
                    await self._receive(envelope)
        finally:
            self._link = None
            self._online.clear()
            self._joins.clear()
            self._fail_replies(Disconnected("the connection ended before the answer came"))
            await link.close()
        if is_final(link.close_code):
            raise Closed(link.close_code, link.close_reason)
        self.reconnects += 1
        await asyncio.sleep(self._backoff.next())

    async def _fresh_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        token = self._token()
        return await token if inspect.isawaitable(token) else token

    async def _receive(self, envelope: Envelope) -> None:
        kind = envelope.kind
        if kind == MESSAGE:
            if envelope.recipient:
                if self._on_direct is not None:
                    self._on_direct(Message(envelope))
                return
            for subscription in self._subscriptions:
                if subscription.wants(envelope):
                    await subscription.deliver(envelope)
        elif kind == REPLY:
            self._receive_reply(envelope)
        elif kind == SIGNAL:
            self._receive_signal(envelope)

    def _receive_reply(self, envelope: Envelope) -> None:
        joining = self._joins.pop(envelope.reply_to, None)
        if joining is not None and envelope.status.code == Code.OK:
            joining.joined(json.loads(envelope.payload))
            if joining not in self._subscriptions:
                self._subscriptions.append(joining)
        future = self._replies.get(envelope.reply_to)
        if future is not None and not future.done():
            future.set_result(envelope)

    def _receive_signal(self, envelope: Envelope) -> None:
        name = envelope.name
        if name == "welcome":
            self.welcome = json.loads(envelope.payload)
            self._backoff.reset()
            self._renew(self._resume())
        elif name in ("gap", "epoch"):
            facts = json.loads(envelope.payload)
            reason = facts.get("reason") or f"sequences {facts['first']} to {facts['last']} are gone"
            for subscription in self._subscriptions:
                if subscription.room == envelope.room:
                    subscription.lost(reason)
        elif name == "token.expiring" and not isinstance(self._token, str):
            self._renew(self._refresh_token())
        if self._on_signal is not None:
            self._on_signal(envelope)

    async def _resume(self) -> None:
        """Join everything again, then let requests through."""
        try:
            for subscription in list(self._subscriptions):
                try:
                    await self._join(subscription)
                except Rejected as refusal:
                    self._renew(self._join_later(subscription, refusal))
        except Disconnected:
            return  # the next connection resumes
        self._online.set()

    async def _join_later(self, subscription: Subscription, refusal: Rejected) -> None:
        """Ask again while the bus says that it is worth it, such as when its engine is away."""
        link, backoff = self._link, Backoff()
        with contextlib.suppress(Disconnected):
            while refusal.error.retry_after_ms:
                await asyncio.sleep(backoff.next(refusal.error.retry_after_ms / 1000))
                if self._link is not link or subscription not in self._subscriptions:
                    return  # the next connection resumes, or nobody listens any more
                try:
                    await self._join(subscription)
                except Rejected as another:
                    refusal = another
                else:
                    return
            subscription.fail(refusal)

    async def _join(self, subscription: Subscription) -> None:
        envelope = self._join_envelope(subscription)
        reply = await self._exchange(envelope, asyncio.get_running_loop().time() + self._timeout)
        if reply.status.code != Code.OK:
            raise Rejected(error_of(envelope, reply))

    async def _refresh_token(self) -> None:
        with contextlib.suppress(Disconnected, Rejected):
            await self.command("op.auth.refresh", {"token": await self._fresh_token()})

    def _renew(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    def _fail_replies(self, error: ClientError) -> None:
        for future in self._replies.values():
            if not future.done():
                future.set_exception(error)

    def _finish(self, error: ClientError) -> None:
        if self._end is None:
            self._end = error
            self._online.set()  # whoever waits is told
            self._fail_replies(error)
            if not (isinstance(error, Closed) and error.code == 1000):
                for subscription in self._subscriptions:
                    subscription.fail(error)


__all__ = ["Client", "ConnectionRefused", "Token", "is_final"]
