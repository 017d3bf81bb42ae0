"""The event log in Valkey: shared by all nodes of a bus, on one server or a cluster.

Every change of a room is one call of the function library (functions.lua), so that it is atomic. No state is
kept here that another node needs; after an interruption the state is read from the engine.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from ssl import SSLContext
from typing import Any

from arqonbus.config.stores import VALKEY_PORT
from arqonbus.config.url import Url
from arqonbus.storage.layers.durable_history import DurableHistory, HistoryStore
from arqonbus.storage.ports import (
    Batch,
    Durability,
    Entry,
    Head,
    LogListener,
    Outcome,
    Page,
    Retention,
    RoomKey,
    RoomMember,
    RoomPage,
    StorageError,
)
from arqonbus.storage.valkey.appends import Appends
from arqonbus.storage.valkey.engine import ValkeyEngine, is_unchecked, storage_error
from arqonbus.storage.valkey.fence import Fence
from arqonbus.storage.valkey.flushing import FlushLines
from arqonbus.storage.valkey.frames import (
    WRITER_BYTES,
    BadFrameError,
    is_signal,
    parse_entries,
    parse_header,
    parse_signal,
    signal_frame,
)
from arqonbus.storage.valkey.groups import ValkeyGroups
from arqonbus.storage.valkey.keys import Slotted, node_channel, probe_key, room_keys, tenant_rooms
from arqonbus.storage.valkey.link import Access, Command, Endpoint, Finder
from arqonbus.storage.valkey.live import Live
from arqonbus.storage.valkey.presence import SharedPresence
from arqonbus.storage.valkey.refill import Refill
from arqonbus.storage.valkey.registry import RoomRegistry
from arqonbus.storage.witness import WitnessStore

_MOST_CHECKS = 5  # of a room before one read; the engine may restart meanwhile

logger = logging.getLogger(__name__)


def endpoint_of(url: str) -> Endpoint:
    """Parse a URL like valkey://host:6379 or rediss://host. Raises ValueError if it has more parts."""
    try:
        parts = Url(url)
    except ValueError as error:
        raise ValueError(f"The URL of the Valkey server {error}.") from None
    if parts.scheme not in {"valkey", "valkeys", "redis", "rediss"}:
        raise ValueError("The URL of the Valkey server has an unknown scheme; expected valkey://host:6379.")
    if parts.user or parts.password or parts.query:
        raise ValueError(
            f"The URL of the Valkey server {parts.host} may contain a host and a port only; "
            "user, password and options are separate settings."
        )
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError(f"The URL of the Valkey server {parts.host} names a database other than 0.")
    return Endpoint(parts.host, parts.port or VALKEY_PORT)


