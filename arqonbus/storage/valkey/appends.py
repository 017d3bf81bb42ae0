"""Appends to Valkey: batches become pipelines, replies become outcomes.

The batches of one room keep the order of the calls, also while its slot moves in a cluster. A batch is
retried only if the engine replied that it did not store it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import (
    Appended,
    Batch,
    Durability,
    Outcome,
    RoomKey,
    StorageError,
)
from arqonbus.storage.valkey.engine import ValkeyEngine, is_redirect, is_unchecked, storage_error
from arqonbus.storage.valkey.fence import Fence
from arqonbus.storage.valkey.flushing import FlushLines
from arqonbus.storage.valkey.keys import RoomKeys, room_keys
from arqonbus.storage.valkey.link import Command, LinkLost, ValkeyLink

_NO_DUPLICATES: frozenset[int] = frozenset()
_PIPELINE_ITEMS = 128  # longer pipelines raise the latency of their first item more than they save
_SLOW_ITEMS = 4096  # for slow flushes (appendfsync everysec), so that more items share one
_SLOW_SECONDS = 0.05
_DURABLE_IN_FLIGHT = 4
_MOST_CHECKS = 5  # of one batch; the engine may restart meanwhile

OnStored = Callable[[RoomKey, str], None]


class _Call:
    """One call of append: its outcomes, and the number still open."""

    __slots__ = ("future", "open", "outcomes")

    def __init__(self, count: int) -> None:
        self.future: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        self.outcomes: list[Any] = [None] * count
        self.open = count

    def settle(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self.open -= 1
        if not self.open and not self.future.done():
            self.future.set_result(self.outcomes)


class _Sent:
    """One batch that was sent or is about to be."""

    __slots__ = ("batch", "call", "command", "durable", "index", "keys", "number")

    def __init__(
        self, batch: Batch, keys: RoomKeys, number: int, call: _Call, index: int, *, durable: bool
    ) -> None:
        self.batch = batch
        self.keys = keys
        self.durable = durable
        self.number = number
        self.call = call
        self.index = index
        self.command: Command = ()


class _Queue:
    """Durable batches of one connection that wait for a free pipeline."""

    __slots__ = ("in_flight", "seconds", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Sent] = deque()
        self.in_flight = 0
        self.seconds = 0.0


class Appends:
    """Sends batches and settles them. `lost_batches`: numbers of batches with an unknown outcome."""

    def __init__(
        self,
        engine: ValkeyEngine,
        writer: bytes,
        durability: Durability,
        *,
        dedup_seconds: float,
        flush_timeout: float,
        replicas: Callable[[], int] = lambda: 0,
        flush_lines: FlushLines | None,
        fence: Fence,
        is_kept: Callable[[RoomKey], bool],
        on_sending: Callable[[RoomKey], None],
        on_stored: OnStored,
        on_unknown: Callable[[RoomKey], None],
    ) -> None:
        self.lost_batches: deque[int] = deque(maxlen=1024)
        self._engine = engine
        self._writer = writer
        self._durability = durability
        self._durable_links = flush_lines or engine
        self._fence = fence
        self._is_kept = is_kept
        self._window_us = int(dedup_seconds * 1_000_000)
        self._flush_ms = int(flush_timeout * 1000)
        self._replicas = replicas
        self._on_sending = on_sending
        self._on_stored = on_stored
        self._on_unknown = on_unknown
        self._number = 0
        self._queues: dict[ValkeyLink, _Queue] = {}
        self._in_flight: dict[RoomKey, int] = {}
        self._held: dict[RoomKey, list[_Sent]] = {}
        self._calls: set[asyncio.Future[Sequence[Outcome]]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def append(self, batches: Sequence[Batch]) -> asyncio.Future[Sequence[Outcome]]:
        """Send the batches in this call. The future holds one outcome for each."""
        call = _Call(len(batches))
        if not batches:
            call.future.set_result([])
            return call.future
        self._calls.add(call.future)
        call.future.add_done_callback(self._calls.discard)
        hot: dict[ValkeyLink, list[_Sent]] = {}
        durable: dict[ValkeyLink, list[_Sent]] = {}
        for index, batch in enumerate(batches):
            self._number += 1
            flushed = (batch.durability or self._durability) is Durability.DURABLE
            try:
                keys = room_keys(batch.room)
                link = (self._durable_links if flushed else self._engine).link(keys.slot)
            except StorageError as error:
                call.settle(index, error)
                continue
            self._on_sending(batch.room)
            sent = _Sent(batch, keys, self._number, call, index, durable=flushed)
            held = self._held.get(batch.room)
            if held is not None:
                held.append(sent)
                continue
            sent.command = self._command(sent, link.incarnation.run)
            self._in_flight[batch.room] = self._in_flight.get(batch.room, 0) + 1
            (durable if flushed else hot).setdefault(link, []).append(sent)
        for link, sents in hot.items():
            link.send([sent.command for sent in sents], _Settling(self, sents))
        for link, sents in durable.items():
            self._enqueue(link, sents)
        return call.future

    async def close(self) -> None:
        """Wait until all accepted batches are settled."""
        if self._calls:
            await asyncio.wait(self._calls)

    def _command(self, sent: _Sent, run: str) -> Command:
        keys, (room, items, retention, _) = sent.keys, sent.batch
        function = "arqonbus_append_kept" if self._is_kept(room) else "arqonbus_append_checked"
        parts: list[str | int | bytes] = [
            "FCALL", function, 4, keys.log, keys.meta, keys.ids, keys.live,
            self._writer, sent.number, new_ulid(), retention.max_messages, retention.max_age_us,
            self._window_us,
        ]  # fmt: skip
        for item in items:
            parts += item
        parts.append(run)
        return tuple(parts)

    # -- durable: a bounded number of pipelines, each ending with a flush

    def _enqueue(self, link: ValkeyLink, sents: list[_Sent]) -> None:
        queue = self._queues.get(link)
        if queue is None:
            queue = self._queues[link] = _Queue()
        queue.waiting.extend(sents)
        self._pump(link, queue)

    def _flush(self) -> Sequence[Command]:
        """The commands that end a pipeline; the last reply counts.

        A replica reports its flush only when asked, or after a second; WAIT returns when the replicas can be
        asked.
        """
        replicas = self._replicas()
        flush: Command = ("WAITAOF", 1, replicas, self._flush_ms)
        return [("WAIT", replicas, self._flush_ms), flush] if replicas else [flush]

    def _pump(self, link: ValkeyLink, queue: _Queue) -> None:
        while queue.waiting and queue.in_flight < _DURABLE_IN_FLIGHT:
            most = _PIPELINE_ITEMS if queue.seconds < _SLOW_SECONDS else _SLOW_ITEMS
            sents = [queue.waiting.popleft()]
            items = len(sents[0].batch.items)
            while queue.waiting and (items := items + len(queue.waiting[0].batch.items)) <= most:
                sents.append(queue.waiting.popleft())
            queue.in_flight += 1
            began = asyncio.get_running_loop().time()
            settling = _Settling(self, sents)

            def on_replies(replies: list[Any], settling: _Settling = settling, began: float = began) -> None:
                queue.in_flight -= 1
                queue.seconds = asyncio.get_running_loop().time() - began
                settling(replies)
                self._pump(link, queue)
                if not queue.waiting and not queue.in_flight:
                    self._queues.pop(link, None)

            link.send([*(sent.command for sent in sents), *self._flush()], on_replies)

    # -- outcomes

    def settle(self, sents: Sequence[_Sent], replies: Sequence[Any]) -> None:
        """Give each batch its outcome; redirected batches are sent again in order."""
        flushed = self._flush_failure(replies[-1]) if sents[0].durable else None
        for sent, reply in zip(sents, replies, strict=False):
            room = sent.batch.room
            left = self._in_flight.pop(room) - 1
            if left:
                self._in_flight[room] = left
            if isinstance(reply, Exception) and (is_redirect(reply) or is_unchecked(reply)):
                self._hold(sent)
                continue
            if not left and room in self._held:
                self._release(room)
            self._finish(sent, reply, flushed)

    def _finish(self, sent: _Sent, reply: Any, flush_failure: StorageError | None) -> None:
        outcome = self._outcome(sent, reply, flush_failure)
        if isinstance(outcome, StorageError):
            if outcome.outcome_unknown:
                self.lost_batches.append(sent.number)
                self._on_unknown(sent.batch.room)
        else:
            room = sent.batch.room
            if outcome.sequences:
                self._fence.seen[room] = (outcome.epoch, reply[2] + reply[3] - 1)
            self._on_stored(room, outcome.epoch)
        sent.call.settle(sent.index, outcome)

    def _outcome(self, sent: _Sent, reply: Any, flush_failure: StorageError | None) -> Outcome:
        if isinstance(reply, Exception):
            return storage_error(reply)
        if flush_failure is not None:
            return flush_failure
        epoch, time_us, first, count, *known = reply
        reached = Durability.DURABLE if sent.durable else Durability.HOT
        if not known:
            return Appended(epoch.decode(), time_us, range(first, first + count), _NO_DUPLICATES, reached)
        duplicates = dict(zip(known[::2], known[1::2], strict=True))
        fresh = iter(range(first, first + count))
        sequences = [
            duplicates[index] if index in duplicates else next(fresh)
            for index in range(len(sent.batch.items))
        ]
        return Appended(epoch.decode(), time_us, sequences, frozenset(duplicates), reached)

    def _flush_failure(self, reply: Any) -> StorageError | None:
        if isinstance(reply, LinkLost):
            return storage_error(reply)
        if isinstance(reply, Exception):
            return StorageError(f"Valkey could not flush the append to disk: {reply}", outcome_unknown=True)
        if reply[0] < 1:
            return StorageError(
                "Valkey has the append, but did not flush it to disk in time. Whether it survives a power "
                "cut is unknown. Publish again with the same id, and check the engine's disk.",
                outcome_unknown=True,
            )
        if reply[1] < self._replicas():
            return StorageError(
                f"Valkey has the append on disk, and so have {reply[1]} of {self._replicas()} replicas. "
                "Whether it survives a failover is unknown. Publish again with the same id, and check "
                "the replicas.",
                outcome_unknown=True,
            )
        return None

    # -- rooms that move in a cluster, or that must be checked first

    def _hold(self, sent: _Sent) -> None:
        if self._engine.cluster:
            self._engine.suspect()
        room = sent.batch.room
        self._held.setdefault(room, []).append(sent)
        if room not in self._in_flight:
            self._release(room)

    def _release(self, room: RoomKey) -> None:
        task = asyncio.create_task(self._send_held(room), name=f"held appends to room {room}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_held(self, room: RoomKey) -> None:
        """Send one batch at a time, so that none overtakes an earlier one that is redirected again."""
        held = self._held[room]
        while held:
            try:
                await self._fence.check(room)
            except StorageError as error:  # nothing was sent, and all of them would fail for the same reason
                refused, held[:] = held[:], []
                for sent in refused:
                    self._finish(sent, StorageError(str(error)), None)
                continue
            held.sort(key=lambda sent: sent.number)
            sent = held.pop(0)
            try:
                replies = await self._send_checked(sent)
            except StorageError as error:
                replies = [error, error]
            failure = self._flush_failure(replies[-1]) if sent.durable and len(replies) > 1 else None
            self._finish(sent, replies[0], failure)
        del self._held[room]

    async def _send_checked(self, sent: _Sent) -> Sequence[Any]:
        """The replies to one batch. Checks the room whenever the engine asks for it."""
        for _ in range(_MOST_CHECKS):
            sent.command = self._command(sent, self._fence.run(sent.keys.slot))
            commands = [sent.command, *self._flush()] if sent.durable else [sent.command]
            replies = await self._engine.flight(sent.keys.slot, commands)
            if not is_unchecked(replies[0]):
                break
            await self._fence.check(sent.batch.room)
        return replies


class _Settling:
    """Callback that settles batches with their replies."""

    __slots__ = ("appends", "sents")

    def __init__(self, appends: Appends, sents: Sequence[_Sent]) -> None:
        self.appends = appends
        self.sents = sents

    def __call__(self, replies: list[Any]) -> None:
        self.appends.settle(self.sents, replies)


__all__ = ["Appends"]
