"""A link that reconnects whenever it breaks.

Tries its endpoints in turn with backoff and jitter. With a finder, it connects to the current primary, and
leaves a server that stops being the primary. A command is sent at most once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from arqonbus.storage.ports import StorageError
from arqonbus.storage.valkey.link import Access, Endpoint, LinkLost, OnPush, ReplyError, ValkeyLink

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0

logger = logging.getLogger(__name__)


class Line:
    """Reconnecting connection. `link`: the connection, or None; `reason`: why there is none."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        access: Access,
        *,
        prepare: Callable[[ValkeyLink], Awaitable[None]],
        on_up: Callable[[Line], None],
        on_down: Callable[[Line], None],
        on_push: OnPush | None = None,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.link: ValkeyLink | None = None
        self.reason = "no attempt was made yet"
        self._access = access
        self._prepare = prepare
        self._on_up = on_up
        self._on_down = on_down
        self._on_push = on_push
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        finder = self._access.finder
        return str(finder) if finder is not None else ", ".join(map(str, self.endpoints))

    def start(self) -> None:
        """Start connecting in the background."""
        if self._access.finder is not None:
            self._access.finder.add(self._on_primary)
        self._task = asyncio.create_task(self._run(), name=f"valkey line {self}")

    def usable(self) -> ValkeyLink:
        """The link. Raises StorageError, with a known outcome, while there is none."""
        if self.link is None:
            raise StorageError(f"Valkey at {self} cannot be reached: {self.reason}. Nothing was written.")
        return self.link

    async def up(self, timeout: float) -> ValkeyLink:
        """Wait up to `timeout` seconds for the link. Raises StorageError."""
        try:
            async with asyncio.timeout(timeout):
                while self.link is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.usable()

    async def close(self) -> None:
        """Close the link after its outstanding replies, and stop reconnecting."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._access.finder is not None:
            self._access.finder.remove(self._on_primary)
        link, self.link = self.link, None
        self.reason = "the log was closed"
        if link is not None:
            await link.close()
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        turn = 0
        while True:
            link = await self._try(self.endpoints[turn % len(self.endpoints)])
            turn += 1
            if link is None:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            turn -= 1
            self.link = link
            self._changed.set()
            self._on_up(self)
            lost = await asyncio.shield(link.lost)
            if self._task is None:
                return
            self.link = None
            self.reason = str(lost).rstrip(".")
            logger.warning("%s Reconnecting.", lost)
            self._on_down(self)

    async def _try(self, endpoint: Endpoint) -> ValkeyLink | None:
        link = None
        try:
            if self._access.finder is not None:
                endpoint = await self._access.finder.primary()
            link = await ValkeyLink.connect(endpoint, self._access, self._on_push)
            async with asyncio.timeout(self._access.connect_timeout):
                await self._prepare(link)
        except (OSError, TimeoutError, LinkLost, ReplyError, StorageError) as error:
            self.reason = str(error).rstrip(".") or f"no answer within {self._access.connect_timeout:g} s"
            logger.debug("Valkey at %s: %s", endpoint, self.reason)
            if link is not None:
                link.abort(self.reason)
            return None
        except asyncio.CancelledError:
            if link is not None:
                link.abort("the log was closed")
            raise
        return link

    def _on_primary(self, primary: Endpoint) -> None:
        if self.link is not None and self.link.endpoint != primary:
            self.link.abort(f"the primary is {primary} now")


__all__ = ["Line"]
