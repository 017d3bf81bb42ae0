"""Is the node fit to serve? Readiness writes to and reads from the real engine; it never guesses."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from arqonbus.bus.node import Node, NodeState
from arqonbus.storage.ports import StorageError

PROBE_TIMEOUT = 2.0
KEEP_SECONDS = 1.0  # a burst of questions costs one probe


@dataclass(frozen=True, slots=True)
class Readiness:
    """`reasons` says in sentences why not; empty when ready."""

    reasons: tuple[str, ...]
    probe_ms: float | None

    @property
    def ready(self) -> bool:
        return not self.reasons


class Health:
    """Answers the readiness question of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = asyncio.Lock()
        self._storage: Readiness | None = None
        self._asked_at = 0.0

    async def readiness(self) -> Readiness:
        state = self._node.state
        if state is NodeState.DRAINING:
            return Readiness(("the node is draining",), None)
        if state is not NodeState.READY:
            return Readiness((f"the node is {state.value}",), None)
        async with self._lock:
            if self._storage is None or time.monotonic() - self._asked_at > KEEP_SECONDS:
                self._storage = await self._probe()
                self._asked_at = time.monotonic()
            return self._storage

    async def _probe(self) -> Readiness:
        backend = self._node.event_log.name
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                seconds = await self._node.event_log.probe()
        except TimeoutError:
            return self._without(f"storage {backend} did not answer within {PROBE_TIMEOUT:g} s")
        except StorageError as failure:
            return self._without(f"storage {backend}: {failure}")
        return Readiness((), round(seconds * 1000, 3))

    def _without(self, reason: str) -> Readiness:
        """A node whose profile lets it go on in memory is ready, and says that it is degraded."""
        if self._node.settings.storage.mode == "degraded":
            return Readiness((), None)
        return Readiness((reason,), None)


__all__ = ["Health", "Readiness"]
