"""The calls of a client: messages, rooms, requests, questions, groups."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal, Protocol

from arqonbus.client.engine import Engine
from arqonbus.client.errors import ClientError, PublishFailed
from arqonbus.client.group import Group
from arqonbus.client.history import history
from arqonbus.client.message import Ack, Member, Message, Payload, command_envelope, message_envelope
from arqonbus.client.rpc import Handler, Service, request
from arqonbus.client.subscription import MAX_BYTES, MAX_MESSAGES, OnLost, Policy, Subscription
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.envelope import Envelope


class Signer(Protocol):
    """Puts a signature into a message; MessageSigner of protocol.signatures is one."""

    def sign(self, envelope: Envelope, tenant: str) -> None: ...


class Calls:
    """The calls of a program. `timeout`: seconds that each call may take, reconnects included."""

    def __init__(self, engine: Engine, timeout: float, signer: Signer | None) -> None:
        self._engine = engine
        self._timeout = timeout
        self._signer = signer

    @property
    def welcome(self) -> dict[str, Any]:
        """The welcome of the bus: its `client` id, `tenant`, `node`, `limits`, `capabilities` …

        >>> client.welcome["tenant"], client.welcome["capabilities"]["durability"]
        ('demo', 'hot')
        """
        return self._engine.welcome

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
        """Publish and wait for the ack. Repeated with the same id until the timeout; an id is stored once.

        Raises Rejected when the bus, or the client on its behalf, refuses the message; Disconnected when no
        ack came in time.

        >>> ack = await client.publish("orders", {"id": 1}, name="order.created")
        >>> ack.sequence, ack.durability, ack.duplicate
        (1, 'hot', False)
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
        return Ack.of(await self._engine.requests.ask(envelope, again=True), room)

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
        """Publish messages together, in one round trip where the limits allow it.

        Returns their acks in the same order. Order in the room is that of `payloads`, except for messages
        that the bus refused for a while and that were repeated. Raises PublishFailed, which holds the outcome
        of each, if any message was not acked.

        >>> [ack.sequence for ack in await client.publish_many("orders", [{"id": 2}, {"id": 3}])]
        [2, 3]
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
            for outcome in await self._engine.requests.ask_many(envelopes)
        ]
        acks = [result for result in results if isinstance(result, Ack)]
        if len(acks) < len(results):
            raise PublishFailed(results)
        return acks

    async def _sign(self, envelopes: Sequence[Envelope]) -> None:
        assert self._signer is not None
        await self._engine.connection.ready(asyncio.get_running_loop().time() + self._timeout)
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

        >>> (await client.send(client.welcome["client"], "hello")).durability
        'memory'
        """
        envelope = message_envelope(
            payload, recipient=recipient, name=name, content_type=content_type, headers=headers, cause=cause
        )
        return Ack.of(await self._engine.requests.ask(envelope, again=False), "")

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

        >>> async with await client.subscribe("news") as news:
        ...     ack = await client.publish("news", "hello")
        ...     print((await anext(news)).json())
        hello
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

    # -- requests and services

    async def request(
        self,
        room: str,
        payload: Payload,
        *,
        timeout: float | None = None,
        channel: str = "",
        name: str = "",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Ask the service of a room and wait `timeout` seconds for its answer (default: the client's).

        Raises DeadlineExceeded; RequestFailed when the service answered with an error; Rejected; and
        Disconnected when the connection was lost meanwhile, because the answer cannot arrive any more.

        >>> async def double(request):
        ...     return 2 * request.json()
        >>> async with await client.serve("double", double):
        ...     (await client.request("double", 21)).json()
        42
        """
        return await request(
            self._engine,
            room,
            payload,
            timeout=self._timeout if timeout is None else timeout,
            channel=channel,
            name=name,
            content_type=content_type,
            headers=headers,
        )

    async def serve(
        self, room: str, handler: Handler, *, group: str = "serve", concurrency: int = 8
    ) -> Service:
        """Answer the requests of a room with what `handler` returns, until the service is closed.

        Processes that serve with one `group` share the requests, if the bus has consumer groups. A handler
        may be run again for one request when a process dies. It raises RequestFailed to answer with an error;
        anything else that it raises goes to `on_error`, and the caller gets RequestFailed (INTERNAL_ERROR).

        >>> async def refuse(request):
        ...     raise RequestFailed("NO_STOCK", "sold out")
        >>> async with await client.serve("buy", refuse):
        ...     await client.request("buy", {"item": 1})
        Traceback (most recent call last):
        RequestFailed: sold out (NO_STOCK)
        """
        service = Service(self, self._engine, room, handler, group, concurrency)
        await service.started()
        return service

    # -- questions

    async def command(
        self, operation: str, arguments: Mapping[str, Any] | None = None, *, again: bool = False
    ) -> Any:
        """Run an operation and return its result. Raises Rejected, or Disconnected if no answer came.

        `again`: ask again after a lost connection or a busy bus, which may run the operation twice.

        >>> (await client.command("op.rooms.info", {"room": "orders"}))["last"]
        3
        """
        result = await self._result(operation, arguments or {}, again=again)
        return json.loads(result.payload) if result.payload else None

    async def _result(self, operation: str, arguments: Mapping[str, Any], *, again: bool) -> Envelope:
        return await self._engine.requests.ask(command_envelope(operation, arguments), again=again)

    async def presence(self, room: str, *, limit: int = 100) -> list[Member]:
        """The clients in a room on all nodes, at most `limit` (1-1000). Raises Rejected.

        >>> async with await client.subscribe("news"):
        ...     [member.subject for member in await client.presence("news")]
        ['alice']
        """
        result = await self.command("op.rooms.presence", {"room": room, "limit": limit}, again=True)
        return [Member.of(facts) for facts in result["clients"]]

    async def last_value(self, room: str, *, channel: str = "") -> Message | None:
        """The newest message that a room holds, or None.

        Raises Rejected (NOT_FOUND) for a room that is not there.

        >>> (await client.last_value("orders")).json()
        {'id': 3}
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
        """The messages of a room with begin <= t < end, read page after page. Raises Rejected; see history.

        >>> [message.json()["id"] async for message in client.history("orders")]
        [1, 2, 3]
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
        """Work in a consumer group, which is created if it does not exist; see Group.

        >>> async with client.group("orders", "billing", wait=0.1) as billing:
        ...     async with await anext(billing) as job:
        ...         job.message.json(), job.deliveries
        ({'id': 1}, 1)
        """
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


__all__ = ["Calls", "Signer"]
