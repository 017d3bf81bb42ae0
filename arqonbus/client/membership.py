"""Rooms that the client is in: each is joined once for all its subscriptions, and left after the last.

Each room has one task that brings what the bus holds in line with what the subscriptions want, whatever
changed meanwhile. So no order of subscribing, cancelling, closing, pausing and reconnecting needs code of its
own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from arqonbus.client.backoff import Backoff
from arqonbus.client.callbacks import Callbacks
from arqonbus.client.catchup import catch_up
from arqonbus.client.connection import Connection
from arqonbus.client.errors import ClientError, Disconnected, MessagesLost, Rejected
from arqonbus.client.link import Link
from arqonbus.client.message import command_envelope, error_of
from arqonbus.client.requests import Requests
from arqonbus.client.subscription import OnLost, Subscription
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import Code

JOINS_AT_ONCE = 64
EVERY_CHANNEL = ""


class Membership:
    """One room: what its subscriptions want, and what the bus holds for it on the current link."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.subscriptions: list[Subscription] = []
        self.link: Link | None = None  # on which `channels` are joined
        self.channels: set[str] = set()
        self.watching = False  # presence signals were asked for
        self._joined_at: Position | None = None
        self._last: Envelope | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def position(self) -> Position | None:
        """Position of the membership on this link, where a subscription can attach."""
        last, joined = self._last, self._joined_at
        if last is None or (joined is not None and joined >= (last.epoch, last.sequence)):
            return joined  # what was missed before it is still on its way
        return Position(last.epoch, last.sequence)

    def joined(self, link: Link, channel: str, position: Position, *, watching: bool) -> None:
        """The bus has taken the client into a channel of the room, at this position."""
        self.link = link
        self.channels.add(channel)
        self.watching = self.watching or watching
        self._joined_at, self._last = position, None

    def wanted(self) -> set[str]:
        """The channels to be joined now; {""} for the whole room."""
        channels = {sub.channel for sub in self.subscriptions if sub.takes}
        return {EVERY_CHANNEL} if EVERY_CHANNEL in channels else channels

    def watched(self) -> bool:
        """True if a subscription wants presence signals."""
        return any(sub.presence for sub in self.subscriptions if sub.takes)

    def late(self) -> list[Subscription]:
        """Subscriptions that want messages and get none yet."""
        return [sub for sub in self.subscriptions if sub.takes and not sub.live]

    def settled(self, link: Link) -> bool:
        """True if nothing is left to do on this link."""
        wanted = self.wanted()
        if self.link is not link:
            return not wanted
        return wanted == self.channels and not self.late() and (self.watching or not self.watched())

    def deliver(self, envelope: Envelope, size: int) -> None:
        """A message of the room."""
        channel = envelope.channel
        for sub in self.subscriptions:
            if sub.live and (not sub.channel or sub.channel == channel):
                sub.deliver(envelope, size)
        self._last = envelope

    def forget_link(self) -> None:
        """The bus holds nothing for the room any more."""
        self.link = None
        self.channels = set()
        self.watching = False
        self._joined_at = self._last = None


