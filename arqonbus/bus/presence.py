"""Presence in rooms, on this node and on the others, with its signals.

Presence signals go only to members that asked for them when they joined, so that a large room costs
nothing for those who do not care. They are unsequenced: a list that is read is the truth, a signal is a
hint that it changed.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from arqonbus.bus.follow import unavailable
from arqonbus.bus.hub import Hub, Room
from arqonbus.bus.peer import Peer
from arqonbus.protocol import replies
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import EventLog, RoomKey, RoomMember, StorageError

logger = logging.getLogger(__name__)


class Presence:
    """Enters, lists and announces the members of rooms."""

    def __init__(self, event_log: EventLog, hub: Hub, node: str) -> None:
        self._event_log = event_log
        self._hub = hub
        self._node = node

    async def joined(self, room: Room, peer: Peer) -> None:
        """List the client and tell those who watch. Raises STORAGE_UNAVAILABLE."""
        facts = {
            "client": peer.client,
            "subject": peer.session.identity.subject,
            "node": self._node,
            "since": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        try:
            await self._event_log.enter(room.key, RoomMember(peer.client, msgspec.json.encode(facts)))
        except StorageError as failure:
            raise unavailable(failure) from failure
        await self._announce("presence.join", room.key, peer, facts)

    async def left(self, key: RoomKey, peer: Peer) -> None:
        """Take the client off the list and tell. An engine failure is logged: the entry expires by itself."""
        try:
            await self._event_log.leave(key, peer.client)
        except StorageError as failure:
            logger.warning("a client could not be taken off a presence list", extra={"reason": str(failure)})
        facts = {"client": peer.client, "subject": peer.session.identity.subject, "node": self._node}
        await self._announce("presence.leave", key, peer, facts)

    async def members(self, key: RoomKey, limit: int) -> list[dict[str, Any]]:
        """Facts of the clients in the room on all nodes, by client id."""
        try:
            present = await self._event_log.present(key, limit)
        except StorageError as failure:
            raise unavailable(failure) from failure
        return [msgspec.json.decode(member.info) for member in present]

    def heard(self, key: RoomKey, data: bytes) -> None:
        """A signal of another node."""
        room = self._hub.rooms.get(key)
        if room is not None:
            self._hub.broadcast(room.watchers(), Envelope.FromString(data))

    async def _announce(self, name: str, key: RoomKey, peer: Peer, facts: dict[str, Any]) -> None:
        envelope = replies.signal(name, facts, key.room)
        room = self._hub.rooms.get(key)
        if room is not None:
            self._hub.broadcast([other for other in room.watchers() if other is not peer], envelope)
        if self._event_log.shared:
            try:
                await self._event_log.signal(key, envelope.SerializeToString())
            except StorageError as failure:
                logger.warning("a presence signal did not reach other nodes", extra={"reason": str(failure)})


__all__ = ["Presence"]
