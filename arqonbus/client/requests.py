"""Requests in flight: each has one answer, or an error that says why there is none.

One timer watches all of them: it probes the link when an answer is late, and ends what is past its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from arqonbus.client.backoff import Backoff
from arqonbus.client.connection import Connection
from arqonbus.client.errors import ClientError, Disconnected, Rejected
from arqonbus.client.link import Link
from arqonbus.client.message import error_of
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code

PATIENCE = 5.0  # seconds without an answer after which the link is probed
PATIENCE_SHARE = 1 / 3  # of the timeout, if that is shorter
BULK = 4096  # messages of one publish_many in flight

OnReply = Callable[[Envelope], None]


class _Waiter:
    """One request in flight."""

    __slots__ = ("deadline", "envelope", "future", "link", "on_reply", "probe_at")

    def __init__(
        self,
        envelope: Envelope,
        link: Link,
        future: asyncio.Future[Envelope],
        deadline: float,
        probe_at: float,
        on_reply: OnReply | None,
    ) -> None:
        self.envelope = envelope
        self.link = link
        self.future = future
        self.deadline = deadline
        self.probe_at = probe_at
        self.on_reply = on_reply


class Requests:
    """Sends requests and pairs them with their answers."""

    def __init__(self, connection: Connection, timeout: float) -> None:
        """`timeout`: seconds that each request may take, reconnects included."""
        self.timeout = timeout
        self._connection = connection
        self._patience = min(PATIENCE, timeout * PATIENCE_SHARE)
        self._waiting: dict[str, list[_Waiter]] = {}
        self._timer: asyncio.TimerHandle | None = None

    # -- asking

    async def ask(
        self,
        envelope: Envelope,
        *,
        again: bool,
        on_reply: OnReply | None = None,
        timeout: float | None = None,
    ) -> Envelope:
        """The successful reply. `again`: repeat the request after a lost connection or a busy bus.

        Raises Rejected, Disconnected when no answer came in time, NotConnected, or the client's end.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.timeout if timeout is None else timeout)
        backoff: Backoff | None = None
        while True:
            link = self._connection.link or await self._connection.ready(deadline)
            try:
                reply = await self.exchange(link, envelope, deadline, on_reply)
            except Disconnected:
                if not again or loop.time() >= deadline or self._connection.end is not None:
                    raise
                continue
            status = reply.status
            if status.code == "OK":
                return reply
            error = error_of(envelope, reply)
            backoff = backoff or Backoff()
            wait = backoff.next(error.retry_after_ms / 1000)
            if not (again and error.retry_after_ms) or loop.time() + wait >= deadline:
                raise Rejected(error)
            await asyncio.sleep(wait)

    async def ask_once(self, link: Link, envelope: Envelope, deadline: float) -> Envelope:
        """The successful reply on this link and no other. Raises Rejected or Disconnected."""
        reply = await self.exchange(link, envelope, deadline)
        if reply.status.code != Code.OK:
            raise Rejected(error_of(envelope, reply))
        return reply

    async def exchange(
        self, link: Link, envelope: Envelope, deadline: float, on_reply: OnReply | None = None
    ) -> Envelope:
        """The reply on this link, whatever it says.

        `on_reply` is called before anything behind it is read.
        """
        waiter = self._send(link, envelope, deadline, on_reply)
        try:
            return await waiter.future
        finally:
            if not waiter.future.done() or waiter.future.cancelled():
                self._forget(waiter)

    async def ask_many(self, envelopes: Sequence[Envelope]) -> list[Envelope | ClientError]:
        """The reply to each, in order, or why there is none.

        All travel together; each is repeated as in `ask`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        results: list[Envelope | ClientError | None] = [None] * len(envelopes)
        left = list(range(len(envelopes)))
        backoff = Backoff()
        while left:
            some, rest = left[:BULK], left[BULK:]
            try:
                link = await self._connection.ready(deadline)
            except ClientError as error:
                for index in left:
                    results[index] = error
                break
            wait = 0.0
            again: list[int] = []
            for index, outcome in zip(
                some, await self._exchange_many(link, [envelopes[i] for i in some], deadline), strict=True
            ):
                if (
                    isinstance(outcome, Disconnected)
                    and loop.time() < deadline
                    and self._connection.end is None
                ):
                    again.append(index)
                elif isinstance(outcome, Envelope) and outcome.status.code != "OK":
                    refusal = error_of(envelopes[index], outcome)
                    results[index] = Rejected(refusal)
                    if refusal.retry_after_ms and loop.time() + refusal.retry_after_ms / 1000 < deadline:
                        again.append(index)
                        wait = max(wait, refusal.retry_after_ms / 1000)
                else:
                    results[index] = outcome
            left = again + rest
            if wait:
                await asyncio.sleep(backoff.next(wait))
        return [result for result in results if result is not None]

    async def _exchange_many(
        self, link: Link, envelopes: Sequence[Envelope], deadline: float
    ) -> list[Envelope | ClientError]:
        waiters: list[_Waiter | ClientError] = []
        for envelope in envelopes:
            try:
                waiters.append(self._send(link, envelope, deadline, None))
            except ClientError as error:
                waiters.append(error)
        futures = [waiter.future for waiter in waiters if isinstance(waiter, _Waiter)]
        try:
            for future in futures:
                with contextlib.suppress(ClientError):
                    await future
        except asyncio.CancelledError:
            for waiter in waiters:
                if isinstance(waiter, _Waiter):
                    waiter.future.cancel()
                    self._forget(waiter)
            raise
        return [waiter if isinstance(waiter, ClientError) else _outcome(waiter.future) for waiter in waiters]

    # -- answers

    def _send(self, link: Link, envelope: Envelope, deadline: float, on_reply: OnReply | None) -> _Waiter:
        loop = asyncio.get_running_loop()
        link.send(envelope)
        probe_at = min(deadline, loop.time() + self._patience)
        waiter = _Waiter(envelope, link, loop.create_future(), deadline, probe_at, on_reply)
        others = self._waiting.get(envelope.id)
        if others is None:
            self._waiting[envelope.id] = [waiter]
        else:
            others.append(waiter)  # the same id twice: answered in the order of sending
        if self._timer is None or self._timer.when() > probe_at:
            self._watch(probe_at)
        return waiter

    def answered(self, link: Link, reply: Envelope) -> None:
        """Handle a reply. If its waiter is gone, `on_reply` still receives it."""
        waiters = self._waiting.get(reply.reply_to)
        if waiters is None:
            return
        waiter = waiters.pop(0)
        if not waiters:
            del self._waiting[reply.reply_to]
        if waiter.on_reply is not None:
            waiter.on_reply(reply)
        if not waiter.future.done():
            waiter.future.set_result(reply)

    def _forget(self, waiter: _Waiter) -> None:
        """Forget a waiter that gave up."""
        waiters = self._waiting.get(waiter.envelope.id, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[waiter.envelope.id]

    # -- ends

    def link_ended(self, link: Link, error: Disconnected, *, too_big: bool) -> None:
        """Nothing that was sent on the link is answered any more."""
        lost = [waiter for waiters in self._waiting.values() for waiter in waiters if waiter.link is link]
        largest = max(lost, key=lambda waiter: waiter.envelope.ByteSize(), default=None) if too_big else None
        for waiter in lost:
            self._forget(waiter)
            if waiter is largest:
                reason = "the bus closed the connection because of the size of what was sent"
                self._fail(waiter, Rejected(BusError(Code.TOO_LARGE, reason)))
            else:
                self._fail(waiter, Disconnected(str(error)))

    def ended(self, error: ClientError) -> None:
        """The client has ended."""
        waiting, self._waiting = self._waiting, {}
        for waiters in waiting.values():
            for waiter in waiters:
                self._fail(waiter, error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _fail(waiter: _Waiter, error: ClientError) -> None:
        if not waiter.future.done():
            waiter.future.set_exception(error)
            waiter.future.exception()  # mark it as retrieved

    # -- time

    def _watch(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        """Probe links that owe an answer; end what is past its deadline."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        due = float("inf")
        late: list[_Waiter] = []
        for waiters in self._waiting.values():
            for waiter in waiters:
                if waiter.deadline <= now:
                    late.append(waiter)
                    continue
                if waiter.probe_at <= now:
                    waiter.link.probe(self._patience)
                    waiter.probe_at = min(waiter.deadline, now + self._patience)
                due = min(due, waiter.probe_at)
        for waiter in late:
            waiter.link.probe(self._patience)
            self._forget(waiter)
            self._fail(waiter, Disconnected(f"no answer came within {self.timeout:g} s"))
        if self._waiting:
            self._watch(max(due, now + 0.01))


def _outcome(future: asyncio.Future[Envelope]) -> Envelope | ClientError:
    error = future.exception()
    if error is None:
        return future.result()
    assert isinstance(error, ClientError)
    return error


__all__ = ["OnReply", "Requests"]
