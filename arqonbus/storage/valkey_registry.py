"""The tenants' lists of rooms, entered by this process when it first writes to a room.

The list lives in the tenant's slot, the log in the room's, so the two cannot change as one. The cache says
under which epoch a room was entered: another epoch means that the room was deleted in between.
"""

from __future__ import annotations

import asyncio
import logging

from arqonbus.storage.ports import RoomKey, RoomPage, StorageError
from arqonbus.storage.valkey_engine import Engine
from arqonbus.storage.valkey_keys import tenant_rooms

_MOST_CACHED = 100_000

_log = logging.getLogger(__name__)


class Registry:
    """Rooms by tenant, in ascending order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entered: dict[RoomKey, str] = {}
        self._owed: dict[RoomKey, str] = {}
        self._task: asyncio.Task[None] | None = None

    def announce(self, room: RoomKey) -> None:
        """An append to the room is about to be sent: enter it first, so that no acked room is unlisted.

        Best effort, because `on_stored` enters it again once its epoch is known, and tells of failures.
        """
        if room in self._entered or room in self._owed:
            return
        key, slot = tenant_rooms(room.tenant)
        if self._engine.is_up(slot):
            self._engine.link(slot).send([("ZADD", key, 0, room.room)], lambda _: None)

    def on_stored(self, room: RoomKey, epoch: str) -> None:
        """An append to the room succeeded: enter it, unless that was done under this epoch."""
        if self._entered.get(room) != epoch:
            self._owed[room] = epoch
            self._pay()

    def on_change(self) -> None:
        """The engine came back or changed: nothing is taken for granted, and debts are paid."""
        self._entered.clear()
        self._pay()

    async def settled(self) -> None:
        """Return when all that is owed was tried."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def create(self, room: RoomKey) -> bool:
        """Enter the room. False if it was there."""
        key, slot = tenant_rooms(room.tenant)
        return bool(await self._engine.call(slot, "ZADD", key, 0, room.room))

    async def delete(self, room: RoomKey) -> bool:
        """Take the room off the list. False if it was not there."""
        await self.settled()
        self._entered.pop(room, None)
        self._owed.pop(room, None)
        key, slot = tenant_rooms(room.tenant)
        return bool(await self._engine.call(slot, "ZREM", key, room.room))

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """A page of the tenant's rooms."""
        await self.settled()
        key, slot = tenant_rooms(tenant)
        low = f"({after}" if after else "-"
        limit = max(limit, 0)
        found = await self._engine.call(slot, "ZRANGE", key, low, "+", "BYLEX", "LIMIT", 0, limit + 1)
        names = [name.decode() for name in found]
        return RoomPage(names[:limit], len(names) > limit)

    def _pay(self) -> None:
        if self._owed and self._task is None:
            self._task = asyncio.create_task(self._enter_owed(), name="valkey room list")
            self._task.add_done_callback(self._on_paid)

    def _on_paid(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, StorageError):
                raise error
            _log.warning(
                "%d rooms are not listed yet; trying again with the next: %s", len(self._owed), error
            )

    async def _enter_owed(self) -> None:
        while self._owed:
            owed = dict(self._owed)
            by_tenant: dict[str, list[str]] = {}
            for room in owed:
                by_tenant.setdefault(room.tenant, []).append(room.room)
            for tenant, names in by_tenant.items():
                key, slot = tenant_rooms(tenant)
                for begin in range(0, len(names), 500):
                    pairs = [part for name in names[begin : begin + 500] for part in (0, name)]
                    await self._engine.call(slot, "ZADD", key, *pairs)
            if len(self._entered) > _MOST_CACHED:
                self._entered.clear()
            for room, epoch in owed.items():
                self._entered[room] = epoch
                if self._owed.get(room) == epoch:
                    del self._owed[room]


__all__ = ["Registry"]