class ValkeyLog:
    """EventLog in Valkey 8 or later. `urls`: the server, or the cluster's seeds. Times are seconds.

    `finder`: locates the primary; `urls` then name the servers that it asks. DURABLE appends wait until the
    engine and `durable_replicas` replicas have flushed their append-only files, because a promoted replica
    has only what it received; None: as many as the finder reports, else none. `mixed`: batches name their own
    levels, so durable ones get separate connections. `witness`: knows the positions of rooms from before a
    restart of the engine; without it, a room counts as complete only if this process was connected throughout
    or nothing can be lost. Rooms that are `is_kept` are also written to `history` before the ack, and
    refilled from there.
    """

    name = "valkey"
    shared = True

    def __init__(
        self,
        urls: Sequence[str],
        *,
        node_id: str,
        durability: Durability = Durability.HOT,
        mixed: bool = False,
        witness: WitnessStore | None = None,
        history: HistoryStore | None = None,
        is_kept: Callable[[RoomKey], bool] = lambda _room: False,
        cluster: bool = False,
        finder: Finder | None = None,
        durable_replicas: int | None = None,
        username: str = "",
        password: str = "",
        tls: SSLContext | None = None,
        connect_timeout: float = 5.0,
        reply_timeout: float = 10.0,
        flush_timeout: float = 5.0,
        dedup_seconds: float = 120.0,
        presence_seconds: float = 30.0,
        renew_seconds: float = 10.0,
        indexed_rooms: frozenset[str] = frozenset(),
    ) -> None:
        if durability is Durability.MEMORY:
            raise ValueError("Valkey is never less than HOT; use MemoryLog for durability MEMORY.")
        if any(url.partition("://")[0] in {"valkeys", "rediss"} for url in urls) and tls is None:
            raise ValueError("A URL asks for TLS, but no TLS context was given.")
        if not urls:
            raise ValueError("ValkeyLog needs the URL of at least one server.")
        self.durability = durability
        self._node_id = node_id
        self._node_channel = node_channel(node_id)
        self._cluster = cluster
        self._dedup_seconds = dedup_seconds
        self._writer = secrets.token_bytes(WRITER_BYTES)
        self._followed: dict[str, RoomKey] = {}
        self._unknown: dict[RoomKey, None] = {}
        self._open = False
        self._engine = ValkeyEngine(
            [endpoint_of(url) for url in urls],
            Access(username, password, tls, connect_timeout, reply_timeout + flush_timeout, finder),
            cluster=cluster,
            durable=durability is Durability.DURABLE or mixed,
        )
        self._flush_lines = FlushLines(self._engine) if mixed else None
        self._history = DurableHistory(history, is_kept, self._on_unknown) if history is not None else None
        refill = Refill(self._engine, self._history, dedup_seconds) if self._history is not None else None
        self._fence = Fence(self._engine, witness, refill)
        self._live = Live(self._engine, self._on_message, self._on_gap)
        self._presence = SharedPresence(
            self._engine, expiry_seconds=presence_seconds, renew_seconds=renew_seconds
        )
        self._registry = RoomRegistry(self._engine, indexed_rooms)
        self.groups = ValkeyGroups(self._engine, self._registry)
        self._appends = Appends(
            self._engine,
            self._writer,
            durability,
            dedup_seconds=dedup_seconds,
            flush_timeout=flush_timeout,
            replicas=_replicas(durable_replicas, finder),
            flush_lines=self._flush_lines,
            fence=self._fence,
            is_kept=self._is_kept,
            on_sending=self._registry.announce,
            on_stored=self._registry.on_stored,
            on_unknown=self._on_unknown,
        )

    async def open(self, listener: LogListener) -> None:
        """See EventLog.open. Loads the function library if it is missing or older."""
        self._listener = listener
        try:
            await self._engine.open()
            if self._flush_lines is not None:
                await self._flush_lines.open()
            self._live.open()
            await self._live.subscribe(self._node_channel)
        except BaseException:
            await self._close_lines()
            raise
        self._engine.on_change = self._on_change
        self._presence.open()
        self._fence.open()
        if self._history is not None:
            self._history.open(self)
        self._open = True

    async def close(self) -> None:
        """See EventLog.close."""
        if not self._open:
            return
        self._open = False
        await self._appends.close()
        if self._history is not None:
            await self._history.close()
        await self._registry.settled()
        await self._presence.close()
        await self._fence.close()
        await self._close_lines()

    async def _close_lines(self) -> None:
        await self._live.close()
        if self._flush_lines is not None:
            await self._flush_lines.close()
        await self._engine.close()

    def append(self, batches: Sequence[Batch]) -> Awaitable[Sequence[Outcome]]:
        """See EventLog.append. Sent in this call, so entries are stored in the order of calls."""
        stored = self._appends.append(batches)
        if self._history is None or not any(self._is_kept(batch.room) for batch in batches):
            return stored
        return self._history.settled(batches, stored)

    def _is_kept(self, room: RoomKey) -> bool:
        return self._history is not None and self._history.keeps(room)

    async def head(self, room: RoomKey) -> Head:
        """See EventLog.head."""
        return _head(await self._look(room, "head_checked"))

    async def read(self, room: RoomKey, after: int, until: int, limit: int) -> Page:
        """See EventLog.read."""
        return await self._page(room, "read_checked", after + 1, until or "+", limit)

    async def read_back(self, room: RoomKey, before: int, limit: int) -> Page:
        """See EventLog.read_back."""
        return await self._page(room, "read_back_checked", 0, before - 1 if before else "+", limit)

    async def _page(self, room: RoomKey, function: str, low: int, high: int | str, limit: int) -> Page:
        if limit <= 0:
            return Page(await self.head(room), ())
        head, entries = await self._look(room, function, low, high, limit)
        return Page(_head(head), [_entry(entry) for entry in entries], head[3])

    async def begin_epoch(self, room: RoomKey, after: str) -> Head:
        """Continue the room in an epoch greater than `after` and its current one. Returns its head."""
        await self.create_room(room)
        return await self._fence.begin_epoch(room, after)

    async def renew(self, room: RoomKey, epoch: str, after: str) -> Head:
        """Continue the room in an epoch greater than `after`, if it is in `epoch`. Raises StorageError."""
        return await self._fence.renew(room, epoch, after)

    async def seek(self, room: RoomKey, time_us: int) -> int:
        """See EventLog.seek."""
        return int(await self._call(room, "seek", time_us))

    async def _look(self, room: RoomKey, function: str, *arguments: int | str) -> Any:
        """Read from a room, checking or restoring it first if needed."""
        keys = room_keys(room)
        command = ("FCALL", "arqonbus_" + function, 2, keys.log, keys.meta, *arguments)
        for _ in range(_MOST_CHECKS):
            [reply] = await self._engine.flight(keys.slot, [(*command, self._fence.run(keys.slot))])
            if is_unchecked(reply):
                await self._fence.check(room)
            elif not _is_absent(reply) or not await self._fence.restore(room):
                break
        if isinstance(reply, Exception):
            raise storage_error(reply)
        return reply

    async def _call(self, room: RoomKey, function: str, *arguments: int | str) -> Any:
        keys = room_keys(room)
        return await self._engine.call(
            keys.slot, "FCALL", "arqonbus_" + function, 2, keys.log, keys.meta, *arguments
        )

    async def create_room(self, room: RoomKey) -> bool:
        """See EventLog.create_room."""
        room_keys(room)
        created = await self._registry.create(room)
        [outcome] = await self._appends.append([Batch(room, (), Retention(0, 0))])  # assigns an epoch
        if isinstance(outcome, StorageError):
            raise outcome
        return created

    async def delete_room(self, room: RoomKey) -> bool:
        """See EventLog.delete_room."""
        keys = room_keys(room)
        history = self._history if self._is_kept(room) else None
        if history is not None:
            await history.delete(room)
        window_us = int(self._dedup_seconds * 1_000_000)
        command = ("FCALL", "arqonbus_delete", 3, keys.log, keys.meta, keys.ids, window_us)
        written = await self._engine.call(keys.slot, *command)
        self._fence.forget(room)
        if history is not None:
            await history.deleted(room)
        listed = await self._registry.delete(room)
        return bool(written) or listed

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """See EventLog.rooms."""
        tenant_rooms(tenant)
        return await self._registry.rooms(tenant, after, limit)

    async def tenants_of(self, room: str, after: str, limit: int) -> Sequence[str]:
        """See EventLog.tenants_of. A room is indexed when a log that indexes its name first writes to it."""
        return await self._registry.tenants(room, after, limit)

    async def follow(self, room: RoomKey) -> Head:
        """See EventLog.follow. The subscription is confirmed before the head is read."""
        keys = room_keys(room)
        self._followed[keys.live] = room
        try:
            await self._live.subscribe(Slotted(keys.live, keys.slot))
        except StorageError:
            self._followed.pop(keys.live, None)
            raise
        return await self.head(room)

    async def unfollow(self, room: RoomKey) -> None:
        """See EventLog.unfollow."""
        keys = room_keys(room)
        self._followed.pop(keys.live, None)
        await self._live.unsubscribe(Slotted(keys.live, keys.slot))

    async def signal(self, room: RoomKey, data: bytes) -> None:
        """See EventLog.signal."""
        keys = room_keys(room)
        await self._engine.call(keys.slot, "SPUBLISH", keys.live, signal_frame(self._writer, data))

    async def direct(self, node: str, data: bytes) -> bool:
        """See EventLog.direct."""
        channel = node_channel(node)
        return bool(await self._engine.call(channel.slot, "SPUBLISH", channel.key, data))

    async def enter(self, room: RoomKey, member: RoomMember) -> None:
        """See EventLog.enter."""
        await self._presence.enter(room, member)

    async def leave(self, room: RoomKey, client: str) -> None:
        """See EventLog.leave."""
        await self._presence.leave(room, client)

    async def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """See EventLog.present."""
        return await self._presence.present(room, limit)

    async def probe(self) -> float:
        """See EventLog.probe. In a cluster every primary is probed."""
        began = time.perf_counter()
        value = secrets.token_bytes(16)
        for key, slot in self._probes():
            commands: list[Command] = [("SET", key, value, "EX", 60), ("GET", key), ("DEL", key)]
            replies = await self._engine.pipeline(slot, commands)
            if replies[1] != value:
                raise StorageError(f"Valkey did not return what was written to {key}.")
        return time.perf_counter() - began

    def _probes(self) -> Sequence[Slotted]:
        if not self._cluster:
            return [probe_key(self._node_id, 0)]
        wanted = set(self._engine.endpoints())
        probes = []
        number = 0
        while wanted and number < 10_000:
            key = probe_key(self._node_id, number)
            number += 1
            owner = self._engine.endpoint(key.slot)
            if owner in wanted:
                wanted.discard(owner)
                probes.append(key)
        return probes

    # -- events from other nodes

    def _on_message(self, channel: str, frame: bytes) -> None:
        if channel == self._node_channel.key:
            self._listener.on_direct(frame)
            return
        room = self._followed.get(channel)
        if room is None:
            return
        if is_signal(frame):
            writer, data = parse_signal(frame)
            if writer != self._writer:
                self._listener.on_signal(room, data)
            return
        try:
            header = parse_header(frame)
            if header.writer == self._writer and header.batch not in self._appends.lost_batches:
                return
            entries = parse_entries(frame, header)
        except BadFrameError as error:
            logger.error("Entries of room %s are read from the log instead: %s", room, error)
            self._listener.on_resync([room])
            return
        self._fence.seen[room] = (header.epoch, header.first + header.size - 1)
        self._listener.on_entries(room, header.epoch, entries)

    def _on_gap(self, channels: Sequence[str]) -> None:
        rooms = [self._followed[channel] for channel in channels if channel in self._followed]
        if rooms:
            self._listener.on_resync(rooms)

    def _on_unknown(self, room: RoomKey) -> None:
        """Plan a read of the room: this node's append may be stored although its outcome is unknown."""
        if not self._unknown:
            asyncio.get_running_loop().call_soon(self._report_unknown)
        self._unknown[room] = None

    def _on_change(self) -> None:
        if self._flush_lines is not None:
            self._flush_lines.recheck()
        self._live.recheck()
        self._registry.on_change()
        self._presence.renew_soon()
        self._report_unknown()

    def _report_unknown(self) -> None:
        """Report rooms with unknown appends; those of unreachable servers wait until they are back."""
        readable = [room for room in self._unknown if self._engine.is_up(room_keys(room).slot)]
        for room in readable:
            del self._unknown[room]
        followed = [room for room in readable if room_keys(room).live in self._followed]
        if followed and self._open:
            self._listener.on_resync(followed)


def _replicas(wanted: int | None, finder: Finder | None) -> Callable[[], int]:
    if wanted is not None:
        return lambda: wanted
    return finder.replicas if finder is not None else lambda: 0


def _is_absent(reply: Any) -> bool:
    """True if this head, or this page with its head, is of a room that does not exist."""
    if isinstance(reply, Exception):
        return False
    head = reply[0] if isinstance(reply[0], list) else reply
    return not head[0]


def _head(reply: Any) -> Head:
    epoch, first, last, *_ = reply
    return Head(epoch.decode(), first, last)


def _entry(reply: Any) -> Entry:
    entry_id, (_, time_us, _, message_id, _, channel, _, data) = reply
    return Entry(int(entry_id.partition(b"-")[0]), int(time_us), message_id.decode(), channel.decode(), data)


__all__ = ["ValkeyLog", "endpoint_of"]
