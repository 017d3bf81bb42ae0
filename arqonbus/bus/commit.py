"""Group commit: what all clients publish in one tick goes to the log in one call, acks follow its answer.

Nothing is delivered that was not stored. A batch that the log refuses is refused to each of its
publishers; a write whose outcome is unknown says so, and publishing again with the same id is safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Protocol

from arqonbus.bus.counters import MAX_SAMPLES, Counters
from arqonbus.bus.peer import Peer
from arqonbus.protocol import replies
from arqonbus.protocol.errors import BusError, Code
from arqonbus.storage.ports import (
    Appended,
    Batch,
    Durability,
    Entry,
    EventLog,
    Item,
    Outcome,
    Retention,
    RoomKey,
    StorageError,
)

MAX_PENDING_BYTES = 128 * 2**20  # accepted from clients and not yet answered by the log
RETRY_AFTER_MS = 500

_entry_of = partial(tuple.__new__, Entry)  # entries are made by the million, without a call in Python each

Outcomes = Sequence[Outcome]


class Receiver(Protocol):
    """The receiver of stored messages: the hub."""

    def deliver(self, key: RoomKey, epoch: str, entries: Sequence[Entry]) -> None: ...


class _Pending:
    """The messages of one room in this tick, and whose they are: runs of (publisher, how many)."""

    __slots__ = ("items", "runs", "silent", "size")

    def __init__(self) -> None:
        self.size = 0  # bytes of all items
        self.items: list[Item] = []
        self.runs: list[tuple[Peer, int]] = []
        self.silent: set[str] = set()  # ids whose publisher asked for no ack


class Committer:
    """Collects publications and settles them with the log."""

    def __init__(
        self,
        event_log: EventLog,
        hub: Receiver,
        *,
        retention: Callable[[RoomKey], Retention],
        durability: Callable[[RoomKey], Durability] | None = None,
        has_members: Callable[[RoomKey], bool],
        ready: Callable[[Peer], None],
        counters: Counters,
    ) -> None:
        """`durability`: the level of each room, where rooms have levels of their own."""
        self._event_log = event_log
        self._hub = hub
        self._retention = retention
        self._durability = durability
        self._has_members = has_members
        self._ready = ready
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._pending: dict[RoomKey, _Pending] = {}
        self._scheduled = False
        self._under_way: set[asyncio.Task[None]] = set()
        self.pending_bytes = 0

    def submit(self, peer: Peer, publications: Mapping[RoomKey, list[Item]], silent: set[str]) -> None:
        """Take accepted messages of one client; they are stored at the end of this tick."""
        for room, items in publications.items():
            group = self._pending.get(room)
            if group is None:
                group = self._pending[room] = _Pending()
            group.items += items
            group.runs.append((peer, len(items)))
            if silent:
                group.silent |= silent
            size = sum([len(item[2]) for item in items])
            group.size += size
            self.pending_bytes += size
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def is_full(self) -> bool:
        """True while the log is so far behind that nothing more may be accepted."""
        return self.pending_bytes > MAX_PENDING_BYTES

    async def drain(self) -> None:
        """Wait until everything that was submitted is settled."""
        while self._scheduled or self._under_way:
            if self._under_way:
                await asyncio.wait(self._under_way)
            else:
                await asyncio.sleep(0)

    def _flush(self) -> None:
        self._scheduled = False
        pending, self._pending = self._pending, {}
        retention, durability = self._retention, self._durability
        if durability is None:
            batches = [Batch(room, group.items, retention(room)) for room, group in pending.items()]
            self._store(batches, list(pending.values()))
        else:
            self._store_by_level(pending, durability)

    def _store_by_level(
        self, pending: Mapping[RoomKey, _Pending], durability: Callable[[RoomKey], Durability]
    ) -> None:
        # A call for each level: rooms that promise less do not wait for those that promise more.
        levels: dict[Durability, tuple[list[Batch], list[_Pending]]] = {}
        for room, group in pending.items():
            level = durability(room)
            call = levels.get(level)
            if call is None:
                call = levels[level] = ([], [])
            call[0].append(Batch(room, group.items, self._retention(room), level))
            call[1].append(group)
        for batches, groups in levels.values():
            self._store(batches, groups)

    def _store(self, batches: list[Batch], groups: list[_Pending]) -> None:
        started = time.perf_counter()
        outcomes = self._event_log.append(batches)
        if isinstance(outcomes, Awaitable):
            task = self._loop.create_task(self._settle_later(batches, groups, outcomes, started))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        else:
            self._settle(batches, groups, outcomes, started)

    async def _settle_later(
        self, batches: list[Batch], groups: list[_Pending], outcomes: Awaitable[Outcomes], started: float
    ) -> None:
        self._settle(batches, groups, await outcomes, started)

    def _settle(
        self, batches: list[Batch], groups: list[_Pending], outcomes: Outcomes, started: float
    ) -> None:
        samples = self._counters.append_seconds
        if len(samples) < MAX_SAMPLES:
            samples.append(time.perf_counter() - started)
        for batch, group, outcome in zip(batches, groups, outcomes, strict=True):
            self.pending_bytes -= group.size
            if isinstance(outcome, StorageError):
                self._refuse(group, outcome)
            else:
                self._acknowledge(group, outcome)
                if self._has_members(batch.room):
                    self._deliver(batch, outcome)

    def _acknowledge(self, group: _Pending, stored: Appended) -> None:
        writers: dict[bool, replies.AckWriter] = {}
        plain = not stored.duplicates and not group.silent
        at = 0
        for peer, count in group.runs:
            queue = peer.queue
            json = queue.wire.json
            writer = writers.get(json)
            if writer is None:
                writer = writers[json] = replies.AckWriter(
                    stored.epoch, stored.durability, stored.time_us, json=json
                )
            if plain and not json:
                ids = [item[0] for item in group.items[at : at + count]]
                queue.answer(writer.write_new(ids, stored.sequences[at : at + count]))
            else:
                for index in range(at, at + count):
                    message_id = group.items[index].id
                    if message_id not in group.silent:
                        duplicate = index in stored.duplicates
                        queue.answer(writer.write(message_id, stored.sequences[index], duplicate=duplicate))
            at += count
            if not peer.marked:
                self._ready(peer)
        counters = self._counters
        counters.acks[stored.durability.name.lower()] += len(group.items) - len(group.silent)
        counters.messages_in += len(group.items)
        counters.duplicates += len(stored.duplicates)

    def _deliver(self, batch: Batch, stored: Appended) -> None:
        ids, channels, data = zip(*batch.items, strict=True)
        entries = list(map(_entry_of, zip(stored.sequences, repeat(stored.time_us), ids, channels, data)))
        if stored.duplicates:
            entries = [entry for index, entry in enumerate(entries) if index not in stored.duplicates]
        if entries:
            self._hub.deliver(batch.room, stored.epoch, entries)

    def _refuse(self, group: _Pending, failure: StorageError) -> None:
        error = BusError(
            Code.STORAGE_UNAVAILABLE,
            "the message could not be stored; publish it again with the same id",
            retry_after_ms=RETRY_AFTER_MS,
            details={"outcome": "unknown" if failure.outcome_unknown else "not stored"},
        )
        items = iter(group.items)
        for peer, count in group.runs:
            for item in islice(items, count):
                refuse = replies.error_signal if item.id in group.silent else replies.refusal
                peer.answer(refuse(error, item.id))
            self._ready(peer)
        self._counters.rejected[error.code] += len(group.items)


__all__ = ["Committer"]
