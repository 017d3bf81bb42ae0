"""The running bus of one process: connects sessions, hub, log and commands. Sockets are in `server`.

Everything here runs on one event loop. A frame is read, sorted by its session, and what it holds goes to
the committer, the directory of clients or the commands; whatever became ready for a client is written once
at the end of the tick.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

from arqonbus.bus import sharing
from arqonbus.bus.background import Background
from arqonbus.bus.command_queue import CommandQueues, Later, Reply
from arqonbus.bus.commit import Committer
from arqonbus.bus.counters import Counters
from arqonbus.bus.direct import Directory, client_id
from arqonbus.bus.drain import send_away
from arqonbus.bus.follow import Follower
from arqonbus.bus.frames import Close
from arqonbus.bus.groups import Groups
from arqonbus.bus.hub import Hub, Room
from arqonbus.bus.membership import RoomMembership
from arqonbus.bus.peer import Peer, Transport
from arqonbus.bus.presence import Presence
from arqonbus.bus.quotas import Quotas
from arqonbus.bus.room_settings import RoomSettingsLookup
from arqonbus.bus.sendqueue import SendQueue
from arqonbus.bus.services import Services
from arqonbus.bus.session import Gates, NoGates, ReceivedFrames, Session, SessionLimits
from arqonbus.bus.upgrade import Accepted, Handshake, Refused, Request, refused
from arqonbus.bus.upkeep import Timeouts, Upkeep
from arqonbus.bus.welcome import welcome
from arqonbus.config import Settings
from arqonbus.protocol import replies
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.shield.tokens import Identity
from arqonbus.storage.ports import Entry, EventLog, LogListener, RoomKey, StorageError

SWEEP_SECONDS = 1.0

_NOT_UTF8 = BusError(Code.DECODE_ERROR, "a text frame is not UTF-8")

logger = logging.getLogger(__name__)


class NodeState(Enum):
    """A node's life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"


CommandRunner = Callable[["Node", Peer, Envelope], Awaitable[Reply | Later]]


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """A glance at a node: how many are connected and how much waits."""

    connections: int
    rooms: int
    queued_bytes: int


