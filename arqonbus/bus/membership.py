"""Membership of clients in rooms: join, leave, and what a new identity does to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from arqonbus.bus.follow import Follower
from arqonbus.bus.frames import Close
from arqonbus.bus.hub import EVERY_CHANNEL, Hub, Room
from arqonbus.bus.peer import Peer
from arqonbus.bus.presence import Presence
from arqonbus.bus.quotas import Quotas
from arqonbus.bus.upkeep import Upkeep
from arqonbus.protocol import replies
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.errors import BusError, Code
from arqonbus.shield.tokens import Identity
from arqonbus.storage.ports import Entry, RoomKey


@dataclass(frozen=True, slots=True)
class Joined:
    """The room that was joined, and what came after the position given; None if that cannot be proven."""

    room: Room
    missed: Sequence[Entry] | None


class RoomMembership:
    """Which clients of this node are in which rooms."""

    def __init__(
        self,
        hub: Hub,
        follower: Follower,
        presence: Presence,
        upkeep: Upkeep,
        *,
        quotas: Callable[[], Quotas],
        most: Callable[[], int],
        ready: Callable[[Peer], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`most`: rooms that a connection can be in. `quotas` and `most` are functions: both reload."""
        self._hub = hub
        self._follower = follower
        self._presence = presence
        self._upkeep = upkeep
        self._quotas = quotas
        self._most = most
        self._ready = ready
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()

    async def join(
        self, peer: Peer, key: RoomKey, channel: str, *, since: Position | None = None, watch: bool = False
    ) -> Joined:
        """Make the client a member of a room or one of its channels. `watch`: it hears who comes and goes.

        The caller sends the missed entries before it awaits anything: live ones follow from here on. Raises
        BusError.
        """
        self._check(peer, key, channel, recovers=since is not None)
        if since is not None:
            await peer.room_for_recovery()
        reserved = self._reserve(peer, key)
        self._follower.pin(key)
        try:
            room = await self._follower.room(key)
            if key not in peer.rooms:
                await self._presence.joined(room, peer)
            try:
                missed = [] if since is None else (await self._follower.recover(room, since)).entries
                if peer.closing:
                    raise BusError(Code.CONFLICT, "the connection closed meanwhile")
            except BusError:
                if key not in peer.rooms:
                    await self._presence.left(key, peer)
                raise
            if missed and channel != EVERY_CHANNEL:
                missed = [entry for entry in missed if entry.channel == channel]
            room.add(peer, channel, watch=watch)
            peer.rooms.setdefault(key, set()).add(channel)
            return Joined(room, missed)
        finally:
            self._follower.unpin(key)
            if reserved and key not in peer.rooms:
                self._quotas().leave(peer.session.accounts, key)

    def leave(self, peer: Peer, key: RoomKey, channel: str) -> None:
        """Take the client out of a room's channel; tell others when it was the last one."""
        room = self._hub.rooms.get(key)
        channels = peer.rooms.get(key)
        if channels is not None:
            channels.discard(channel)
            if not channels:
                del peer.rooms[key]
                self._quotas().leave(peer.session.accounts, key)
        if room is None:
            return
        if room.remove(peer, channel):
            self._spawn(self._presence.left(key, peer))
        if room.is_empty():
            self._follower.emptied(key)

    def leave_all(self, peer: Peer) -> None:
        """Take the client out of every room."""
        for key in list(peer.rooms):
            self._leave_room(peer, key)

    def renew(self, peer: Peer, identity: Identity) -> None:
        """Replace the identity of a connection; rooms that it no longer grants are left, with a signal."""
        peer.session.become(identity)
        peer.warned_of_expiry = False
        self._upkeep.watch(peer, self._loop.time(), time.time())
        for key in list(peer.rooms):
            if not peer.session.may("subscribe", key.room):
                self._leave_room(peer, key)
                peer.answer(
                    replies.signal("left", {"reason": "the renewed token does not grant it"}, key.room)
                )
        self._ready(peer)

    def recheck(self, peers: Collection[Peer], judge: Callable[[Identity], Identity | None]) -> None:
        """Judge the identities of connections again. `judge`: the current identity, None if it is refused."""
        for peer in list(peers):
            identity = peer.session.identity
            current = judge(identity)
            if current is None:
                peer.close(Close.TOKEN_REVOKED, "the token is no longer accepted")
            elif current != identity:
                self.renew(peer, current)

    def _leave_room(self, peer: Peer, key: RoomKey) -> None:
        for channel in list(peer.rooms[key]):
            self.leave(peer, key, channel)

    def _check(self, peer: Peer, key: RoomKey, channel: str, *, recovers: bool) -> None:
        joined = peer.rooms.get(key)
        if joined is None:
            most = self._most()
            if len(peer.rooms) >= most:
                raise BusError(Code.RATE_LIMITED, f"a connection can be in {most} rooms at most")
            return
        if channel in joined:
            if recovers:
                raise BusError(Code.CONFLICT, "already joined; leave first to recover from a position")
        elif EVERY_CHANNEL in joined or channel == EVERY_CHANNEL:
            raise BusError(
                Code.CONFLICT, "a client is in a room as a whole or in channels of it; leave the other first"
            )

    def _reserve(self, peer: Peer, key: RoomKey) -> bool:
        """Count a join, and whether it makes the client a member. Raises RATE_LIMITED for one too many."""
        self._quotas().demand_join(peer.session.accounts, key, self._loop.time())
        if key in peer.rooms:
            return False
        self._quotas().enter(peer.session.accounts, key)
        return True


__all__ = ["Joined", "RoomMembership"]
