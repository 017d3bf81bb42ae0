"""Refill of rooms in Valkey from their durable history.

A room is refilled while it is unchecked, so that no other append or read can happen meanwhile.
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
    """Refills rooms of one engine."""

    def __init__(self, engine: ValkeyEngine, history: DurableHistory, dedup_seconds: float) -> None:
        self._engine = engine
        self._history = history
        self._window_us = int(dedup_seconds * 1_000_000)

    def keeps(self, room: RoomKey) -> bool:
        """True if the room has a durable history."""
        return self._history.keeps(room)

    async def is_known(self, room: RoomKey) -> bool:
        """True if the history has the room. Raises StorageError."""
        return await self._history.top(room) is not None

    async def fill(self, room: RoomKey, held: Standing, *, whole: bool) -> tuple[Standing, str] | None:
        """Refill the room. Returns its new state and the epoch to continue in (empty: unchanged); None if
        another node was faster.

        Once the history has the new epoch, it refuses appends of older ones, so that what is read from it
        then is all that was ever acknowledged.
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
                "a room was refilled with messages that its engine had lost",
                extra={"room": room.room, "tenant": room.tenant, "after": before, "until": standing.last},
            )
        return standing, epoch


__all__ = ["Refill"]
