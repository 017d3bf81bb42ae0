"""Consumer groups: reads that wait for jobs, and dead letters for jobs that failed too often.

The log hands out and counts; here is decided that a job was tried often enough. It then goes to the room
`<room>.dlq.<group>` with what is known about it, and only when it is stored there is it done with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from arqonbus.bus.commit import Receiver
from arqonbus.bus.follow import Follower
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.ids import derived_ulid
from arqonbus.storage.engines import names
from arqonbus.storage.ports import (
    KEEP_NOTHING,
    OWN_GROUPS,
    Batch,
    ConsumerGroups,
    Entry,
    EventLog,
    GroupJob,
    GroupKey,
    GroupRead,
    Item,
    Retention,
    RoomKey,
    StorageError,
)

MAX_WAIT = 30.0  # seconds that a read waits for work
MAX_BYTES = 256 * 1024  # of messages in one answer
RESERVED = OWN_GROUPS  # groups of the bus itself; no client takes their jobs
DEAD_LETTERS = Retention(100_000, 0)  # where the profile would keep nothing of them
UNDERTAKER = "arqonbus.dlq"  # the consumer that a job goes to after its last try
PAGE = 500

logger = logging.getLogger(__name__)


def dead_letter_room(group: GroupKey) -> str:
    """The name of the room of a group's dead letters. It can be too long for a name."""
    return f"{group.room.room}.dlq.{group.name}"


