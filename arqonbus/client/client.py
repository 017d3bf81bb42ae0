"""The client: connects, publishes, subscribes, runs commands, and reconnects by itself.

async with Client("ws://127.0.0.1:9100/v1/ws", token) as client:
    async with await client.subscribe("orders") as orders:
        ack = await client.publish("orders", {"item": 1})
        async for message in orders:
            print(message.json())
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol

from arqonbus.client.callbacks import Callbacks, OnError
from arqonbus.client.connection import NORMAL, Connection, is_final
from arqonbus.client.engine import Engine
from arqonbus.client.errors import ClientError, Closed, ConnectionRefused, PublishFailed
from arqonbus.client.group import Group
from arqonbus.client.history import history
from arqonbus.client.link import WireName
from arqonbus.client.message import (
    Ack,
    Member,
    Message,
    Payload,
    command_envelope,
    message_envelope,
)
from arqonbus.client.opening import check_url
from arqonbus.client.state import State
from arqonbus.client.subscription import MAX_BYTES, MAX_MESSAGES, OnLost, Policy, Subscription
from arqonbus.client.tokens import Token
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.envelope import Envelope


class Signer(Protocol):
    """Puts a signature into a message; MessageSigner of protocol.signatures is one."""

    def sign(self, envelope: Envelope, tenant: str) -> None: ...


class _Closing:
    """Awaitable until the client is closed, for why it was; true once it is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __await__(self) -> Generator[Any, None, ClientError]:
        return self._connection.finished().__await__()

    def __bool__(self) -> bool:
        return self._connection.end is not None