class Node(LogListener):
    """One bus node."""

    def __init__(
        self,
        settings: Settings,
        event_log: EventLog,
        *,
        name: str,
        verify: Callable[[str], Identity],
        run_command: CommandRunner,
        gates: Gates | None = None,
        services: Services | None = None,
    ) -> None:
        """`name`: unique among the nodes of one engine. `verify`: identity of a token, or BusError.

        `gates` judge what is published; without them everything passes. `services`: of the process around.
        """
        self.settings = settings
        self.event_log = event_log
        self.name = name
        self.verify = verify
        self.state = NodeState.STARTING
        self.degraded = False  # the storage engine is unreachable, and the bus continues in memory
        self.started_at = time.time()
        self.counters = Counters()
        self.clients: dict[str, Peer] = {}
        self.room_settings = RoomSettingsLookup(settings)
        self.handshake = Handshake(settings, verify)
        self.gates = gates or NoGates()
        self.services = services or Services()
        self._loop = asyncio.get_running_loop()
        self._dirty: list[Peer] = []
        self._flush_scheduled = False
        self._background = Background()
        self.quotas = _quotas(settings)
        self.sharing = sharing.Sharing(name)
        self._hears_limits = False
        self._empty = asyncio.Event()  # no client is connected
        self._empty.set()
        self.hub = Hub(ready=self.ready, repair=self._repair)
        self.follower = Follower(event_log, self.hub, self.room_settings.of, self.counters)
        self.groups = Groups(event_log, self.hub, self.follower, self.room_settings.retention)
        self.presence = Presence(event_log, self.hub, name)
        self.directory = Directory(name, event_log, self.clients, self.ready)
        self.committer = Committer(
            event_log,
            self.hub,
            retention=self.room_settings.retention,
            durability=self.room_settings.durability
            if any(rule.durability for rule in settings.rooms)
            else None,
            has_members=self.hub.rooms.__contains__,
            ready=self.ready,
            counters=self.counters,
        )
        self._commands = CommandQueues(
            partial(run_command, self),
            most=lambda: self.settings.limits.commands_per_connection,
            quotas=lambda: self.quotas,
            ready=self.ready,
            spawn=self._background.run,
        )
        self.upkeep = Upkeep(Timeouts.of(settings), self.ready)
        self.membership = RoomMembership(
            self.hub,
            self.follower,
            self.presence,
            self.upkeep,
            quotas=lambda: self.quotas,
            most=lambda: self.settings.limits.joins_per_connection,
            ready=self.ready,
            spawn=self._background.run,
        )

    # -- life

    async def start(self) -> None:
        """Open the log and begin. Raises StorageError with a sentence."""
        await self.event_log.open(self)
        self._background.run(self._sweep())
        self.state = NodeState.READY

    async def drain(self) -> None:
        """Send everybody elsewhere within the drain window; what was acked is stored."""
        if self.state is not NodeState.READY:
            return
        self.state = NodeState.DRAINING
        await send_away(list(self.clients.values()), self.settings.server.drain_seconds, self._empty)
        await self.committer.drain()

    async def close(self) -> None:
        """Drop what is left and release the log."""
        if self.state is NodeState.CLOSED:
            return
        self.state = NodeState.CLOSED
        await self.committer.drain()
        self._flush()
        for peer in list(self.clients.values()):
            peer.transport.abort()
        await asyncio.sleep(0)
        await self._background.end()
        await self.follower.close()
        await self.directory.close()
        await self.event_log.close()

    def reload(self, settings: Settings, verify: Callable[[str], Identity]) -> None:
        """Apply the hot settings of a changed profile. Connections stay."""
        self.settings = settings
        self.verify = verify
        self.room_settings.reload(settings)
        self.handshake = Handshake(settings, verify)
        self.upkeep.timeouts = Timeouts.of(settings)
        now = self._loop.time()
        self.quotas = _quotas(settings)
        for peer in self.clients.values():
            peer.session.reload(SessionLimits.of(settings), now)
            self._open_accounts(peer, now)
            peer.queue.budget = settings.limits.send_queue_bytes
        for key, room in self.hub.rooms.items():
            room.settings = self.room_settings.of(key.room)

    def load(self) -> NodeLoad:
        queued = sum(peer.queue.size + peer.transport.buffered() for peer in self.clients.values())
        return NodeLoad(len(self.clients), len(self.hub.rooms), queued)

    # -- connections, called by the front and the server adapters

    def decide(self, request: Request) -> Accepted | Refused:
        """Judge an upgrade request."""
        address, now = self.handshake.address(request), self._loop.time()
        decision = self.handshake.decide(request, self._obstacle() or self.quotas.arrival(address, now))
        if isinstance(decision, Accepted):
            who = decision.identity
            obstacle = self.quotas.identity_arrival(who.tenant, who.subject, now)
            if obstacle is not None:
                decision = refused(obstacle)
        return decision

    def connect(self, accepted: Accepted, transport: Transport, address: str, client: str = "") -> Peer:
        """A connection is up: welcome it. `client`: its id, where it is one of the bus's own."""
        now = self._loop.time()
        session = Session(
            client or client_id(self.name),
            accepted.identity,
            accepted.wire,
            SessionLimits.of(self.settings),
            lambda room: self.room_settings.of(room).grants,
            self.counters.rejected,
            now,
            self.gates,
        )
        queue = SendQueue(accepted.wire, self.settings.limits.send_queue_bytes)
        peer = Peer(session, queue, transport, address, now)
        self.clients[peer.client] = peer
        self._empty.clear()
        self._open_accounts(peer, now)
        self.counters.connections_accepted += 1
        peer.answer(
            welcome(
                session,
                self.settings,
                self.name,
                self.event_log.durability,
                groups=self.groups.available,
                degraded=self.degraded,
            )
        )
        self.ready(peer)
        self.upkeep.watch(peer, now, time.time())
        return peer

    def receive(self, peer: Peer, frames: Sequence[bytes | str]) -> None:
        """Whole messages of the client came, as many as the socket held."""
        if peer.closing:
            return
        now = self._loop.time()
        peer.last_seen = peer.last_envelope = now
        counters = self.counters
        counters.frames_in += len(frames)
        intake = peer.session.receive(frames, now)
        counters.bytes_in += intake.size
        if intake.publications:
            if self.committer.is_full():
                error = BusError(Code.RATE_LIMITED, "the storage engine is behind", retry_after_ms=500)
                for items in intake.publications.values():
                    intake.answers += [replies.refusal(error, item.id) for item in items]
            else:
                self.committer.submit(peer, intake.publications, intake.silent)
        if intake.answers or intake.commands or intake.directs:
            self._take(peer, intake)
        if intake.claimed_us and now >= peer.skew.due:
            self._look_at_clock(peer, intake.claimed_us, now)

    def _look_at_clock(self, peer: Peer, claimed_us: int, now: float) -> None:
        """Warn a client whose messages come from the future, or all from the past."""
        limit = round(self.settings.limits.clock_skew * 1_000_000)
        lead = peer.skew.look(claimed_us - replies.now_us(), limit, now) if limit else None
        if lead is not None:
            self.counters.clock_skews["ahead" if lead > 0 else "behind"] += 1
            facts = {"ahead_ms": lead // 1000, "tolerated_ms": limit // 1000}
            logger.warning("a client's clock is off", extra={"client": peer.client, **facts})
            peer.answer(replies.signal("clock.skew", facts))
            self.ready(peer)

    def receive_whole(self, peer: Peer, message: bytes, *, text: bool) -> None:
        """One message that a transport put together. Text that is not UTF-8 ends the connection."""
        if not text:
            self.receive(peer, (message,))
            return
        try:
            self.receive(peer, (message.decode(),))
        except UnicodeDecodeError:
            self.counters.rejected[_NOT_UTF8.code] += 1
            peer.answer(replies.error_signal(_NOT_UTF8))
            peer.close(Close.BAD_TEXT, _NOT_UTF8.message)

    def receive_short(self, peer: Peer, missing: int) -> None:
        """Control frames or fragments came. `missing`: bytes that they count for beyond their own."""
        peer.last_seen = now = self._loop.time()
        if missing and not peer.closing and not peer.session.charge(missing, now):
            self.counters.rejected[Code.RATE_LIMITED] += 1
            peer.close(Close.POLICY, "more fragments and control frames than the byte rate allows")

    def disconnected(self, peer: Peer, code: int) -> None:
        """The connection is gone."""
        if peer.closed:
            return
        peer.ended()
        self.clients.pop(peer.client, None)
        self.upkeep.forget(peer)
        if not self.clients:
            self._empty.set()
        self.quotas.close(peer.session.accounts)
        self.counters.connections_closed[code] += 1
        self._absorb(peer)
        for task in peer.later or ():
            task.cancel()
        self.membership.leave_all(peer)

    def writable(self, peer: Peer, writable: bool) -> None:
        """The socket is blocked or takes bytes again."""
        peer.blocked = not writable
        if writable:
            self.ready(peer)

    def recheck(self, judge: Callable[[Identity], Identity | None]) -> None:
        """Judge all connections again. `judge`: the current identity, None if it is no longer accepted."""
        self.membership.recheck(self.clients.values(), judge)

    # -- what the log hears from other nodes

    def on_entries(self, room: RoomKey, epoch: str, entries: Sequence[Entry]) -> None:
        self.hub.deliver(room, epoch, entries)

    def on_signal(self, room: RoomKey, data: bytes) -> None:
        if room == sharing.ROOM:
            self.sharing.heard(data, self._loop.time())
        else:
            self.presence.heard(room, data)

    def on_direct(self, data: bytes) -> None:
        self.directory.heard(data)

    def on_resync(self, rooms: Sequence[RoomKey]) -> None:
        self.follower.resync(rooms)

    def on_degraded(self, active: bool) -> None:
        self.degraded = active
        facts = {"active": active, "durability": self.event_log.durability.name.lower()}
        for key, room in self.hub.rooms.items():
            if room.settings.history:
                self.hub.broadcast(room.members, replies.signal("degraded", facts, key.room))

    def on_moved(self, room: RoomKey, epoch: str, position: int, known: Collection[str]) -> None:
        self.hub.move(room, epoch, position, known)

    def _repair(self, room: Room) -> None:
        self.follower.repair(room)

    # -- ticks

    def ready(self, peer: Peer) -> None:
        """The client has something to be written at the end of this tick."""
        if not peer.marked:
            peer.marked = True
            self._dirty.append(peer)
            if not self._flush_scheduled:
                self._flush_scheduled = True
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        dirty, self._dirty = self._dirty, []
        for peer in dirty:
            peer.flush()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.upkeep.sweep(self._loop.time(), time.time())
            self.quotas.sweep(self._loop.time())
            if self.settings.limits.shared and self.event_log.shared:
                await self._share_limits()
            await self.follower.sweep()

    async def _share_limits(self) -> None:
        """Tell the other nodes what is asked here, and take our part. Alone, the parts stay as they are."""
        try:
            if not self._hears_limits:
                await self.event_log.follow(sharing.ROOM)
                self._hears_limits = True
            await self.event_log.signal(sharing.ROOM, self.sharing.report(self.quotas))
        except StorageError as failure:
            logger.debug("the limits are not shared just now", extra={"reason": str(failure)})
        self.sharing.settle(self.quotas, self._loop.time())

    # -- the rest of a frame

    def _take(self, peer: Peer, intake: ReceivedFrames) -> None:
        for answer in intake.answers:
            peer.answer(answer)
        for direct in intake.directs:
            self.directory.send(peer, direct)
        for command in intake.commands:
            self._commands.put(peer, command)
        self.ready(peer)
        if intake.close is not None:
            peer.close(*intake.close)

    # -- small decisions

    def _obstacle(self) -> BusError | None:
        if self.state is not NodeState.READY:
            return BusError(Code.DRAINING, "this node takes no new connections; connect to another one")
        if len(self.clients) >= self.settings.server.max_connections:
            return BusError(Code.TOO_MANY_CONNECTIONS, "this node holds as many connections as it may")
        return None

    def _open_accounts(self, peer: Peer, now: float) -> None:
        """Let the connection, and what it is in the middle of, count for its tenant, identity and address."""
        session = peer.session
        who = session.identity
        session.accounts = self.quotas.open(who.tenant, who.subject, peer.address, now)
        for key in peer.rooms:
            self.quotas.enter(session.accounts, key)
        for account in session.accounts:
            account.commands += len(peer.backlog or ())

    def _absorb(self, peer: Peer) -> None:
        """Add what the connection counted to the node's totals."""
        self.counters.unknown_keys += peer.session.unknown_keys
        self.counters.dropped += peer.queue.dropped


def _quotas(settings: Settings) -> Quotas:
    return Quotas(settings.limits, settings.protocol.max_frame_bytes)


__all__ = ["CommandRunner", "Node", "NodeLoad", "NodeState"]
