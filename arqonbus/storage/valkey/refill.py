"""Puts back into Valkey what it lost of the rooms that have a durable history.

A room is filled while it is unchecked, which is as long as nobody else can append to it or read from it.
"""

from __future__ import annotations

import logging

from arqonbus.protocol.ids import ulid_after
from arqonbus.storage.layers.durable_history import DurableHistory
from arqonbus.storage.ports import RoomKey
from arqonbus.storage.valkey.engine import ValkeyEngine
from arqonbus.storage.valkey.keys import room_keys
from arqonbus.storage.witness import Standing

logger = logging.getLogger(__name__)


class Refill:
    """Fills rooms of one engine."""

    def __init__(self, engine: ValkeyEngine, history: DurableHistory, dedup_seconds: float) -> None:
        self._engine = engine
        self._history = history
        self._window_us = int(dedup_seconds * 1_000_000)

    def keeps(self, room: RoomKey) -> bool:
        """Whether the room has a durable history."""
        return self._history.keeps(room)

    async def is_known(self, room: RoomKey) -> bool:
        """Whether the history has the room. Raises StorageError."""
        return await self._history.top(room) is not None

    async def fill(self, room: RoomKey, held: Standing, *, whole: bool) -> tuple[Standing, str] | None:
        """What the room is then, and the epoch to go on in: empty for its own. None if somebody was faster.

        From the moment that the history has the new epoch, no append of before gets into it, so that what it
        is read to have is all that was ever acknowledged.
        """
        top = await self._history.top(room)
        if held.epoch and (top is None or (whole and top.last <= held.last)):
            return held, "" if whole else ulid_after(held.epoch)
        known = top.epoch if top else ""
        epoch = ulid_after(max(held.epoch, known))
        await self._history.raise_epoch(room, epoch)
        before, standing = held.last, held
        while (entries := await self._history.after(room, standing.last)) or not standing.epoch:
            keys, began = room_keys(room), standing.epoch or known or epoch
            seen = (standing.epoch, standing.last, standing.run)
            values = [part for entry in entries for part in entry]
            done = await self._engine.call(
                keys.slot, "FCALL", "arqonbus_refill", 3, keys.log, keys.meta, keys.ids,
                *seen, began, self._window_us, *values,
            )  # fmt: skip
            if not done:
                return None
            standing = Standing(began, entries[-1].sequence if entries else 0, standing.run)
        if standing.last > before:
            logger.warning(
                "a room has back what its engine lost",
                extra={"room": room.room, "tenant": room.tenant, "after": before, "until": standing.last},
            )
        return standing, epoch


__all__ = ["Refill"]
