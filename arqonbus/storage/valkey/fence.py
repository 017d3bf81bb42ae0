"""Checks each room once after its server restarted, before anything is read from it or written to it.

The function library refuses rooms that were not checked under the server's current run; this module decides
whether a room is complete. Marks of what this node has seen are kept in memory and written to the witness
once a second, in one call for all rooms, never in the path of a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from arqonbus.protocol.ids import ulid_after
from arqonbus.storage.ports import Head, RoomKey, StorageError
from arqonbus.storage.valkey.engine import ValkeyEngine
from arqonbus.storage.valkey.keys import room_keys
from arqonbus.storage.valkey.refill import Refill
from arqonbus.storage.witness import Evidence, Incarnation, Mark, Standing, WitnessStore, is_whole

FLUSH_SECONDS = 1.0
ASK_SECONDS = 3.0  # for an answer of the witness, before it counts as unreachable
MOST_MARKS = 100_000
_TRIES = 10  # other nodes check the same room at the same time

logger = logging.getLogger(__name__)


class Fence:
    """Checks rooms of one engine. `seen`: (epoch, last) of rooms since the last write to the witness."""

    def __init__(
        self,
        engine: ValkeyEngine,
        witness: WitnessStore | None,
        refill: Refill | None = None,
    ) -> None:
        self.seen: dict[RoomKey, tuple[str, int]] = {}
        self.renewed = 0  # rooms that continued in a new epoch
        self._engine = engine
        self._witness = witness
        self._refill = refill
        self._marks: dict[RoomKey, Mark] = {}  # written to the witness, or about to be
        self._owed: set[RoomKey] = set()
        self._task: asyncio.Task[None] | None = None
        self._told = False

    def open(self) -> None:
        """Start writing marks to the witness."""
        self._task = asyncio.create_task(self._keep_writing(), name="witness of rooms")

    async def close(self) -> None:
        """Write the remaining marks, if the witness is reachable."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            await self.write()

    def run(self, slot: int) -> str:
        """Run id of the server of a slot. Raises StorageError while there is no connection."""
        return self._engine.link(slot).incarnation.run

    async def check(self, room: RoomKey) -> None:
        """Check the room, and continue it in a new epoch if its end may be lost. Raises StorageError.

        If several nodes check at once, one wins: the change is conditional on the state that was read. A room
        with a durable history is refilled with the messages that the engine lost, or created.
        """
        keys = room_keys(room)
        for _ in range(_TRIES):
            server = await self._engine.identity(keys.slot)
            reply = await self._engine.call(keys.slot, "HMGET", keys.meta, "epoch", "last", "run")
            refill = self._refill if self._refill is not None and self._refill.keeps(room) else None
            if reply[0] is None and refill is None:
                return
            held = Standing((reply[0] or b"").decode(), int(reply[1] or 0), (reply[2] or b"").decode())
            if held.run == server.run:
                return
            whole = bool(held.epoch) and is_whole(held, server, await self._evidence(room))
            if refill is None:
                epoch = "" if whole else ulid_after(held.epoch)
            elif filled := await refill.fill(room, held, whole=whole):
                held, epoch = filled
            else:
                continue
            arguments = (server.run, held.epoch, held.last, held.run, epoch)
            now, run = await self._engine.call(
                keys.slot, "FCALL", "arqonbus_renew", 2, keys.log, keys.meta, *arguments
            )
            if epoch and now == epoch.encode():
                self.renewed += 1
                logger.warning(
                    "a room continues in a new epoch: its engine may have lost messages",
                    extra={"room": room.room, "tenant": room.tenant, "last": held.last, "epoch": epoch},
                )
            if run == server.run.encode():
                return
        raise StorageError(f"The room {room.room} could not be checked: it changed {_TRIES} times meanwhile.")

    async def restore(self, room: RoomKey) -> bool:
        """Restore a room that is missing in the engine from its durable history. False if it has none."""
        if self._refill is None or not self._refill.keeps(room) or not await self._refill.is_known(room):
            return False
        await self.check(room)
        return True

    async def begin_epoch(self, room: RoomKey, after: str) -> Head:
        """Continue the room in an epoch greater than `after` and its current one. Returns its head."""
        return await self.renew(room, "", after)

    async def renew(self, room: RoomKey, epoch: str, after: str) -> Head:
        """Like begin_epoch, if the room is in this epoch (empty: in any). Raises StorageError."""
        keys = room_keys(room)
        for _ in range(_TRIES):
            run = self.run(keys.slot).encode()
            held = await self._engine.call(keys.slot, "HMGET", keys.meta, "epoch", "last", "run")
            if held[0] is None or held[2] != run or epoch not in ("", held[0].decode()):
                break
            fresh = ulid_after(max(after, held[0].decode()))
            arguments = (run, held[0], held[1], run, fresh)
            now, _ = await self._engine.call(
                keys.slot, "FCALL", "arqonbus_renew", 2, keys.log, keys.meta, *arguments
            )
            if now == fresh.encode():
                return Head(fresh, 0, int(held[1]))
        raise StorageError(f"The room {room.room} could not begin a new epoch: it changed meanwhile.")

    async def _evidence(self, room: RoomKey) -> Evidence:
        epoch, last = self.seen.get(room, ("", 0))
        own = [Mark(epoch, last, "")] if epoch else []
        own += [self._marks[room]] if room in self._marks else []
        siblings = {link.incarnation.run for link in self._engine.links()} if self._engine.cluster else ()
        known = self._engine.flushed_runs
        if self._witness is None:
            return Evidence(own, siblings, known)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                found = await self._witness.marks([room])
        except (StorageError, TimeoutError) as failure:
            logger.warning("the witness of the rooms is unreachable", extra={"reason": str(failure)})
            return Evidence(None, siblings, known)
        return Evidence([*own, *found.values()], siblings, known)

    def forget(self, room: RoomKey) -> None:
        """Drop the marks of a deleted room."""
        self.seen.pop(room, None)
        self._marks.pop(room, None)
        self._owed.discard(room)

    async def write(self) -> None:
        """Write the marks since the last time to the witness. On failure they are kept for the next time."""
        seen, self.seen = self.seen, {}
        if len(self._marks) + len(seen) > MOST_MARKS and self._witness is not None:
            for room in list(self._marks)[: len(seen) + MOST_MARKS // 10]:
                if room not in self._owed:
                    del self._marks[room]
        for room, (epoch, last) in seen.items():
            mark = Mark(epoch, last, self._run_or_nothing(room))
            self._marks[room] = max(mark, self._marks.get(room, mark))
            self._owed.add(room)
        if self._witness is None:
            self._owed.clear()
        elif self._owed:
            await self._hand_over(self._witness, {room: self._marks[room] for room in self._owed})

    async def _hand_over(self, witness: WitnessStore, marks: Mapping[RoomKey, Mark]) -> None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await witness.witness(marks)
        except (StorageError, TimeoutError) as failure:
            if not self._told:
                self._told = True
                logger.warning("the witness of the rooms cannot be written", extra={"reason": str(failure)})
            return
        self._owed -= marks.keys()
        self._told = False

    def _run_or_nothing(self, room: RoomKey) -> str:
        with contextlib.suppress(StorageError):
            return self.run(room_keys(room).slot)
        return ""

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.write()


__all__ = ["Fence", "Incarnation"]
