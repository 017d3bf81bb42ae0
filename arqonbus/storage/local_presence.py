"""Presence for engines that belong to one process. Plain memory, no I/O.

Entries need no renewal: if the process dies, its clients are gone too.
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
        """List the client, or replace its info."""
        self._rooms.setdefault(room, {})[member.client] = member.info

    def leave(self, room: RoomKey, client: str) -> None:
        """Remove the client, if it is listed."""
        members = self._rooms.get(room)
        if members is not None and members.pop(client, None) is not None and not members:
            del self._rooms[room]

    def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """At most `limit` members, by client id."""
        members = self._rooms.get(room, {})
        return [RoomMember(client, members[client]) for client in nsmallest(max(limit, 0), members)]


__all__ = ["LocalPresence"]
