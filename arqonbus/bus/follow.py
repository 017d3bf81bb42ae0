"""Keeps the rooms that have members here in step with the log: follow, repair, recover, unfollow.

The only place on a node that reads the log for delivery. A room is followed before its first member is
served, and let go some time after its last one left, so that a client that reconnects finds it warm.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from arqonbus.bus.background import Background
from arqonbus.bus.counters import Counters
from arqonbus.bus.hub import Hub, Room
from arqonbus.config.rooms import RoomSettings
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.errors import BusError, Code
from arqonbus.storage.ports import Entry, EventLog, NotCapableError, RoomKey, StorageError

REPAIR_DELAY = 0.01  # seconds; entries of two connections often swap, and then nothing is missing
REPAIR_RETRY = 0.5
PAGE = 1000
MAX_PAGES = 1000  # reads in one recovery
MAX_RECOVERY_BYTES = 8 * 2**20  # of messages that one client missed
AT_ONCE = 16  # recoveries that hold their messages in memory at one time
LINGER = 30.0  # seconds that an empty room is still followed

logger = logging.getLogger(__name__)


class Recovery(NamedTuple):
    """The messages that a client missed, or None if it cannot be proven which they are."""

    entries: Sequence[Entry] | None


class Follower:
    """Follows, repairs and recovers rooms of one hub."""

    def __init__(
        self, event_log: EventLog, hub: Hub, room_settings: Callable[[str], RoomSettings], counters: Counters
    ) -> None:
        self._event_log = event_log
        self._hub = hub
        self._room_settings = room_settings
        self._counters = counters
        self._locks: weakref.WeakValueDictionary[RoomKey, asyncio.Lock] = weakref.WeakValueDictionary()
        self._background = Background()
        self._empty_since: dict[RoomKey, float] = {}
        self._pins: dict[RoomKey, int] = {}
        self._recoveries = asyncio.Semaphore(AT_ONCE)

    def pin(self, key: RoomKey) -> None:
        """Keep the room followed while a join is under way."""
        self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, key: RoomKey) -> None:
        left = self._pins[key] - 1
        if left:
            self._pins[key] = left
        else:
            del self._pins[key]
            room = self._hub.rooms.get(key)
            if room is not None and room.is_empty():
                self.emptied(key)

    async def watch(self, key: RoomKey, call: Callable[[], None]) -> None:
        """Call back for new entries of a room from now on, whether or not it has members."""
        self.pin(key)
        (await self.room(key)).on_entries(call)

    async def room(self, key: RoomKey) -> Room:
        """The room, followed and started. Raises STORAGE_UNAVAILABLE when the log cannot tell where it is."""
        room = self._hub.rooms.get(key)
        if room is not None and room.order.started:
            return room
        async with self._lock(key):
            room = self._hub.rooms.get(key)
            if room is not None and room.order.started:
                return room
            room = self._hub.rooms[key] = Room(key, self._room_settings(key.room))
            try:
                await self._event_log.create_room(key)
                head = await self._event_log.follow(key)
            except StorageError as failure:
                self._hub.rooms.pop(key, None)
                raise unavailable(failure) from failure
            self._hub.start(room, head)
            return room

    def emptied(self, key: RoomKey) -> None:
        """The last member left: let the room go after a while."""
        self._empty_since[key] = time.monotonic()

    async def sweep(self) -> None:
        """Unfollow rooms that have been empty for long enough."""
        now = time.monotonic()
        for key, since in list(self._empty_since.items()):
            if now - since < LINGER:
                continue
            async with self._lock(key):
                room = self._hub.rooms.get(key)
                del self._empty_since[key]
                if room is None or not room.is_empty() or key in self._pins:
                    continue
                del self._hub.rooms[key]
                try:
                    await self._event_log.unfollow(key)
                except StorageError as failure:
                    logger.warning("a room could not be unfollowed", extra={"reason": str(failure)})

    def repair(self, room: Room) -> None:
        """Read what the room misses, soon. Called by the hub."""
        if not room.repairing:
            room.repairing = True
            self._background.run(self._repair(room))

    def resync(self, keys: Sequence[RoomKey]) -> None:
        """The live subscription was interrupted: compare each room with the log."""
        for key in keys:
            room = self._hub.rooms.get(key)
            if room is not None and room.order.started:
                room.order.suspect()
                self.repair(room)

    async def _repair(self, room: Room) -> None:
        try:
            await asyncio.sleep(REPAIR_DELAY)
            while room.order.missing() and self._hub.rooms.get(room.key) is room:
                self._counters.repairs += 1
                try:
                    page = await self._event_log.read(room.key, room.order.position, 0, PAGE)
                except StorageError as failure:
                    logger.warning("a gap could not be read yet", extra={"reason": str(failure)})
                    await asyncio.sleep(REPAIR_RETRY)
                else:
                    self._hub.repaired(room, page)
        finally:
            room.repairing = False

    async def recover(self, room: Room, since: Position) -> Recovery:
        """Everything after `since` up to the room's position at return, if that is provable.

        It is not when the epoch is another one, when the log no longer holds the whole range, when the
        position is ahead of the log, or when the range is larger than MAX_RECOVERY_BYTES.
        """
        try:
            async with self._recoveries:
                return await self._recover(room, since)
        except StorageError as failure:
            raise unavailable(failure) from failure

    async def _recover(self, room: Room, since: Position) -> Recovery:
        lost = Recovery(None)
        entries: list[Entry] = []
        size = 0
        cursor = since.sequence
        head = await self._event_log.head(room.key)
        if head.epoch != since.epoch or cursor > head.last or head.first > cursor + 1:
            return lost
        for _ in range(MAX_PAGES):
            position = room.order.position
            if room.order.epoch != since.epoch:
                return lost
            if cursor == position:  # nothing was awaited since: what follows is delivered live
                return Recovery(entries)
            page = await self._event_log.read(room.key, min(cursor, position), max(cursor, position), PAGE)
            if page.head.epoch != since.epoch or not page.entries:
                return lost
            if cursor > position:  # this node has yet to hear of what the client knows
                self._hub.deliver(room.key, since.epoch, page.entries)
                continue
            for entry in page.entries:
                if entry.sequence != cursor + 1:
                    return lost
                cursor = entry.sequence
                size += len(entry.data)
            if size > MAX_RECOVERY_BYTES:
                return lost
            entries.extend(page.entries)
        return lost

    async def close(self) -> None:
        """Stop all repairs."""
        await self._background.end()

    def _lock(self, key: RoomKey) -> asyncio.Lock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock


def unavailable(failure: StorageError) -> BusError:
    """The refusal for an engine failure while reading."""
    if isinstance(failure, NotCapableError):
        return BusError(Code.CAPABILITY_UNAVAILABLE, str(failure))
    logger.warning("the storage engine failed a read", extra={"reason": str(failure)})
    return BusError(
        Code.STORAGE_UNAVAILABLE, "the storage engine does not answer; try again", retry_after_ms=500
    )


__all__ = ["Follower", "Recovery", "unavailable"]
