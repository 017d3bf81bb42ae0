"""Separate connections for durable appends, if hot ones exist too.

WAITAOF blocks its connection. If some rooms are durable and others hot, the durable ones use these
connections, so that a slow flush does not delay hot appends.
"""

from __future__ import annotations

import asyncio

from arqonbus.storage.ports import StorageError
from arqonbus.storage.valkey.engine import ValkeyEngine
from arqonbus.storage.valkey.line import Line
from arqonbus.storage.valkey.link import Endpoint, ValkeyLink


class FlushLines:
    """An additional line to each server that the engine writes to."""

    def __init__(self, engine: ValkeyEngine) -> None:
        self._engine = engine
        self._lines: dict[Endpoint, Line] = {}

    async def open(self) -> None:
        """Connect. Raises StorageError for an unreachable server, or one that cannot guarantee durability."""
        self.recheck()
        patience = self._engine.access.connect_timeout
        await asyncio.gather(*(line.up(patience) for line in self._lines.values()))

    async def close(self) -> None:
        """Close the connections after their outstanding replies."""
        lines, self._lines = self._lines, {}
        await asyncio.gather(*(line.close() for line in lines.values()))

    def link(self, slot: int) -> ValkeyLink:
        """The connection for the slot. Raises StorageError (outcome known) while there is none."""
        line = self._lines.get(self._engine.endpoint(slot))
        if line is None:
            raise StorageError("Valkey's servers changed, and one is not connected yet. Nothing was written.")
        return line.usable()

    def recheck(self) -> None:
        """Connect to servers that are new in the engine.

        Lines of removed servers stay until the log is closed, because a server may come back.
        """
        for endpoint in self._wanted():
            if endpoint not in self._lines:
                line = self._lines[endpoint] = Line(
                    (endpoint,) if self._engine.cluster else self._engine.seeds,
                    self._engine.access,
                    prepare=self._engine.prepare,
                    on_up=lambda _: None,
                    on_down=lambda _: self._engine.suspect(),
                )
                line.start()

    def _wanted(self) -> tuple[Endpoint, ...]:
        return tuple(self._engine.endpoints()) if self._engine.cluster else (self._engine.endpoint(0),)


__all__ = ["FlushLines"]
