"""Group commit: what all clients publish in one tick goes to the log in one call, acks follow its answer.

Nothing is delivered that was not stored. A batch that the log refuses is refused to each of its
publishers; a write whose outcome is unknown says so, and publishing again with the same id is safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from arqonbus.bus.counters import MAX_SAMPLES, Counters
from arqonbus.bus.peer import Peer
from arqonbus.bus.session import Publication
from arqonbus.protocol import replies
from arqonbus.protocol.errors import BusError, Code
from arqonbus.storage.ports import (
    Appended,
    Batch,
    Durability,
    Entry,
    EventLog,
    Item,
    Retention,
    RoomKey,
    StorageError,
)

MAX_PENDING_BYTES = 128 * 2**20  # accepted from clients and not yet answered by the log
RETRY_AFTER_MS = 500

Outcomes = Sequence[Appended | StorageError]


class Receiver(Protocol):
    """Where stored messages go next: the hub."""

    def deliver(self, key: RoomKey, epoch: str, entries: Sequence[Entry]) -> None: ...


class _Pending:
    """The messages of one room in this tick and who waits for them."""

    __slots__ = ("items", "publishers", "silent")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.publishers: list[Peer] = []
        self.silent: set[int] = set()  # indexes whose publisher asked for no ack


class Committer:
    """Collects publications and settles them with the log."""

    def __init__(
        self,
        log: EventLog,
        hub: Receiver,
        *,
        retention: Callable[[RoomKey], Retention],
        has_members: Callable[[RoomKey], bool],
        ready: Callable[[Peer], None],
        counters: Counters,
    ) -> None:
        self._log = log
        self._hub = hub
        self._retention = retention
        self._has_members = has_members
        self._ready = ready
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._pending: dict[RoomKey, _Pending] = {}
        self._scheduled = False
        self._under_way: set[asyncio.Task[None]] = set()
        self.pending_bytes = 0

    def submit(self, peer: Peer, publications: Sequence[Publication]) -> None:
        """Take accepted publications of one client; they are stored at the end of this tick."""
        pending = self._pending
        size = 0
        for room, item, ack in publications:
            group = pending.get(room)
            if group is None:
                group = pending[room] = _Pending()
            if not ack:
                group.silent.add(len(group.items))
            group.items.append(item)
            group.publishers.append(peer)
            size += len(item.data)
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
        batches = [Batch(room, group.items, self._retention(room)) for room, group in pending.items()]
        groups = list(pending.values())
        started = time.perf_counter()
        outcomes = self._log.append(batches)
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
            self.pending_bytes -= sum(len(item.data) for item in batch.items)
            if isinstance(outcome, StorageError):
                self._refuse(group, outcome)
            else:
                self._acknowledge(group, outcome)
                if self._has_members(batch.room):
                    self._deliver(batch, outcome)

    def _acknowledge(self, group: _Pending, stored: Appended) -> None:
        epoch, durability, time_us = stored.epoch, stored.durability, stored.time_us
        writers: dict[bool, replies.AckWriter] = {}
        duplicates, silent, ready = stored.duplicates, group.silent, self._ready
        for index, (item, peer, sequence) in enumerate(
            zip(group.items, group.publishers, stored.sequences, strict=True)
        ):
            if silent and index in silent:
                continue
            queue = peer.queue
            json = queue.wire.json
            writer = writers.get(json)
            if writer is None:
                writer = writers[json] = replies.AckWriter(epoch, durability, time_us, json=json)
            queue.answer(writer.write(item.id, sequence, index in duplicates))
            if not peer.marked:
                ready(peer)
        counters = self._counters
        counters.acks[Durability(durability).name.lower()] += len(group.items) - len(silent)
        counters.messages_in += len(group.items)
        counters.duplicates += len(duplicates)

    def _deliver(self, batch: Batch, stored: Appended) -> None:
        time_us, duplicates = stored.time_us, stored.duplicates
        entries = [
            Entry(sequence, time_us, item.id, item.channel, item.data)
            for index, (item, sequence) in enumerate(zip(batch.items, stored.sequences, strict=True))
            if index not in duplicates
        ]
        if entries:
            self._hub.deliver(batch.room, stored.epoch, entries)

    def _refuse(self, group: _Pending, failure: StorageError) -> None:
        error = BusError(
            Code.STORAGE_UNAVAILABLE,
            "the message could not be stored; publish it again with the same id",
            retry_after_ms=RETRY_AFTER_MS,
            details={"outcome": "unknown" if failure.outcome_unknown else "not stored"},
        )
        for index, (item, peer) in enumerate(zip(group.items, group.publishers, strict=True)):
            refuse = replies.error_signal if index in group.silent else replies.refusal
            peer.answer(refuse(error, item.id))
            self._ready(peer)
        self._counters.rejected[error.code] += len(group.items)


__all__ = ["Committer"]
