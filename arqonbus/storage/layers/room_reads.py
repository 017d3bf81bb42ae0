"""Reads of a log that consists of two logs, where each room is in one of them at a time."""

from __future__ import annotations

from abc import abstractmethod

from arqonbus.storage.ports import EventLog, Head, Page, RoomKey


class RoomReads:
    """The part of EventLog that reads one room, from the log that holds it."""

    @abstractmethod
    def _of(self, room: RoomKey) -> EventLog:
        """The log that the room is in."""

    async def head(self, room: RoomKey) -> Head:
        """See EventLog.head."""
        return await self._of(room).head(room)

    async def read(self, room: RoomKey, after: int, until: int, limit: int) -> Page:
        """See EventLog.read."""
        return await self._of(room).read(room, after, until, limit)

    async def read_back(self, room: RoomKey, before: int, limit: int) -> Page:
        """See EventLog.read_back."""
        return await self._of(room).read_back(room, before, limit)

    async def seek(self, room: RoomKey, time_us: int) -> int:
        """See EventLog.seek."""
        return await self._of(room).seek(room, time_us)


__all__ = ["RoomReads"]
