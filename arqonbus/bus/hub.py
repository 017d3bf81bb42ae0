"""Rooms and fan-out on one node: who is where, and what reaches them in which order. No I/O.

The hub hands each room's next entries to its members' send queues, once framed for all. What it cannot do
by itself (read a gap from the log, write to sockets) it asks for through the two calls it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from arqonbus.bus.fanout import Fanout
from arqonbus.bus.order import Ready, RoomOrder
from arqonbus.bus.peer import Peer
from arqonbus.config.rooms import RoomSettings
from arqonbus.protocol import replies
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import Entry, Head, Page, RoomKey

EVERY_CHANNEL = ""


class Room:
    """One room with members on this node. Members are by channel; the empty channel means all of them."""

    __slots__ = ("_waiting", "_watchers", "channels", "key", "known", "order", "repairing", "settings")

    def __init__(self, key: RoomKey, settings: RoomSettings) -> None:
        self.key = key
        self.settings = settings
        self.order = RoomOrder()
        self.repairing = False
        self.known: set[str] = set()  # ids that the log will show and the members have had
        self.channels: dict[str, dict[Peer, None]] = {}
        self._watchers: dict[Peer, None] = {}
        self._waiting: set[Callable[[], None]] | None = None  # who wants to know that something came

    def on_entries(self, call: Callable[[], None]) -> None:
        """Call this whenever entries come, until `off_entries`."""
        self._waiting = {*(self._waiting or ()), call}

    def off_entries(self, call: Callable[[], None]) -> None:
        self._waiting = {other for other in self._waiting or () if other != call} or None

    def tell(self) -> None:
        """Entries came."""
        if self._waiting is not None:
            for call in self._waiting:
                call()

    @property
    def members(self) -> set[Peer]:
        """Everybody in the room, once."""
        return {peer for peers in self.channels.values() for peer in peers}

    def is_empty(self) -> bool:
        return not self.channels

    def add(self, peer: Peer, channel: str, *, watch: bool) -> None:
        self.channels.setdefault(channel, {})[peer] = None
        if watch:
            self._watchers[peer] = None

    def remove(self, peer: Peer, channel: str) -> bool:
        """Take the peer out of one channel. True if it is in no channel of the room any more."""
        peers = self.channels.get(channel)
        if peers is not None:
            peers.pop(peer, None)
            if not peers:
                del self.channels[channel]
        gone = all(peer not in others for others in self.channels.values())
        if gone:
            self._watchers.pop(peer, None)
        return gone

    def watchers(self) -> Iterable[Peer]:
        """Those who asked for presence signals."""
        return tuple(self._watchers)


class Hub:
    """All rooms of this node."""

    def __init__(self, *, ready: Callable[[Peer], None], repair: Callable[[Room], None]) -> None:
        """`ready`: a peer's queue was given something. `repair`: a room misses entries; read the log."""
        self._ready = ready
        self._repair = repair
        self.rooms: dict[RoomKey, Room] = {}
        self.delivered = 0  # messages times receivers

    def deliver(self, key: RoomKey, epoch: str, entries: Sequence[Entry]) -> None:
        """Entries came, from wherever: pass on what is next."""
        room = self.rooms.get(key)
        if room is not None and entries:
            self._pass_on(room, room.order.accept(epoch, entries))

    def start(self, room: Room, head: Head) -> None:
        """The room's position is known: begin to deliver after it."""
        for ready in room.order.start(head):
            self._pass_on(room, ready)

    def move(self, key: RoomKey, epoch: str, position: int, known: Collection[str]) -> None:
        """The room goes on elsewhere in the log; messages with known ids were delivered before."""
        room = self.rooms.get(key)
        if room is not None:
            room.known = set(known)
            self._pass_on(room, room.order.move(epoch, position))

    def repaired(self, room: Room, page: Page) -> None:
        """A page of the log that was asked for."""
        self._pass_on(room, room.order.repair(page))

    def broadcast(self, peers: Iterable[Peer], envelope: Envelope) -> None:
        """Send one unsequenced envelope to many, encoded once per wire."""
        encoded: dict[bool, bytes] = {}
        for peer in peers:
            wire = peer.queue.wire
            if wire.json not in encoded:
                encoded[wire.json] = wire.encode(envelope)
            peer.queue.answer(encoded[wire.json])
            self._ready(peer)

    def _pass_on(self, room: Room, ready: Ready) -> None:
        if ready.new_epoch:
            facts = {"epoch": room.order.epoch, "reason": "a new log began"}
            self.broadcast(room.members, replies.signal("epoch", facts, room.key.room))
        if ready.lost is not None:
            first, last = ready.lost
            lost = {"epoch": room.order.epoch, "first": first, "last": last}
            self.broadcast(room.members, replies.signal("gap", lost, room.key.room))
        if ready.entries:
            self._fan_out(room, ready.entries)
        if room.order.missing():
            self._repair(room)

    def _fan_out(self, room: Room, entries: Sequence[Entry]) -> None:
        room.tell()
        if room.known:
            entries, passed = _without(room.known, entries)
            room.known -= passed
        if not room.channels or not entries:
            return
        whole = Fanout(room.key, room.order.epoch, entries, room.settings.slow_consumer)
        for channel, peers in room.channels.items():
            if channel == EVERY_CHANNEL:
                fanout = whole
            else:
                chosen = [entry for entry in entries if entry.channel == channel]
                if not chosen:
                    continue
                fanout = whole.only(chosen)
            mark_ready = self._ready
            for peer in peers:
                peer.queue.push(fanout)
                if not peer.marked:
                    mark_ready(peer)
            self.delivered += len(fanout.entries) * len(peers)


def _without(known: set[str], entries: Sequence[Entry]) -> tuple[Sequence[Entry], set[str]]:
    """The entries that are not known, and the ids of those that are."""
    passed = known.intersection(entry.id for entry in entries)
    return [entry for entry in entries if entry.id not in passed], passed


__all__ = ["EVERY_CHANNEL", "Hub", "Room"]