class Memberships:
    """All rooms of a client. Also what subscriptions ask of it."""

    def __init__(self, connection: Connection, requests: Requests, callbacks: Callbacks) -> None:
        self._connection = connection
        self._requests = requests
        self._callbacks = callbacks
        self._rooms: dict[str, Membership] = {}
        self._slots = asyncio.Semaphore(JOINS_AT_ONCE)
        self._subscribing: dict[Subscription, asyncio.Future[None]] = {}
        self._catching_up: set[asyncio.Task[None]] = set()

    # -- for the client

    async def subscribe(self, subscription: Subscription, timeout: float) -> None:
        """Return when the subscription is live. Raises Rejected, or Disconnected after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await self._connection.ready(deadline)
        membership = self._rooms.setdefault(subscription.room, Membership(subscription.room))
        membership.subscriptions.append(subscription)
        live = self._subscribing[subscription] = loop.create_future()
        self._work(membership)
        try:
            async with asyncio.timeout_at(deadline):
                await live
        except TimeoutError:
            self._remove(subscription)
            raise Disconnected(
                f"room {subscription.room} could not be joined in time"
            ) from self._connection.state.error
        except BaseException:
            self._remove(subscription)
            raise
        finally:
            self._subscribing.pop(subscription, None)
            if not live.cancelled() and live.done():
                live.exception()

    def rejoin(self, link: Link) -> list[asyncio.Task[None]]:
        """Join every room on a new link; the tasks that do."""
        for membership in self._rooms.values():
            if membership.link is not link:
                membership.forget_link()
            self._work(membership)
        return [membership.task for membership in self._rooms.values() if membership.task is not None]

    def link_ended(self, link: Link) -> None:
        """Forget the state of this link."""
        for membership in self._rooms.values():
            if membership.link is link:
                membership.forget_link()

    def deliver(self, envelope: Envelope, size: int) -> None:
        """A message of a room came."""
        membership = self._rooms.get(envelope.room)
        if membership is not None:
            membership.deliver(envelope, size)

    def lost(self, room: str, reason: str) -> None:
        """Messages of a room are gone."""
        membership = self._rooms.get(room)
        for sub in list(membership.subscriptions) if membership else ():
            if sub.live:
                sub.lost(reason)

    def left(self, room: str) -> None:
        """The bus took the client out of a room."""
        membership = self._rooms.get(room)
        if membership is not None:
            membership.forget_link()
            for sub in membership.subscriptions:
                sub.live = False
            self._work(membership)

    def end(self, error: ClientError, *, failed: bool) -> None:
        """The client has ended; `failed`: subscriptions raise the error."""
        for membership in list(self._rooms.values()):
            for sub in list(membership.subscriptions):
                self._settle(sub, error)
                sub.finish(error if failed else None)
            if membership.task is not None:
                membership.task.cancel()
        for task in self._catching_up:
            task.cancel()
        self._rooms.clear()

    # -- for subscriptions

    def loss(self, callback: OnLost, loss: MessagesLost) -> None:
        self._callbacks.call("on_lost", callback, loss)

    def demand_changed(self, subscription: Subscription) -> None:
        membership = self._rooms.get(subscription.room)
        if membership is not None:
            self._work(membership)

    async def release(self, subscription: Subscription) -> None:
        membership = self._rooms.get(subscription.room)
        self._remove(subscription)
        if membership is not None and membership.task is not None and self._connection.link is not None:
            await asyncio.wait((membership.task,), timeout=self._requests.timeout)

    def _remove(self, subscription: Subscription) -> None:
        membership = self._rooms.get(subscription.room)
        subscription.finish(None)
        if membership is not None and subscription in membership.subscriptions:
            membership.subscriptions.remove(subscription)
            self._work(membership)

    def _settle(self, subscription: Subscription, error: ClientError | None = None) -> None:
        """Tell `subscribe` how it ended."""
        live = self._subscribing.get(subscription)
        if live is not None and not live.done():
            if error is None:
                live.set_result(None)
            else:
                live.set_exception(error)

    # -- the work

    def _work(self, membership: Membership) -> None:
        """Have what the bus holds brought in line."""
        if membership.task is None:
            membership.task = asyncio.get_running_loop().create_task(self._bring_in_line(membership))

    async def _bring_in_line(self, membership: Membership) -> None:
        backoff = Backoff()
        try:
            while True:
                membership.subscriptions = [sub for sub in membership.subscriptions if not sub.over]
                link = self._connection.link
                if link is None or membership.settled(link):
                    return
                try:
                    async with self._slots:
                        await self._step(membership, link)
                except Disconnected:
                    if self._connection.link is link:
                        await asyncio.sleep(backoff.next())
                except Rejected as refusal:
                    await self._on_refusal(membership, link, refusal, backoff)
        except Exception as error:  # noqa: BLE001
            self._callbacks.failed(error, f"room {membership.room}")
            self._refused(membership, Disconnected(f"room {membership.room} could not be joined: {error!r}"))
        finally:
            membership.task = None
            if not membership.subscriptions and self._rooms.get(membership.room) is membership:
                del self._rooms[membership.room]

    async def _on_refusal(
        self, membership: Membership, link: Link, refusal: Rejected, backoff: Backoff
    ) -> None:
        if refusal.error.retry_after_ms:
            await asyncio.sleep(backoff.next(refusal.error.retry_after_ms / 1000))
        elif refusal.code == Code.CONFLICT and not membership.channels:
            # The answer to an earlier join was not waited for: the bus has the client in the room already.
            await asyncio.sleep(backoff.next())
            with contextlib.suppress(Disconnected):
                await self._leave(membership, link, membership.wanted())
        else:
            self._refused(membership, refusal)

    async def _step(self, membership: Membership, link: Link) -> None:
        """One thing that brings the room nearer to what is wanted. Raises Rejected or Disconnected."""
        if membership.link is not link:
            membership.forget_link()
        wanted, late = membership.wanted(), membership.late()
        rewinding = any(sub.buffered is not None for sub in late)
        surplus = membership.channels - wanted
        if membership.channels and (rewinding or surplus):
            everything = rewinding or EVERY_CHANNEL in wanted
            await self._leave(membership, link, membership.channels if everything else surplus)
            return
        missing = wanted - membership.channels
        if not missing and membership.position is not None:
            for sub in late:
                sub.attach(membership.position)
                self._settle(sub)
        watch = membership.watched()
        for channel in missing or (wanted if watch and not membership.watching else ()):
            await self._join(membership, link, channel, watch=watch)

    async def _leave(self, membership: Membership, link: Link, channels: set[str]) -> None:
        for channel in list(channels):
            with contextlib.suppress(Rejected):  # not a member of it: that is what was wanted
                await self._command(link, "op.rooms.leave", {"room": membership.room, "channel": channel})
            membership.channels.discard(channel)
        if not membership.channels:
            membership.forget_link()

    async def _join(self, membership: Membership, link: Link, channel: str, *, watch: bool) -> None:
        """Join one channel, from the earliest position that a subscription needs.

        The reply takes effect at once.
        """
        arguments: dict[str, Any] = {"room": membership.room}
        if channel:
            arguments["channel"] = channel
        if watch:
            arguments["presence"] = True
        is_new = channel not in membership.channels
        since = _earliest(sub for sub in membership.subscriptions if sub.takes and _covers(channel, sub))
        if since is not None and is_new:
            arguments["since"] = {"epoch": since.epoch, "sequence": since.sequence}

        def on_reply(reply: Envelope) -> None:
            if reply.status.code == Code.OK and self._connection.link is link:
                result = json.loads(reply.payload)
                place = result["position"]
                position = Position(place["epoch"], int(place["sequence"]))
                if is_new:
                    membership.joined(link, channel, position, watching=watch)
                    self._joined(membership, channel, result, since)
                else:
                    membership.watching = watch

        await self._command(link, "op.rooms.join", arguments, on_reply)

    def _joined(
        self, membership: Membership, channel: str, result: dict[str, Any], since: Position | None
    ) -> None:
        """Make the subscriptions of a channel live, as far as what they missed is on its way."""
        position, recovered = membership.position, result.get("recovered", True)
        assert position is not None
        for sub in list(membership.subscriptions):
            if not sub.takes or not _covers(channel, sub):
                continue
            if sub.buffered is not None and (since is None or sub.buffered < since):
                sub.live = False  # it was resumed after this join was sent: its own position is tried next
            elif not recovered and sub.buffered not in (None, position, since):
                sub.live = False
            elif not recovered and _is_behind(sub.buffered, position):
                self._catch_up(sub)
            else:
                sub.joined(result)
                self._settle(sub)

    def _catch_up(self, sub: Subscription) -> None:
        """Read what it missed from the history of the room, as fast as it is read; then it joins again."""
        sub.live = False
        sub.catching_up = True
        self._settle(sub)  # it can be read from now on

        async def work() -> None:
            try:
                await catch_up(sub, self._requests)
            except ClientError as error:
                if isinstance(error, Rejected):
                    sub.start_over(f"what was published meanwhile cannot be read: {error}")
            finally:
                sub.catching_up = False
                self.demand_changed(sub)

        task = asyncio.get_running_loop().create_task(work())
        self._catching_up.add(task)
        task.add_done_callback(self._catching_up.discard)

    async def _command(
        self,
        link: Link,
        operation: str,
        arguments: dict[str, Any],
        on_reply: Callable[[Envelope], None] | None = None,
    ) -> None:
        envelope = command_envelope(operation, arguments)
        deadline = asyncio.get_running_loop().time() + self._requests.timeout
        reply = await self._requests.exchange(link, envelope, deadline, on_reply)
        if reply.status.code != Code.OK:
            raise Rejected(error_of(envelope, reply))

    def _refused(self, membership: Membership, error: ClientError) -> None:
        """Fail the subscriptions that wait for a room that the bus refused for good; keep the live ones."""
        late = membership.late() or list(membership.subscriptions)
        watchers = [sub for sub in late if sub.presence]
        for sub in watchers if watchers and len(watchers) < len(late) else late:
            self._settle(sub, error)
            sub.finish(error)


def _covers(channel: str, sub: Subscription) -> bool:
    return channel in (EVERY_CHANNEL, sub.channel)


def _earliest(subscriptions: Iterable[Subscription]) -> Position | None:
    """The earliest position that a subscription needs. Epochs are ULIDs, so an older one is earlier."""
    positions = [sub.buffered for sub in subscriptions if sub.buffered is not None]
    return min(positions, default=None)


def _is_behind(earlier: Position | None, later: Position) -> bool:
    """True if both are in one log and messages lie between them."""
    return earlier is not None and earlier.epoch == later.epoch and earlier.sequence < later.sequence


__all__ = ["Membership", "Memberships"]
