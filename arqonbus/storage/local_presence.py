"""Who is in which room, for the logs that one process has to itself. Plain memory, no I/O.

Nothing has to be renewed here: a process that dies takes its clients with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest

from arqonbus.storage.ports import RoomKey, RoomMember


class LocalPresence:
    """Members by room and client."""

    def __init__(self) -> None:
        self._rooms: dict[RoomKey, dict[str, bytes]] = {}

    def enter(self, room: RoomKey, member: RoomMember) -> None:
        """List the client, or replace what is said about it."""
        self._rooms.setdefault(room, {})[member.client] = member.info

    def leave(self, room: RoomKey, client: str) -> None:
        """Take the client off the list. Nothing happens if it is not on it."""
        members = self._rooms.get(room)
        if members is not None and members.pop(client, None) is not None and not members:
            del self._rooms[room]

    def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """At most `limit` members, by client id."""
        members = self._rooms.get(room, {})
        return [RoomMember(client, members[client]) for client in nsmallest(max(limit, 0), members)]


__all__ = ["LocalPresence"]
