"""From the log to the projection: reads the tenants' events in batches, and commits each batch as a whole.

At least once in, idempotent at the store, acknowledged after the commit: a record is projected once, also
across crashes. An invalid event, or one that the store refuses for good, goes to the dead letters and does
not block others. While a store is unreachable, the projector keeps its jobs and waits; publishers are not
affected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
from google.protobuf.message import DecodeError

from arqonbus.config.capacity import PROJECTOR_BATCH_BYTES, PROJECTOR_BATCHES
from arqonbus.continuum.events import DEAD_ROOM, ROOM, InvalidEvent, encode_event, parse_event
from arqonbus.continuum.reflex import Boundary
from arqonbus.protocol.envelope import JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.errors import Code
from arqonbus.protocol.ids import derived_ulid
from arqonbus.storage.engines import names
from arqonbus.storage.ports import (
    FROM_BEGIN,
    Batch,
    ConsumerGroups,
    EventLog,
    GroupJob,
    GroupKey,
    GroupRead,
    Item,
    Retention,
    RoomKey,
    StorageError,
    TooManyGroupsError,
)
from arqonbus.storage.projection import (
    Arrival,
    DeadLetter,
    Origin,
    Projected,
    ProjectionStore,
    Tally,
    Unprojectable,
)

GROUP = "arqonbus.projector"  # clients may look at groups of this prefix, and no more
BATCH = 1000
LEASE_US = 30_000_000
DISCOVER_SECONDS = 2.0
RETIRE_SECONDS = 3600.0
IDLE_SECONDS = 5.0  # how often a quiet tenant is asked for jobs that another projector left behind
MAX_PAUSE_SECONDS = 5.0
PAGE_OF_TENANTS = 1000
MAX_SAMPLES = 10_000
DEAD_LETTER_NOTICES = Retention(10_000, 7 * 86_400_000_000)

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Calls back, on the event loop, whenever something may have been appended to the room.
Watch = Callable[[RoomKey, Callable[[], None]], Awaitable[None]]


@dataclass(slots=True)
class ProjectorCounters:
    """Totals since the start. `lag_seconds` are samples since the last scrape, bounded."""

    tally: Tally = field(default_factory=Tally)
    batches: int = 0
    missed: int = 0  # records that retention dropped before they were read
    failures: int = 0  # attempts that a store failed
    store_up: bool = True
    last_projected_us: int = 0
    lag_seconds: list[float] = field(default_factory=list)


class _LeasedJobs(NamedTuple):
    """Jobs of one tenant, held under one epoch."""

    tenant: str
    read: GroupRead


class EpisodeProjector:
    """One consumer of the group. Any number of them share the work, in one process or in many.

    `watch` tells of new entries; `clock_us` gives the wall clock, for the lag. `consumer` is a name that no
    other projector has.
    """

    def __init__(
        self,
        event_log: EventLog,
        store: ProjectionStore,
        *,
        consumer: str,
        watch: Watch,
        clock_us: Callable[[], int],
        batch: int = BATCH,
        retention: timedelta | None = None,
        boundary: Boundary | None = None,
    ) -> None:
        self._event_log = event_log
        self._groups: ConsumerGroups = _groups_of(event_log)
        self._store = store
        self._consumer = consumer
        self._watch = watch
        self._clock_us = clock_us
        self._batch = batch
        self._retention = retention
        self.boundary = boundary or Boundary()
        self.counters = ProjectorCounters()
        self._awake: dict[str, None] = {}
        self._known: set[str] = set()
        self._unprepared: set[str] = set()  # tenants that were found and could not be prepared yet
        self._work_to_do = asyncio.Event()
        self._waiting = 0  # attempts that failed and are made again
        self._stopping = False

    @property
    def tenants(self) -> int:
        """Number of tenants with events."""
        return len(self._known)

    def wake(self, tenant: str) -> None:
        """Something was published to the tenant's room."""
        self._awake[tenant] = None
        self._work_to_do.set()

    async def run(self) -> None:
        """Project until `stop`. Batches in progress are finished; unacknowledged jobs return to the group."""
        async with asyncio.TaskGroup() as tasks:
            aside = [tasks.create_task(self._discover(), name="projector tenants")]
            if self._retention is not None:
                aside.append(tasks.create_task(self._retire(self._retention), name="projector retention"))
            workers = [tasks.create_task(self._work(), name="projector") for _ in range(PROJECTOR_BATCHES)]
            await asyncio.wait(workers)
            for task in aside:
                task.cancel()

    def stop(self) -> None:
        """Let `run` end after the batches at hand."""
        self._stopping = True
        self._work_to_do.set()

    # -- who there is

    async def _discover(self) -> None:
        """Find tenants as they come, and look after the quiet ones now and then."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        while not self._stopping:
            for tenant in await self._patiently(self._new_tenants):
                self._known.add(tenant)
                self.wake(tenant)
            if loop.time() - asked >= IDLE_SECONDS:
                asked = loop.time()
                for tenant in self._known:
                    self.wake(tenant)
            await asyncio.sleep(DISCOVER_SECONDS)

    async def _new_tenants(self) -> Sequence[str]:
        """The tenants that could be prepared. Others are retried later and delay none of these."""
        found: list[str] = []
        failure: StorageError | None = None
        after = ""
        while page := await self._event_log.tenants_of(ROOM, after, PAGE_OF_TENANTS):
            for tenant in page:
                if tenant not in self._known:
                    try:
                        await self._prepare(tenant)
                    except StorageError as error:
                        failure = error
                        self._report(tenant, error)
                    else:
                        self._unprepared.discard(tenant)
                        found.append(tenant)
            after = page[-1]
        if failure is not None and not found and not isinstance(failure, TooManyGroupsError):
            raise failure  # it may be the store, and not a tenant
        return found

    async def _prepare(self, tenant: str) -> None:
        key = RoomKey(tenant, ROOM)
        await self._groups.ensure(GroupKey(key, GROUP), FROM_BEGIN, 0)
        await self._watch(key, partial(self.wake, tenant))

    def _report(self, tenant: str, error: StorageError) -> None:
        """Count it, and say once for each tenant that its events wait."""
        self.counters.failures += 1
        if tenant not in self._unprepared:
            self._unprepared.add(tenant)
            logger.error("the events of a tenant wait: %s", error, extra={"tenant": tenant})

    async def _retire(self, retention: timedelta) -> None:
        """Drop the months of events that are too old, now and then. Episodes stay."""
        while True:
            before = datetime.fromtimestamp(self._clock_us() / 1_000_000, UTC) - retention
            for name in await self._patiently(partial(self._store.retire, before)):
                logger.info("events were dropped by retention", extra={"partition": name})
            await asyncio.sleep(RETIRE_SECONDS)

    # -- work

    async def _work(self) -> None:
        while not self._stopping:
            if not self._awake:
                self._work_to_do.clear()
                await self._work_to_do.wait()
                continue
            hands = await self._patiently(self._read)
            if hands:
                await self._project(hands)

    async def _read(self) -> Sequence[_LeasedJobs]:
        """A batch, of as many tenants as it takes; each that has more is asked again after all others."""
        hands: list[_LeasedJobs] = []
        left, room = self._batch, PROJECTOR_BATCH_BYTES
        while self._awake and left > 0 and room > 0:
            tenant = next(iter(self._awake))
            del self._awake[tenant]
            try:
                read = await self._groups.read(_group(tenant), self._consumer, left, LEASE_US, room)
            except StorageError:
                self._awake[tenant] = None
                if hands:  # what was read is worked on; the failure will show again
                    return hands
                raise
            if read.missed:
                self._on_missed(tenant, read.missed)
            if read.jobs:
                hands.append(_LeasedJobs(tenant, read))
                left -= len(read.jobs)
                room -= sum(len(job.entry.data) for job in read.jobs)
                self._awake[tenant] = None
        return hands

    async def _project(self, hands: Sequence[_LeasedJobs]) -> None:
        arrivals: list[Arrival] = []
        dead: list[DeadLetter] = []
        for tenant, read in hands:
            for job in read.jobs:
                record = self._record(tenant, read.epoch, job)
                (dead if isinstance(record, DeadLetter) else arrivals).append(record)  # type: ignore[arg-type]
        outcome = await self._patiently(lambda: self._write(arrivals, dead), holding=hands)
        await self._announce(outcome.dead)
        for tenant, read in hands:
            sequences = [job.entry.sequence for job in read.jobs]
            done = partial(self._groups.ack, _group(tenant), read.epoch, sequences)
            await self._patiently(done)
        self._count(hands, outcome)

    def _record(self, tenant: str, epoch: str, job: GroupJob) -> Arrival | DeadLetter:
        entry = job.entry
        origin = Origin(ROOM, epoch, entry.sequence, entry.time_us)
        try:
            envelope = Envelope.FromString(entry.data)
        except DecodeError:
            return _dead_letter(tenant, origin, Code.DECODE_ERROR, "the record is no message", entry.data)
        try:
            return Arrival(parse_event(envelope.payload, tenant, boundary=self.boundary), origin)
        except InvalidEvent as error:
            return _dead_letter(
                tenant,
                origin,
                error.code,
                str(error),
                envelope.payload,
                agent=error.agent,
                event=error.event,
                context={
                    "faults": list(error.faults),
                    "message_id": envelope.id,
                    "deliveries": job.deliveries,
                },
            )

    async def _write(self, arrivals: Sequence[Arrival], dead: Sequence[DeadLetter]) -> Projected:
        try:
            return await self._store.project(arrivals, dead)
        except Unprojectable:
            return await self._one_by_one(arrivals, dead)

    async def _one_by_one(self, arrivals: Sequence[Arrival], dead: Sequence[DeadLetter]) -> Projected:
        """Find the records that the store refuses, and bury them; the others are projected."""
        whole = await self._store.project((), dead)
        for arrival in arrivals:
            try:
                part = await self._store.project((arrival,), ())
            except Unprojectable as error:
                part = await self._store.project((), (_refused(arrival, error),))
            whole = _joined(whole, part)
        return whole

    async def _announce(self, dead: Sequence[DeadLetter]) -> None:
        """Tell subscribers of new dead letters. The store is the truth: a notice that is lost, is lost."""
        batches: dict[str, list[Item]] = {}
        for letter in dead:
            batches.setdefault(letter.tenant, []).append(
                Item(letter.id, "", _notice(letter, self._clock_us()))
            )
        if not batches:
            return
        outcomes = self._event_log.append(
            [
                Batch(RoomKey(tenant, DEAD_ROOM), items, DEAD_LETTER_NOTICES)
                for tenant, items in batches.items()
            ]
        )
        for outcome in await outcomes if isinstance(outcomes, Awaitable) else outcomes:
            if isinstance(outcome, StorageError):
                logger.warning("subscribers were not told of dead letters: %s", outcome)

    # -- patience

    async def _patiently(self, attempt: Callable[[], Awaitable[T]], holding: Sequence[_LeasedJobs] = ()) -> T:
        """Try until the store can do it, ever more slowly; what is held meanwhile stays ours."""
        pause = 0.05
        waits = False
        while True:
            try:
                result = await attempt()
            except StorageError as error:
                self.counters.failures += 1
                if not waits:
                    waits = True
                    self._waiting += 1
                if self.counters.store_up:
                    self.counters.store_up = False
                    logger.error("the projector waits for a store: %s", error)
                if self._stopping:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_SECONDS)
                await self._keep(holding)
            else:
                # One store that works says nothing about the other one, which another worker waits for.
                self._waiting -= waits
                if not self._waiting and not self.counters.store_up:
                    self.counters.store_up = True
                    logger.info("the projector goes on")
                return result

    async def _keep(self, hands: Sequence[_LeasedJobs]) -> None:
        for tenant, read in hands:
            sequences = [job.entry.sequence for job in read.jobs]
            try:
                await self._groups.extend(_group(tenant), read.epoch, self._consumer, sequences, LEASE_US)
            except StorageError:
                return  # then they are projected twice, and counted as duplicates

    # -- counting

    def _count(self, hands: Sequence[_LeasedJobs], outcome: Projected) -> None:
        counters, now = self.counters, self._clock_us()
        counters.batches += 1
        for tally in outcome.tallies.values():
            counters.tally = counters.tally.plus(tally)
        for _, read in hands:
            for job in read.jobs:
                if len(counters.lag_seconds) < MAX_SAMPLES:
                    counters.lag_seconds.append(max(0, now - job.entry.time_us) / 1_000_000)
        counters.last_projected_us = now
        for event in outcome.stale:
            logger.info(
                "an event came too late and was not applied",
                extra={
                    "tenant": event.tenant,
                    "agent": event.agent,
                    "episode": event.episode,
                    "event": event.event,
                },
            )
        for letter in outcome.dead:
            logger.warning(
                "a record went to the dead letters",
                extra={
                    "tenant": letter.tenant,
                    "id": letter.id,
                    "code": letter.code,
                    "reason": letter.reason,
                },
            )

    def _on_missed(self, tenant: str, missed: int) -> None:
        self.counters.missed += missed
        logger.error(
            "records were dropped by the room's retention before they were projected; export them again",
            extra={"tenant": tenant, "missed": missed, "room": ROOM},
        )


def _groups_of(event_log: EventLog) -> ConsumerGroups:
    groups = event_log.groups
    if groups is None:
        raise StorageError(
            f"The engine {event_log.name} has no consumer groups, and the projector needs them; "
            f"set storage.backend to {names(lambda engine: engine.groups)}."
        )
    return groups


def _group(tenant: str) -> GroupKey:
    return GroupKey(RoomKey(tenant, ROOM), GROUP)


def _dead_letter(
    tenant: str,
    origin: Origin,
    code: str,
    reason: str,
    payload: bytes,
    *,
    agent: str = "",
    event: str = "",
    context: Mapping[str, object] | None = None,
) -> DeadLetter:
    return DeadLetter(
        id=derived_ulid(origin.time_us // 1000, "dead", tenant, origin.room, origin.epoch, origin.sequence),
        tenant=tenant,
        origin=origin,
        code=str(code),
        reason=reason[:4000],
        payload=payload,
        agent=agent,
        event=event,
        context=context or {},
    )


def _refused(arrival: Arrival, error: Unprojectable) -> DeadLetter:
    event, origin = arrival
    return _dead_letter(
        event.tenant,
        origin,
        Code.VALIDATION_ERROR,
        f"the store refuses it: {error}".replace("\0", ""),
        encode_event(event),
        agent=event.agent,
        event=event.event,
    )


def _joined(one: Projected, other: Projected) -> Projected:
    tallies = dict(one.tallies)
    for tenant, tally in other.tallies.items():
        tallies[tenant] = tallies.get(tenant, Tally()).plus(tally)
    return Projected(tallies, [*one.stale, *other.stale], [*one.dead, *other.dead])


def _notice(letter: DeadLetter, now_us: int) -> bytes:
    """The message that tells of a dead letter. It names what there is to look up, and repeats no payload."""
    told = {"id": letter.id, "code": letter.code, "reason": letter.reason, "agent_id": letter.agent}
    told |= {"event_id": letter.event, "room": letter.origin.room, "sequence": str(letter.origin.sequence)}
    envelope = Envelope(
        id=letter.id,
        kind=MESSAGE,
        tenant=letter.tenant,
        room=DEAD_ROOM,
        name="continuum.episode.dead",
        time_us=now_us,
        content_type=JSON_CONTENT,
        payload=msgspec.json.encode(told),
    )
    return envelope.SerializeToString()


__all__ = ["BATCH", "GROUP", "EpisodeProjector", "ProjectorCounters", "Watch"]
