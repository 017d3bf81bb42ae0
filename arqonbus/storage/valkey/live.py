"""The live subscription to sharded channels, restored after every interruption.

Its connections carry only subscriptions and heartbeats, so any error reply on them is about a subscription.
It passes on (channel, bytes) unread, and reports the channels that may have missed messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from arqonbus.storage.ports import StorageError
from arqonbus.storage.valkey.engine import ValkeyEngine
from arqonbus.storage.valkey.keys import Slotted
from arqonbus.storage.valkey.line import Line
from arqonbus.storage.valkey.link import Endpoint, ReplyError, ValkeyLink

_RETRY_SECONDS = 0.2
_CONFIRM_SECONDS = 5.0

logger = logging.getLogger(__name__)


class _Channel:
    """A subscription.

    `link`: where it is confirmed; `heard`: it was confirmed before, so a gap is possible.
    """

    __slots__ = ("asked", "confirmed", "heard", "link", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.link: ValkeyLink | None = None
        self.asked: ValkeyLink | None = None
        self.heard = False
        self.confirmed = asyncio.Event()


class Live:
    """Subscriptions to channels. Callbacks run on the event loop."""

    def __init__(
        self,
        engine: ValkeyEngine,
        on_message: Callable[[str, bytes], None],
        on_gap: Callable[[Sequence[str]], None],
    ) -> None:
        self._engine = engine
        self._on_message = on_message
        self._on_gap = on_gap
        self._channels: dict[str, _Channel] = {}
        self._lines: dict[Endpoint, Line] = {}
        self._missing: dict[str, _Channel] = {}
        self._gaps: list[str] = []
        self._recheck = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start subscribing in the background."""
        self._task = asyncio.create_task(self._run(), name="valkey live subscription")

    async def close(self) -> None:
        """Close the subscription connections."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        lines, self._lines = self._lines, {}
        await asyncio.gather(*(line.close() for line in lines.values()))

    async def subscribe(self, channel: Slotted) -> None:
        """Subscribe to the channel.

        Returns after the server's confirmation. Raises StorageError on timeout.
        """
        held = self._channels.get(channel.key)
        if held is None:
            held = self._channels[channel.key] = _Channel(channel.slot)
            self._miss(channel.key, held)
        try:
            async with asyncio.timeout(_CONFIRM_SECONDS):
                await held.confirmed.wait()
        except TimeoutError:
            if not held.heard:
                await self.unsubscribe(channel)
            raise StorageError(
                f"Valkey did not confirm the subscription to {channel.key} within {_CONFIRM_SECONDS:g} s."
            ) from None

    async def unsubscribe(self, channel: Slotted) -> None:
        """Unsubscribe from the channel."""
        held = self._channels.pop(channel.key, None)
        self._missing.pop(channel.key, None)
        if held is not None and held.asked is not None:
            held.asked.push("SUNSUBSCRIBE", channel.key)

    def recheck(self) -> None:
        """Compare every subscription with the owners of the slots soon, because they may have changed."""
        self._recheck = True
        self._wake.set()

    def _miss(self, name: str, held: _Channel) -> None:
        held.link = held.asked = None
        held.confirmed.clear()
        self._missing[name] = held
        self._wake.set()

    async def _run(self) -> None:
        while True:
            waited = False
            try:
                async with asyncio.timeout(_RETRY_SECONDS if self._missing or self._gaps else None):
                    await self._wake.wait()
            except TimeoutError:
                waited = True
            self._wake.clear()
            if self._recheck:
                self._recheck = False
                self._find_moved()
                await self._drop_idle_lines()
            self._subscribe_missing(again=waited)
            if self._gaps and (waited or not self._missing):
                self._report_gaps()

    def _find_moved(self) -> None:
        for name, held in self._channels.items():
            if held.link is None:
                continue
            try:
                line = self._line(held.slot)
            except StorageError as error:
                logger.debug("The owner of %s is unknown now: %s", name, error)
                continue
            if line.link is not held.link:
                held.link.push("SUNSUBSCRIBE", name)
                self._miss(name, held)

    def _subscribe_missing(self, *, again: bool) -> None:
        """Request missing subscriptions.

        `again`: repeat pending requests, because a refusal names no channel.
        """
        for name, held in self._missing.items():
            try:
                link = self._line(held.slot).link
            except StorageError as error:
                logger.debug("The live subscription to %s waits: %s", name, error)
                continue
            if link is not None and (again or held.asked is not link):
                held.asked = link
                link.push("SSUBSCRIBE", name)

    def _line(self, slot: int) -> Line:
        endpoint = self._engine.endpoint(slot)
        line = self._lines.get(endpoint)
        if line is None:
            line = self._lines[endpoint] = Line(
                (endpoint,) if self._engine.cluster else self._engine.seeds,
                self._engine.access,
                prepare=self._prepare,
                on_up=lambda _: self._wake.set(),
                on_down=self._on_down,
                on_push=self._on_push,
            )
            line.start()
        return line

    async def _prepare(self, link: ValkeyLink) -> None:
        if not self._engine.cluster:
            role = (await link.call("ROLE"))[0]
            if role != b"master":
                raise StorageError(f"Valkey at {link.endpoint} is a {role.decode()}, not the primary")
        link.on_stray_error = self._on_error

    async def _drop_idle_lines(self) -> None:
        if not self._engine.cluster or not self._channels:
            return
        owners = set(self._engine.endpoints())
        for endpoint in set(self._lines) - owners:
            await self._lines.pop(endpoint).close()

    def _on_down(self, line: Line) -> None:
        for name, held in self._channels.items():
            if held.link is not None and held.link.lost.done():
                self._miss(name, held)
        self._engine.suspect()

    def _on_error(self, error: ReplyError) -> None:
        logger.info("A live subscription was refused: %s", error)
        self._engine.suspect()

    def _on_push(self, link: ValkeyLink, push: list[Any]) -> None:
        kind, name = push[0], push[1].decode()
        held = self._channels.get(name)
        if held is None:
            return
        if kind == b"smessage":
            self._on_message(name, push[2])
        elif kind == b"ssubscribe" and link is held.asked:
            held.link = link
            held.confirmed.set()
            self._missing.pop(name, None)
            if held.heard:
                self._gaps.append(name)
                self._wake.set()
            held.heard = True
        elif kind == b"sunsubscribe" and link is held.link:  # not requested: the slot moved to another server
            self._engine.suspect()
            self._miss(name, held)

    def _report_gaps(self) -> None:
        names = list(dict.fromkeys(name for name in self._gaps if name in self._channels))
        self._gaps.clear()
        self._on_gap(names)


__all__ = ["Live"]
