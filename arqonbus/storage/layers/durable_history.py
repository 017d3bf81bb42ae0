"""Durable history: a second store, outside the engine, from which rooms are refilled.

An append to such a room succeeds when both the engine and the store have it. The store keeps, per room, the
epoch for which it accepts messages. Before a node refills a room after the engine lost messages, it raises
that epoch, so that appends of the old epoch are refused. Retention is the engine's; what the engine no longer
holds is removed here a little later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from arqonbus.storage.ports import (
    Appended,
    Batch,
    Durability,
    Entry,
    Head,
    Outcome,
    Page,
    RoomKey,
    StorageError,
)

DELETED = "~"  # greater than every epoch: the room is being deleted
AT_ONCE = 500  # entries
STORE_SECONDS = 10.0  # for one call of the store
KEEP_SECONDS = 15.0  # for one batch, including all retries
TRIM_SECONDS = 30.0
MOST_ROOMS = 100_000  # rooms known to be complete in the store
_PIECES = 256  # in one transaction
_TRIES = 5  # of a piece while the store's epoch or life changes

T = TypeVar("T")

logger = logging.getLogger(__name__)


class HistoryUnavailable(StorageError):
    """The engine has the messages; whether the durable history has them is unknown."""


class Piece(NamedTuple):
    """Entries of one room in one epoch."""

    room: RoomKey
    epoch: str
    entries: Sequence[Entry]


class Top(NamedTuple):
    """The store's epoch and last sequence of a room; `last` is 0 if it holds no entry."""

    epoch: str
    last: int


class Kept(NamedTuple):
    """The epochs of the rooms that the store knows; None: nothing was stored, because the store's life
    changed.
    """

    epochs: Mapping[RoomKey, str] | None
    life: str


class HistoryStore(Protocol):
    """Store of the entries of rooms. Methods raise StorageError."""

    async def close(self) -> None: ...

    async def keep(self, pieces: Sequence[Piece], life: str) -> Kept:
        """Store durably the pieces whose room is in their epoch; nothing if the store's life is not `life`.

        A life ends when the store may have been restored to an earlier state.
        """

    async def top(self, room: RoomKey) -> Top | None:
        """The store's position of the room; None for an unknown room."""

    async def raise_epoch(self, room: RoomKey, epoch: str) -> None:
        """From now on accept entries of this epoch only, unless the current epoch is greater."""

    async def after(self, room: RoomKey, sequence: int, limit: int) -> Sequence[Entry]:
        """Entries with a greater sequence, ascending."""

    async def move_epoch(self, room: RoomKey, was: str | None, to: str) -> None:
        """Change the accepted epoch to `to` if it is `was`; None: if the room is unknown."""

    async def held(self, room: RoomKey, ids: Mapping[int, str]) -> Collection[int]:
        """The sequences of `ids` under which the store holds the message with that id."""

    async def trim(self, room: RoomKey, first: int) -> None:
        """Remove entries with a lower sequence."""

    async def forget(self, room: RoomKey) -> None:
        """Remove the room, after its entries were removed."""


class EngineRooms(Protocol):
    """Interface of the engine that the history needs."""

    async def head(self, room: RoomKey) -> Head: ...

    async def read(self, room: RoomKey, after: int, until: int, limit: int) -> Page: ...

    async def renew(self, room: RoomKey, epoch: str, after: str) -> Head:
        """If the room is in `epoch`, continue it in an epoch greater than `after`. Returns its head."""


class _Waiting(NamedTuple):
    piece: Piece
    done: asyncio.Future[Kept]


