"""A second place for the messages of some rooms, outside the engine, from which a room comes back.

An append to such a room counts when both have it. The store has the epoch in which it takes messages, and a
node that fills a room after its engine lost some raises it first: no append of before can come in behind its
back. Retention is the engine's; what it no longer holds is removed here a little later.
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
KEEP_SECONDS = 15.0  # for one batch, whatever has to be asked and repeated
TRIM_SECONDS = 30.0
MOST_ROOMS = 100_000  # of which is known that the store has all
_PIECES = 256  # in one transaction
_TRIES = 5  # of a piece that the store takes in another epoch, or in another life

T = TypeVar("T")

logger = logging.getLogger(__name__)


class HistoryUnavailable(StorageError):
    """The engine has the messages, and the durable history does not, as far as this node knows."""


class Piece(NamedTuple):
    """Entries of one room that were given in one epoch."""

    room: RoomKey
    epoch: str
    entries: Sequence[Entry]


class Top(NamedTuple):
    """How far the store has a room; `last` is 0 when it holds no entry."""

    epoch: str
    last: int


class Kept(NamedTuple):
    """The epochs of the rooms that the store knows; None: nothing was stored, this being another life."""

    epochs: Mapping[RoomKey, str] | None
    life: str


class HistoryStore(Protocol):
    """Keeps entries of rooms. Methods raise StorageError."""

    async def close(self) -> None: ...

    async def keep(self, pieces: Sequence[Piece], life: str) -> Kept:
        """Store the pieces whose room is in their epoch, durably; nothing if the store's life is another one.

        A life ends when the store may have been put back in time.
        """

    async def top(self, room: RoomKey) -> Top | None:
        """How far the store has the room; None for one that it does not know."""

    async def raise_epoch(self, room: RoomKey, epoch: str) -> None:
        """Take entries of this epoch only, from now on, unless a greater one holds."""

    async def after(self, room: RoomKey, sequence: int, limit: int) -> Sequence[Entry]:
        """Entries with a greater sequence, ascending."""

    async def move_epoch(self, room: RoomKey, was: str | None, to: str) -> None:
        """Take entries of this epoch only, if it was that one up to now; None: if the room is not known."""

    async def held(self, room: RoomKey, ids: Mapping[int, str]) -> Collection[int]:
        """Those of the sequences under which the store holds the messages with these ids."""

    async def trim(self, room: RoomKey, first: int) -> None:
        """Remove entries with a lower sequence."""

    async def forget(self, room: RoomKey) -> None:
        """Know the room no longer. Its entries were removed before."""


class EngineRooms(Protocol):
    """What the history asks of the engine."""

    async def head(self, room: RoomKey) -> Head: ...

    async def read(self, room: RoomKey, after: int, until: int, limit: int) -> Page: ...

    async def renew(self, room: RoomKey, epoch: str, after: str) -> Head:
        """Let the room, if it is in this epoch, go on in one that is greater than `after`. Its head then."""


class _Waiting(NamedTuple):
    piece: Piece
    done: asyncio.Future[Kept]


class DurableHistory:
    """Keeps the rooms for which `keeps` in the store, beside their engine."""

    def __init__(
        self, store: HistoryStore, keeps: Callable[[RoomKey], bool], on_unknown: Callable[[RoomKey], None]
    ) -> None:
        """`on_unknown` hears of rooms whose new entries a publisher was not told of."""
        self.keeps = keeps
        self._store = store
        self._on_unknown = on_unknown
        self._rooms: EngineRooms
        self._life = ""
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._complete: set[RoomKey] = set()  # rooms of which the store had all, when it was last looked for
        self._touched: set[RoomKey] = set()
        self._calls: set[asyncio.Task[Sequence[Outcome]]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, rooms: EngineRooms) -> None:
        """Begin. The store is connected to when a room first needs it."""
        self._rooms = rooms
        self._tasks = [
            asyncio.create_task(self._write(), name="durable history"),
            asyncio.create_task(self._keep_trimming(), name="trimming of the durable history"),
        ]

    async def close(self) -> None:
        """Finish what was accepted."""
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
        """The outcomes once the store has what it is to keep of these batches."""
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
                "The engine has the message; whether its durable history has it is not known: "
                f"{failure or 'no answer in time'}. Publish again with the same id.",
                outcome_unknown=True,
            )
        self._touched.add(batch.room)
        return outcome._replace(durability=Durability.DURABLE)

    async def _entries(self, batch: Batch, outcome: Appended) -> Sequence[Entry]:
        """What the store may lack: the new entries, and those of before that it was never seen to get."""
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
                    raise StorageError("the room was filled meanwhile")
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
        raise StorageError("the room changes its epoch again and again")

    async def _write(self) -> None:
        """Everything that waits becomes one transaction, one after the other."""
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
        """The piece as the store will take it, whose epoch for the room is another one.

        Raises StorageError if the engine may not have the piece any more. Each change is made only to what
        was seen, so that none of them undoes what a node does meanwhile that fills the room.
        """
        room = piece.room
        if epoch == DELETED:
            raise StorageError("the room is being deleted")
        if (await self._rooms.head(room)).epoch != piece.epoch:
            raise StorageError("the room went on in another epoch")
        if epoch is not None and epoch > piece.epoch:  # a node meant to renew the room, and another one did
            head = await self._rooms.renew(room, piece.epoch, epoch)
            piece = piece._replace(epoch=head.epoch)
        await _soon(self._store.move_epoch(room, epoch, piece.epoch))
        return piece

    async def _complete_before(self, piece: Piece) -> Mapping[RoomKey, str] | None:
        """Give the store what it lacks before the piece: of a room that it never had, or had once, before
        it was put back in time, or of messages whose publishers were not told that they are kept.

        The room's epoch there; None if the store's life ended meanwhile.
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
                "a durable history has what it lacked", extra={"room": room.room, "messages": copied}
            )
        if len(self._complete) >= MOST_ROOMS:
            self._complete.clear()
        self._complete.add(room)
        return None

    # -- what a node asks that looks at a room

    async def top(self, room: RoomKey) -> Top | None:
        """How far the history has the room. Raises StorageError."""
        top = await _soon(self._store.top(room))
        if top is not None and top.epoch == DELETED:
            raise StorageError(f"The room {room.room} is being deleted. Delete it again, to the end.")
        return top

    async def raise_epoch(self, room: RoomKey, epoch: str) -> None:
        """Let nothing in that was appended in an epoch before this one. Raises StorageError."""
        await _soon(self._store.raise_epoch(room, epoch))

    async def after(self, room: RoomKey, sequence: int) -> Sequence[Entry]:
        """What follows, at most AT_ONCE. Raises StorageError."""
        return await _soon(self._store.after(room, sequence, AT_ONCE))

    async def delete(self, room: RoomKey) -> None:
        """Before the engine deletes the room: so that it does not come back. Raises StorageError."""
        self._touched.discard(room)
        await _soon(self._store.raise_epoch(room, DELETED))
        await _soon(self._store.trim(room, 1 << 62))

    async def deleted(self, room: RoomKey) -> None:
        """After the engine has deleted the room. Raises StorageError."""
        await _soon(self._store.forget(room))

    # -- retention

    async def _keep_trimming(self) -> None:
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            await self.trim()

    async def trim(self) -> None:
        """Remove what the engine no longer holds, of rooms that were written to since the last time."""
        touched, self._touched = self._touched, set()
        for room in touched:
            try:
                head = await self._rooms.head(room)
                await _soon(self._store.trim(room, head.first))
            except StorageError as failure:
                self._touched |= touched
                logger.warning("a durable history was not trimmed", extra={"reason": str(failure)})
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