class Groups:
    """The groups of one log."""

    def __init__(
        self,
        event_log: EventLog,
        hub: Receiver,
        follower: Follower,
        retention: Callable[[RoomKey], Retention],
    ) -> None:
        self._event_log = event_log
        self._hub = hub
        self._follower = follower
        self._retention = retention
        self.dead_lettered = 0

    @property
    def available(self) -> bool:
        return self._event_log.groups is not None

    @property
    def store(self) -> ConsumerGroups:
        """The groups in the log. Raises CAPABILITY_UNAVAILABLE where it has none."""
        if self._event_log.groups is None:
            raise BusError(
                Code.CAPABILITY_UNAVAILABLE,
                f"the storage backend {self._event_log.name} has no consumer groups; "
                f"{names(lambda engine: engine.groups)} have them",
            )
        return self._event_log.groups

    async def read(self, group: GroupKey, consumer: str, limit: int, lease_us: int) -> GroupRead:
        """Lease the jobs that are due. Jobs that were tried too often become dead letters."""
        missed = 0
        while True:
            given = await self.store.read(group, consumer, limit, lease_us, MAX_BYTES)
            missed += given.missed
            most = given.max_deliveries
            worn = [job for job in given.jobs if most and job.deliveries > most]
            if worn:
                await self._bury(group, given.epoch, most, worn)
                given = given._replace(jobs=[job for job in given.jobs if job.deliveries <= most])
            if given.jobs or not worn:
                return given._replace(missed=missed)

    async def read_patiently(
        self, group: GroupKey, consumer: str, limit: int, lease_us: int, wait: float
    ) -> GroupRead:
        """As `read`, but wait up to so many seconds until there is something to tell."""
        deadline = asyncio.get_running_loop().time() + min(wait, MAX_WAIT)
        self._follower.pin(group.room)
        try:
            room = await self._follower.room(group.room)
            arrived = asyncio.Event()
            room.on_entries(arrived.set)
            try:
                return await self._read_when(arrived, deadline, group, consumer, limit, lease_us)
            finally:
                room.off_entries(arrived.set)
        finally:
            self._follower.unpin(group.room)

    async def _read_when(
        self,
        arrived: asyncio.Event,
        deadline: float,
        group: GroupKey,
        consumer: str,
        limit: int,
        lease_us: int,
    ) -> GroupRead:
        clock = asyncio.get_running_loop().time
        while True:
            arrived.clear()  # before the read: what comes after it is not overlooked
            given = await self.read(group, consumer, limit, lease_us)
            if given.jobs or given.missed or clock() >= deadline:
                return given
            due = clock() + given.due_in_us / 1_000_000 if given.due_in_us else deadline
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(due, deadline)):
                    await arrived.wait()

    async def nack(
        self, group: GroupKey, epoch: str, consumer: str, sequence: int, delay_us: int, reason: str
    ) -> int:
        """Give a job back; its deliveries, 0 if the consumer did not hold it. After its last try it becomes
        a dead letter at once.
        """
        most = (await self.store.state(group)).max_deliveries
        deliveries = await self.store.nack(group, epoch, consumer, sequence, delay_us, reason)
        if most and deliveries >= most:
            claimed = await self.store.claim(group, epoch, UNDERTAKER, [sequence], 0, 60_000_000)
            await self._bury(group, epoch, most, claimed.jobs)
        return deliveries

    async def give_up(self, group: GroupKey, epoch: str, job: GroupJob, reason: str) -> None:
        """Make a job a dead letter now, or when its lease has ended, because it can never be done."""
        await self._bury(group, epoch, 1, [job._replace(deliveries=job.deliveries + 1, reason=reason)])

    async def _bury(self, group: GroupKey, epoch: str, most: int, jobs: Sequence[GroupJob]) -> None:
        """Store the dead letters, then ack. What cannot be stored stays leased and is tried again later."""
        room = RoomKey(group.room.tenant, dead_letter_room(group))
        items = [_dead_letter(group, room.room, epoch, most, job) for job in jobs]
        try:
            # One delivery more than this was burying that broke off: it may be there already.
            held = [
                item
                for item, job in zip(items, jobs, strict=True)
                if job.deliveries == most + 1 or not await self._has(room, item.id, job.entry.time_us)
            ]
            await self._append(room, held)
            await self.store.ack(group, epoch, [job.entry.sequence for job in jobs])
        except StorageError as failure:
            logger.warning(
                "dead letters could not be stored; they are tried again when their lease ends",
                extra={"room": room.room, "jobs": len(jobs), "reason": str(failure)},
            )
            return
        self.dead_lettered += len(held)

    async def _append(self, room: RoomKey, items: Sequence[Item]) -> None:
        if not items:
            return
        retention = self._retention(room)
        if retention.max_messages == KEEP_NOTHING:
            retention = DEAD_LETTERS
        outcomes = self._event_log.append([Batch(room, items, retention)])
        (outcome,) = await outcomes if isinstance(outcomes, Awaitable) else outcomes
        if isinstance(outcome, StorageError):
            raise outcome
        entries = [
            Entry(sequence, outcome.time_us, *item)
            for index, (sequence, item) in enumerate(zip(outcome.sequences, items, strict=True))
            if index not in outcome.duplicates
        ]
        self._hub.deliver(room, outcome.epoch, entries)

    async def _has(self, room: RoomKey, message_id: str, since_us: int) -> bool:
        """True if the room holds the message. It is no older than the job, which bounds the search."""
        before = 0
        while True:
            entries = (await self._event_log.read_back(room, before, PAGE)).entries
            if any(entry.id == message_id for entry in entries):
                return True
            if not entries or entries[-1].time_us < since_us or entries[-1].sequence == 1:
                return False
            before = entries[-1].sequence


def _dead_letter(group: GroupKey, room: str, epoch: str, most: int, job: GroupJob) -> Item:
    entry = job.entry
    letter = Envelope.FromString(entry.data)
    letter.id = derived_ulid(entry.time_us // 1000, *group.room, group.name, epoch, entry.sequence)
    letter.room = room
    letter.headers["dlq.id"] = entry.id
    letter.headers["dlq.room"] = group.room.room
    letter.headers["dlq.group"] = group.name
    letter.headers["dlq.epoch"] = epoch
    letter.headers["dlq.sequence"] = str(entry.sequence)
    letter.headers["dlq.deliveries"] = str(min(job.deliveries - 1, most))
    if job.reason:
        letter.headers["dlq.reason"] = job.reason
    elif job.consumer:
        letter.headers["dlq.reason"] = f"the lease of {job.consumer} ran out"
    return Item(letter.id, entry.channel, letter.SerializeToString())


__all__ = ["MAX_BYTES", "MAX_WAIT", "RESERVED", "Groups", "dead_letter_room"]