class DurableHistory:
    """Keeps a copy of some rooms (`keeps`) in the store."""

    def __init__(
        self, store: HistoryStore, keeps: Callable[[RoomKey], bool], on_unknown: Callable[[RoomKey], None]
    ) -> None:
        """`on_unknown` is called for rooms with entries that were stored but not acknowledged."""
        self.keeps = keeps
        self._store = store
        self._on_unknown = on_unknown
        self._rooms: EngineRooms
        self._life = ""
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._complete: set[RoomKey] = set()  # rooms that were complete in the store when last checked
        self._touched: set[RoomKey] = set()
        self._calls: set[asyncio.Task[Sequence[Outcome]]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, rooms: EngineRooms) -> None:
        """Start the tasks. The store is connected on first use."""
        self._rooms = rooms
        self._tasks = [
            asyncio.create_task(self._write(), name="durable history"),
            asyncio.create_task(self._keep_trimming(), name="trimming of the durable history"),
        ]

    async def close(self) -> None:
        """Finish accepted appends, then stop and close the store."""
        if self._calls:
            await asyncio.wait(list(self._calls))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._store.close()

    # -- appends

    def settled(
        self, batches: Sequence[Batch], stored: Awaitable[Sequence[Outcome]]
    ) -> Awaitable[Sequence[Outcome]]:
        """The outcomes of these batches, once the store has its part of them."""
        call = asyncio.create_task(self._settled(batches, stored))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    async def _settled(
        self, batches: Sequence[Batch], stored: Awaitable[Sequence[Outcome]]
    ) -> Sequence[Outcome]:
        outcomes = await stored
        return await asyncio.gather(*map(self._outcome, batches, outcomes))

    async def _outcome(self, batch: Batch, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Appended) or not outcome.sequences or not self.keeps(batch.room):
            return outcome
        try:
            async with asyncio.timeout(KEEP_SECONDS):
                entries = await self._entries(batch, outcome)
                if entries:
                    await self._keep(Piece(batch.room, outcome.epoch, entries))
        except (StorageError, TimeoutError) as failure:
            self._on_unknown(batch.room)
            return HistoryUnavailable(
                "The engine has the message; whether the durable history has it is unknown: "
                f"{failure or 'no answer in time'}. Publish again with the same id.",
                outcome_unknown=True,
            )
        self._touched.add(batch.room)
        return outcome._replace(durability=Durability.DURABLE)

    async def _entries(self, batch: Batch, outcome: Appended) -> Sequence[Entry]:
        """Entries that the store may lack: the new ones, and earlier ones it is not known to have."""
        fresh = {
            sequence: Entry(sequence, outcome.time_us, *item)
            for index, (sequence, item) in enumerate(zip(outcome.sequences, batch.items, strict=True))
            if index not in outcome.duplicates
        }
        repeated = {
            outcome.sequences[index]: batch.items[index].id
            for index in outcome.duplicates
            if outcome.sequences[index] not in fresh
        }
        if repeated:
            held = await _soon(self._store.held(batch.room, repeated))
            for sequence in repeated.keys() - held:
                page = await self._rooms.read(batch.room, sequence - 1, sequence, 1)
                if [entry.id for entry in page.entries] != [repeated[sequence]]:
                    raise StorageError("the room was refilled meanwhile")
                fresh[sequence] = page.entries[0]
        return [fresh[sequence] for sequence in sorted(fresh)]

    async def _keep(self, piece: Piece) -> None:
        for _ in range(_TRIES):
            if piece.room in self._complete:
                done: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
                self._waiting.append(_Waiting(piece, done))
                self._wake.set()
                epochs = (await done).epochs
            else:
                epochs = await self._complete_before(piece)
            if epochs is None:
                continue
            epoch = epochs.get(piece.room)
            if epoch != piece.epoch:
                piece = await self._reconciled(piece, epoch)
            elif piece.room in self._complete:
                return
        raise StorageError(f"the room changed its epoch {_TRIES} times")

    async def _write(self) -> None:
        """Write all waiting pieces in one transaction, one transaction at a time."""
        while True:
            await self._wake.wait()
            waiting, self._waiting = self._waiting[:_PIECES], self._waiting[_PIECES:]
            if not self._waiting:
                self._wake.clear()
            try:
                kept = await self._stored([each.piece for each in waiting])
            except Exception as failure:  # the task must survive; every caller gets the error
                if not isinstance(failure, StorageError):
                    logger.error("the durable history fails", exc_info=failure)
                for each in waiting:
                    if not each.done.done():
                        each.done.set_exception(StorageError(str(failure)))
                continue
            for each in waiting:
                if not each.done.done():
                    each.done.set_result(kept)

    async def _stored(self, pieces: Sequence[Piece]) -> Kept:
        kept = await _soon(self._store.keep(pieces, self._life))
        if kept.life != self._life:
            self._complete.clear()
            self._life = kept.life
        return kept

    async def _reconciled(self, piece: Piece, epoch: str | None) -> Piece:
        """Bring the store's epoch for the room and the piece's into agreement; returns the piece to retry.

        Raises StorageError if the engine may no longer have the piece. Each change is conditional on the
        epoch read before, so that it does not undo a concurrent refill by another node.
        """
        room = piece.room
        if epoch == DELETED:
            raise StorageError("the room is being deleted")
        if (await self._rooms.head(room)).epoch != piece.epoch:
            raise StorageError("the room is in another epoch now")
        if epoch is not None and epoch > piece.epoch:  # two nodes renewed the room at the same time
            head = await self._rooms.renew(room, piece.epoch, epoch)
            piece = piece._replace(epoch=head.epoch)
        await _soon(self._store.move_epoch(room, epoch, piece.epoch))
        return piece

    async def _complete_before(self, piece: Piece) -> Mapping[RoomKey, str] | None:
        """Copy to the store the entries before the piece that it lacks: because the room is new to it,
        because it was restored to an earlier state, or because earlier writes to it failed.

        Returns the room's epoch in the store; None if the store's life ended meanwhile.
        """
        room, until = piece.room, piece.entries[0].sequence - 1
        top = await self.top(room)
        if top is None or top.epoch != piece.epoch:
            return {room: top.epoch} if top else {}
        after, copied = top.last, 0
        while after < until and (entries := (await self._rooms.read(room, after, until, AT_ONCE)).entries):
            kept = await self._stored([Piece(room, piece.epoch, entries)])
            if kept.epochs is None or kept.epochs.get(room) != piece.epoch:
                return kept.epochs
            after, copied = entries[-1].sequence, copied + len(entries)
        if copied:
            logger.debug(
                "copied missing messages to the durable history",
                extra={"room": room.room, "messages": copied},
            )
        if len(self._complete) >= MOST_ROOMS:
            self._complete.clear()
        self._complete.add(room)
        return None

    # -- opening and refilling a room

    async def top(self, room: RoomKey) -> Top | None:
        """The history's position of the room. Raises StorageError."""
        top = await _soon(self._store.top(room))
        if top is not None and top.epoch == DELETED:
            raise StorageError(
                f"The room {room.room} is being deleted. Repeat the deletion until it succeeds."
            )
        return top

    async def raise_epoch(self, room: RoomKey, epoch: str) -> None:
        """Refuse entries of epochs before this one. Raises StorageError."""
        await _soon(self._store.raise_epoch(room, epoch))

    async def after(self, room: RoomKey, sequence: int) -> Sequence[Entry]:
        """The entries after `sequence`, at most AT_ONCE. Raises StorageError."""
        return await _soon(self._store.after(room, sequence, AT_ONCE))

    async def delete(self, room: RoomKey) -> None:
        """Mark the room as deleted before the engine deletes it, so that it is not refilled.

        Raises StorageError.
        """
        self._touched.discard(room)
        await _soon(self._store.raise_epoch(room, DELETED))
        await _soon(self._store.trim(room, 1 << 62))

    async def deleted(self, room: RoomKey) -> None:
        """Forget the room after the engine has deleted it. Raises StorageError."""
        await _soon(self._store.forget(room))

    # -- retention

    async def _keep_trimming(self) -> None:
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            await self.trim()

    async def trim(self) -> None:
        """Remove entries that the engine no longer holds, in rooms written to since the last run."""
        touched, self._touched = self._touched, set()
        for room in touched:
            try:
                head = await self._rooms.head(room)
                await _soon(self._store.trim(room, head.first))
            except StorageError as failure:
                self._touched |= touched
                logger.warning("trimming the durable history failed", extra={"reason": str(failure)})
                return


async def _soon(call: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(STORE_SECONDS):
            return await call
    except TimeoutError:
        raise StorageError(f"the durable history did not answer in {STORE_SECONDS:.0f} s") from None


__all__ = [
    "AT_ONCE",
    "DurableHistory",
    "HistoryStore",
    "HistoryUnavailable",
    "Kept",
    "Piece",
    "Top",
]