class Client:
    """

    connection to a bus that outlives failures of the network, the bus and the program's own callbacks.

    All methods belong to one event loop. `token` is a string, or a function (which may be asynchronous) that
    gives a fresh one: then the client renews its token before it expires. `timeout` in seconds bounds each
    call, reconnects included. Callbacks may raise or be asynchronous; their errors go to `on_error(error,
    where)`, or to the log. docs/reference/client-behaviour.md states every timer and decision.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        wire: WireName = "protobuf",
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
        on_signal: Callable[[Envelope], Any] | None = None,
        on_direct: Callable[[Message], Any] | None = None,
        on_state: Callable[[State], Any] | None = None,
        on_error: OnError | None = None,
        signer: Signer | None = None,
    ) -> None:
        """`signer` signs what is published; see protocol.signatures.

        Raises ValueError for an unusable url.
        """
        self.url = check_url(url)
        self._timeout = timeout
        self._signer = signer
        callbacks = Callbacks(on_signal, on_direct, on_state, on_error)
        self._engine = Engine(url, token, wire=wire, timeout=timeout, tls=tls, callbacks=callbacks)
        self._connection = self._engine.connection
        self._requests = self._engine.requests

    def __repr__(self) -> str:
        return f"<Client {self.url} {self.state.name}>"

    # -- life

    @property
    def state(self) -> State:
        """Where the connection stands, with a reason. `str(client.state)` reads as a sentence."""
        return self._connection.state

    @property
    def closed(self) -> _Closing:
        """`await client.closed` waits for the end and gives its error; `if client.closed:` does not wait."""
        return _Closing(self._connection)

    @property
    def welcome(self) -> dict[str, Any]:
        """

        hat the bus said about itself and this client: `client` (its id), `tenant`, `limits`, `capabilities` …
        """
        return self._engine.welcome

    @property
    def reconnects(self) -> int:
        """How often the connection was replaced."""
        return self._connection.reconnects

    async def connect(self) -> None:
        """Connect and wait for the welcome.

        Raises ConnectionRefused or NotConnected at once for what trying again does not mend, and NotConnected
        with the last cause after the timeout.
        """
        self._connection.start()
        try:
            await self._connection.ready(asyncio.get_running_loop().time() + self._timeout)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End everything; subscriptions end their iteration, calls under way raise Closed."""
        await self._engine.close(Closed(NORMAL, "the client was closed"))

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- messages

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
        """Publish and wait for the ack.

        Repeated with the same id, which the bus stores once, until the timeout.

        Raises Rejected when the bus, or the client on its behalf, refuses the message; Disconnected when no
        ack came in time.
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
            await self._sign((envelope,))
        return Ack.of(await self._requests.ask(envelope, again=True), room)

    async def publish_many(
        self,
        room: str,
        payloads: Sequence[Payload],
        *,
        channel: str = "",
        name: str = "",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
        message_ids: Sequence[str] | None = None,
    ) -> list[Ack]:
        """

        ublish messages together, in one round trip where the limits allow it; their acks in the same order.

        Order in the room is that of `payloads`, except for messages that the bus refused for a while and that
        were repeated. Raises PublishFailed, which holds the outcome of each, if any message was not acked.
        """
        ids = message_ids if message_ids is not None else [""] * len(payloads)
        envelopes = [
            message_envelope(
                payload,
                room=room,
                channel=channel,
                name=name,
                content_type=content_type,
                headers=headers,
                message_id=message_id,
            )
            for payload, message_id in zip(payloads, ids, strict=True)
        ]
        if self._signer is not None:
            await self._sign(envelopes)
        results = [
            outcome if isinstance(outcome, ClientError) else Ack.of(outcome, room)
            for outcome in await self._requests.ask_many(envelopes)
        ]
        acks = [result for result in results if isinstance(result, Ack)]
        if len(acks) < len(results):
            raise PublishFailed(results)
        return acks

    async def _sign(self, envelopes: Sequence[Envelope]) -> None:
        assert self._signer is not None
        await self._connection.ready(asyncio.get_running_loop().time() + self._timeout)
        for envelope in envelopes:
            self._signer.sign(envelope, self.welcome["tenant"])

    async def send(
        self,
        recipient: str,
        payload: Payload,
        *,
        name: str = "",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
        cause: str = "",
    ) -> Ack:
        """Send to one client by its client id; nothing is stored.

        Raises Rejected (NOT_FOUND) if it is not connected.
        """
        envelope = message_envelope(
            payload, recipient=recipient, name=name, content_type=content_type, headers=headers, cause=cause
        )
        return Ack.of(await self._requests.ask(envelope, again=False), "")

    async def subscribe(
        self,
        room: str,
        *,
        channel: str = "",
        since: Position | None = None,
        presence: bool = False,
        on_lost: OnLost | None = None,
        policy: Policy = "pause",
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
        manual_ack: bool = False,
    ) -> Subscription:
        """Subscribe to a room, from now or from behind a position. It survives reconnects.

        Any number of subscriptions may be open for one room. `policy` decides what happens when
        `max_messages` or `max_bytes` wait unread: `pause`, `drop_oldest` or `raise`. `presence`: signals of
        who joins and leaves go to `on_signal`. Raises Rejected, or Disconnected after the timeout.
        """
        subscription = Subscription(
            self._engine.memberships,
            room,
            channel=channel,
            since=since,
            presence=presence,
            on_lost=on_lost,
            policy=policy,
            max_messages=max_messages,
            max_bytes=max_bytes,
            manual_ack=manual_ack,
        )
        await self._engine.memberships.subscribe(subscription, self._timeout)
        return subscription

    # -- questions

    async def command(
        self, operation: str, arguments: Mapping[str, Any] | None = None, *, again: bool = False
    ) -> Any:
        """Run an operation and return its result. Raises Rejected, or Disconnected if no answer came.

        `again`: ask again after a lost connection or a busy bus, which may run the operation twice.
        """
        result = await self._result(operation, arguments or {}, again=again)
        return json.loads(result.payload) if result.payload else None

    async def _result(self, operation: str, arguments: Mapping[str, Any], *, again: bool) -> Envelope:
        return await self._requests.ask(command_envelope(operation, arguments), again=again)

    async def presence(self, room: str, *, limit: int = 100) -> list[Member]:
        """The clients in a room on all nodes, at most `limit` (1-1000). Raises Rejected."""
        result = await self.command("op.rooms.presence", {"room": room, "limit": limit}, again=True)
        return [Member.of(facts) for facts in result["clients"]]

    async def last_value(self, room: str, *, channel: str = "") -> Message | None:
        """The newest message that a room holds, or None.

        Raises Rejected (NOT_FOUND) if there is no such room.
        """
        async with aclosing(self.history(room, channel=channel, newest_first=True, page=1)) as newest:
            return await anext(newest, None)

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
        """The messages of a room with begin <= t < end, read page after page.

        Raises Rejected; see history.
        """
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
        recreate: bool = False,
        grace: float = 5.0,
    ) -> Group:
        """Work in a consumer group, which is created if it does not exist; see Group."""
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
            wait=min(wait, self._timeout / 2),  # an answer that comes too late leased its jobs for nothing
            recreate=recreate,
            grace=grace,
        )


__all__ = ["Client", "ConnectionRefused", "Signer", "Token", "is_final"]
