"""From NATS to the bus: one durable consumer per mapping, shared by all nodes, acked when the bus has acked.

A message that the bus refuses for good goes to the dead letters with the reason and does not block others;
one that it refuses for now is returned to NATS and delivered again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import NamedTuple

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import Error as JetStreamError

from arqonbus.bridge import messages
from arqonbus.bridge.ending import is_cancelled
from arqonbus.bridge.state import BridgeTotals
from arqonbus.bus.loopback import Loopback, LoopbackClosed
from arqonbus.config.bridge import Bridge, Mapping
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import EXPLANATIONS, BusError, Code

BATCH = 256
FETCH_SECONDS = 1.0  # that a request for messages stays at the server
ACK_WAIT = 20.0  # after which NATS delivers a message again
ANSWER_SECONDS = 15.0  # that the bus may take for a batch; less than ACK_WAIT
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
MAX_ACK_PENDING = 4096

logger = logging.getLogger(__name__)


class _Arrival(NamedTuple):
    message: Msg
    envelope: Envelope


class Inbound:
    """One mapping's way in. `join` gives a new connection to the bus for a tenant."""

    def __init__(
        self,
        jetstream: JetStreamContext,
        settings: Bridge,
        mapping: Mapping,
        join: Callable[[str], Loopback],
        state: BridgeTotals,
    ) -> None:
        self._jetstream = jetstream
        self._settings = settings
        self._mapping = mapping
        self._route = mapping.route
        self._tenants = frozenset(settings.tenants if self._route.tenant is None else [self._route.tenant])
        self._join = join
        self._joined: dict[str, Loopback] = {}
        self._state = state
        self.stopping = False

    async def run(self) -> None:
        """Bring messages in until `stopping`. Raises what nats raises when the server is gone."""
        consumer = await self._consumer()
        try:
            while not (self.stopping or is_cancelled()):
                try:
                    batch = await consumer.fetch(BATCH, timeout=FETCH_SECONDS)
                except TimeoutError:  # that of nats is one, and asyncio's comes through as well
                    continue
                pause = await self._take(batch)
                if pause:
                    await asyncio.sleep(pause)
        finally:
            for loopback in self._joined.values():
                loopback.end()

    async def _consumer(self) -> JetStreamContext.PullSubscription:
        return await self._jetstream.pull_subscribe(
            self._route.filter,
            durable=durable_name(self._settings.name, self._route.filter),
            stream=self._settings.stream,
            config=ConsumerConfig(
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT,
                deliver_policy=DeliverPolicy.ALL,
                max_ack_pending=MAX_ACK_PENDING,
            ),
        )

    async def _take(self, batch: Sequence[Msg]) -> float:
        """Settle each message of a batch; the seconds to wait before the next one."""
        by_tenant: dict[str, list[_Arrival]] = {}
        for message in batch:
            if (message.headers or {}).get(messages.ORIGIN) == self._settings.name:
                await message.ack()
                self._state.count("in", "own")
                continue
            try:
                tenant, envelope = self._read(message)
            except BusError as error:
                await self._refuse(message, error.code, error.message)
            else:
                by_tenant.setdefault(tenant, []).append(_Arrival(message, envelope))
        pauses = [await self._publish(tenant, arrivals) for tenant, arrivals in by_tenant.items()]
        return max(pauses, default=0.0)

    def _read(self, message: Msg) -> tuple[str, Envelope]:
        address = self._route.address(message.subject)
        if address is None:
            raise BusError(Code.VALIDATION_ERROR, "the subject stands for no room")
        if address.tenant not in self._tenants:
            raise BusError(
                Code.AUTHORIZATION_ERROR, "the subject is of a tenant that bridge.tenants does not name"
            )
        place = message.metadata
        time_us = round(place.timestamp.replace(tzinfo=place.timestamp.tzinfo or UTC).timestamp() * 1_000_000)
        return address.tenant, messages.to_envelope(
            address.room,
            message.headers or {},
            message.data,
            stream=place.stream,
            sequence=place.sequence.stream,
            time_us=time_us,
        )

    async def _publish(self, tenant: str, arrivals: Sequence[_Arrival]) -> float:
        pause = 0.0
        for together in _with_ids_apart(arrivals):
            try:
                answers = await self._on(tenant).publish([one.envelope for one in together], ANSWER_SECONDS)
            except (LoopbackClosed, TimeoutError):
                # Perhaps stored, perhaps not: it comes again under the same id.
                for arrival in together:
                    await self._give_back(arrival.message, Code.STORAGE_UNAVAILABLE, RETRY_SECONDS)
                pause = RETRY_SECONDS
                continue
            for arrival, answer in zip(together, answers, strict=True):
                pause = max(pause, await self._settle(arrival.message, answer))
        return pause

    def _on(self, tenant: str) -> Loopback:
        loopback = self._joined.get(tenant)
        if loopback is None or loopback.closed:
            loopback = self._joined[tenant] = self._join(tenant)
        return loopback

    async def _settle(self, message: Msg, answer: Envelope) -> float:
        code = Code(answer.status.code)
        if code is Code.OK:
            await message.ack()
            self._state.count("in", "OK")
        elif EXPLANATIONS[code].retry:
            hint = max(RETRY_SECONDS, answer.status.retry_after_ms / 1000)
            await self._give_back(message, code, hint)
            return min(hint, MAX_RETRY_SECONDS)
        else:
            await self._refuse(message, code, answer.status.message)
        return 0.0

    async def _give_back(self, message: Msg, code: Code, seconds: float) -> None:
        self._state.count("in", code)
        await message.nak(delay=min(seconds, MAX_RETRY_SECONDS))

    async def _refuse(self, message: Msg, code: Code, reason: str) -> None:
        """For good: to the dead letters, and only when it is there is it done with."""
        place = message.metadata
        headers = messages.to_dead_letter(
            message.headers or {},
            message.subject,
            code,
            reason,
            stream=place.stream,
            sequence=place.sequence.stream,
        )
        data = message.data
        if messages.size_of(headers, data) > self._state.max_payload:
            # It fitted without what we add: what is known about it stays, and says where the rest is.
            headers, data = headers | {messages.CUT: str(len(data))}, b""
            if messages.size_of(headers, data) > self._state.max_payload:
                keep = (messages.MESSAGE_ID, messages.SUBJECT, messages.CODE, messages.REASON, messages.CUT)
                headers = {key: headers[key] for key in keep}
        try:
            await self._jetstream.publish(self._settings.dead_letters, data, headers=headers)
        except JetStreamError as error:
            self._state.say(
                "dead letters",
                "a dead letter could not be stored in NATS; it is tried again",
                subject=self._settings.dead_letters,
                reason=str(error),
            )
            await self._give_back(message, Code.STORAGE_UNAVAILABLE, MAX_RETRY_SECONDS)
            return
        await message.term()
        self._state.count("in", code)
        self._state.say(
            f"in {code}",
            "a message of NATS was refused for good and is in the dead letters",
            code=code,
            subject=messages.one_line(message.subject),
            sequence=place.sequence.stream,
        )


def durable_name(name: str, subject: str) -> str:
    """The consumer of a mapping; the same on every node and after every start."""
    return f"{name}-{hashlib.sha256(subject.encode()).hexdigest()[:12]}"


def _with_ids_apart(arrivals: Sequence[_Arrival]) -> list[list[_Arrival]]:
    """Messages in order, in batches without a repeated id, because answers are matched by id."""
    runs: list[list[_Arrival]] = [[]]
    seen: set[str] = set()
    for arrival in arrivals:
        if arrival.envelope.id in seen:
            runs.append([])
            seen.clear()
        seen.add(arrival.envelope.id)
        runs[-1].append(arrival)
    return runs


__all__ = ["Inbound", "durable_name"]
