"""What the bus asks of its stores. Pure declarations: no I/O, no backend named.

`EventLog` is the hot store: append with dedup and sequence, ranges, live entries from other nodes,
presence. `ConsumerGroups` hands the entries of a room to workers that share them. Every backend passes the
same contract suite (tests/contract/storage); bounds, order, limits and errors are the same everywhere. A log
stores bytes that are opaque to it and gives them back bit for bit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from typing import NamedTuple, Protocol

from arqonbus.protocol.durability import Durability


class RoomKey(NamedTuple):
    """A room is always a room of one tenant. Both names are validated before a key is made."""

    tenant: str
    room: str


KEEP_NOTHING = -1


class Retention(NamedTuple):
    """How much of a room's log is kept. Whichever bound is reached first trims; 0 means unbounded.

    `max_messages` KEEP_NOTHING stores no entry and drops those that are there. Sequence numbers, dedup and
    live entries go on; the head has first = last + 1. Trimming happens in append, and only there.
    """

    max_messages: int
    max_age_us: int


class Item(NamedTuple):
    """One message to append. `channel` is empty when the message has none."""

    id: str
    channel: str
    data: bytes


class Batch(NamedTuple):
    """The messages of one room in one tick, in order. `durability` is the level to reach; None: the log's."""

    room: RoomKey
    items: Sequence[Item]
    retention: Retention
    durability: Durability | None = None


class Appended(NamedTuple):
    """The outcome of one batch.

    `sequences` has one number per item. An item whose id the room already holds was not stored again:
    its index stands in `duplicates` and its number is the first one's (0 if that was so long ago that
    only the id is remembered). New items got consecutive numbers. `time_us` is the engine's clock,
    never less than that of an earlier append to the room.
    """

    epoch: str
    time_us: int
    sequences: Sequence[int]
    duplicates: frozenset[int]
    durability: Durability


class Entry(NamedTuple):
    """One stored message."""

    sequence: int
    time_us: int
    id: str
    channel: str
    data: bytes


class Head(NamedTuple):
    """Where a room's log stands. `epoch` is empty and both numbers are 0 for a room that does not exist.

    `first` is the oldest sequence still held, `last` the highest ever given; an empty log after trimming
    has first = last + 1.
    """

    epoch: str
    first: int
    last: int


class Page(NamedTuple):
    """A slice of a room's log together with the head it was read under, atomically.

    Entries up to `base` were given in epochs before the head's, which went on from there.
    """

    head: Head
    entries: Sequence[Entry]
    base: int = 0


class RoomMember(NamedTuple):
    """A client in a room, as other nodes see it. `info` is opaque to the store (JSON of the bus)."""

    client: str
    info: bytes


class RoomPage(NamedTuple):
    """Names of rooms of a tenant in ascending order. `more` says that the limit cut the list."""

    rooms: Sequence[str]
    more: bool


class GroupKey(NamedTuple):
    """A consumer group of one room. The name is validated as a room's is."""

    room: RoomKey
    name: str


FROM_BEGIN = 0
FROM_END = -1
MAX_GROUPS = 256  # of one room
MAX_PENDING = 100_000  # jobs of one group


class GroupJob(NamedTuple):
    """One entry in a consumer's hands.

    `deliveries` counts how often it was handed out, this time included. The others are of the time before:
    `consumer` is who let its lease run out, `reason` is why it was given back; one of them is empty.
    """

    entry: Entry
    deliveries: int
    consumer: str
    reason: str


class GroupRead(NamedTuple):
    """What a consumer was handed: jobs that came back first, then new ones in sequence.

    `epoch` is the log's that the jobs are of; empty while the room does not exist. When it is another one
    than before, the room began anew: the group gives the new log from its first entry, and what it had
    handed out of the old one counts as missed. `missed`: entries that the log no longer held when their
    turn came, for the first time or again, counted in this call. `due_in_us`: when nothing was handed out
    although jobs are pending, the time until the first of them is due; else 0.
    """

    epoch: str
    jobs: Sequence[GroupJob]
    missed: int
    max_deliveries: int
    due_in_us: int = 0


class PendingJob(NamedTuple):
    """A job that was handed out and not acked. Times are the engine's clock.

    `consumer` holds it until `due_us`; it is empty for a job that was given back and may be handed out
    again from `due_us` on.
    """

    sequence: int
    consumer: str
    deliveries: int
    delivered_us: int
    due_us: int
    reason: str


class GroupState(NamedTuple):
    """Where a group stands in the log `epoch` of its room.

    `given`: the highest sequence handed out or missed. `lag`: entries in the log behind it. `pending`: jobs
    that consumers hold, also those whose lease ran out. `delayed`: jobs that were given back. `missed`: see
    GroupRead, since the group was made.
    """

    name: str
    epoch: str
    given: int
    lag: int
    pending: int
    delayed: int
    missed: int
    max_deliveries: int


class StorageError(Exception):
    """The store could not do it. `outcome_unknown`: the write may or may not have happened."""

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class NotCapableError(StorageError):
    """The store has no such capability, or has it for other rooms, or not now. Nothing was changed."""


class NoSuchGroupError(StorageError):
    """The consumer group was never made, or was deleted."""


class TooManyGroupsError(StorageError):
    """The room has MAX_GROUPS consumer groups already."""


Outcome = Appended | StorageError  # of one batch


class LogListener:
    """How a log tells its node what happened elsewhere. Called on the event loop, never concurrently.

    This one ignores everything; what inherits from it overrides what it needs.
    """

    def on_entries(self, room: RoomKey, epoch: str, entries: Sequence[Entry]) -> None:
        """Entries of a followed room, ascending within the call.

        Entries may be repeated, may arrive out of order between calls, and may miss some: the receiver
        orders them by sequence and reads a gap from the log.
        """

    def on_signal(self, room: RoomKey, data: bytes) -> None:
        """An unsequenced broadcast of another node to a followed room."""

    def on_direct(self, data: bytes) -> None:
        """Bytes that another node sent to this one."""

    def on_resync(self, rooms: Sequence[RoomKey]) -> None:
        """The live subscription was interrupted; entries of these rooms may have been missed."""

    def on_degraded(self, active: bool) -> None:
        """The engine is unreachable and the log goes on without it, or it is back and has everything."""

    def on_moved(self, room: RoomKey, epoch: str, position: int, known: Collection[str]) -> None:
        """The room goes on in the engine, in this epoch: read it from behind the position.

        Messages with ids in `known` were delivered here before.
        """


class EventLog(Protocol):
    """The hot store. Methods raise StorageError, and nothing else, when the engine fails them."""

    @property
    def name(self) -> str:
        """The backend: memory, sqlite or valkey."""

    @property
    def shared(self) -> bool:
        """Whether other nodes may append to the same log."""

    @property
    def durability(self) -> Durability:
        """The level that append reaches where a batch names none."""

    @property
    def groups(self) -> ConsumerGroups | None:
        """The consumer groups of this log; None where the backend has none. Usable once the log is open."""

    async def open(self, listener: LogListener) -> None:
        """Connect, prepare the engine, start listening. Raises StorageError with a sentence."""

    async def close(self) -> None:
        """Finish what was accepted, then release everything. Safe to call twice."""

    def append(self, batches: Sequence[Batch]) -> Sequence[Outcome] | Awaitable[Sequence[Outcome]]:
        """Store one tick's batches, each atomically, and give one outcome per batch, in order.

        Returns at once where the outcome is known at once (memory); else an awaitable of it. Calls may
        overlap; batches of the same room are stored in the order of the calls. Never raises for an
        engine failure: the outcome says it.
        """

    async def head(self, room: RoomKey) -> Head: ...

    async def read(self, room: RoomKey, after: int, until: int, limit: int) -> Page:
        """Oldest first: entries with after < sequence <= until (until 0: to the end), at most limit."""

    async def read_back(self, room: RoomKey, before: int, limit: int) -> Page:
        """Newest first: entries with sequence < before (before 0: from the end), at most limit."""

    async def seek(self, room: RoomKey, time_us: int) -> int:
        """The lowest held sequence whose time is >= time_us; last + 1 if there is none."""

    async def create_room(self, room: RoomKey) -> bool:
        """Enter the room in the tenant's list and give it an epoch. False if it was there.

        append does this by itself.
        """

    async def delete_room(self, room: RoomKey) -> bool:
        """Remove the room's log, ids and listing. The next append starts a new epoch. False if absent.

        Its consumer groups stay, and go on with that epoch.
        """

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """Names > after of rooms that were created or written to and not deleted."""

    async def tenants_of(self, room: str, after: str, limit: int) -> Sequence[str]:
        """Tenants > after, in ascending order, that have a room of this name; at most limit.

        Only for names that the log was told at construction (`indexed_rooms`); others raise ValueError.
        """

    async def follow(self, room: RoomKey) -> Head:
        """Begin to hear of entries and signals of the room. Those after the returned head will be heard."""

    async def unfollow(self, room: RoomKey) -> None: ...

    async def signal(self, room: RoomKey, data: bytes) -> None:
        """Broadcast to the other nodes that follow the room. Best effort, unordered with entries."""

    async def direct(self, node: str, data: bytes) -> bool:
        """Send bytes to another node. False when no such node listens."""

    async def enter(self, room: RoomKey, member: RoomMember) -> None:
        """List the client as present until leave, or until this node stops renewing it (30 s)."""

    async def leave(self, room: RoomKey, client: str) -> None: ...

    async def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """The clients in the room on all nodes, by client id, at most limit."""

    async def probe(self) -> float:
        """Write, read back and delete a value for real; the seconds it took."""


class ConsumerGroups(Protocol):
    """Workers that share the entries of a room: each entry goes to one of them, until one has acked it.

    Every call is atomic and serves at least once. A job belongs to a consumer until its lease ends, by the
    engine's clock; then it is handed out again. Retention trims the log whatever a group has yet to read.
    Methods raise NoSuchGroupError for a group that does not exist, StorageError when the engine fails. An
    ack, a nack or an extension for another epoch than the group's does nothing.
    """

    async def ensure(self, group: GroupKey, start: int, max_deliveries: int) -> bool:
        """Make the group, and its room if there is none. False, and nothing is changed, if it is there.

        `start`: FROM_BEGIN gives all that the log holds, FROM_END what comes from now on, a sequence what
        comes after it. `max_deliveries` is only kept, for those who read; 0 means no bound.
        """

    async def read(
        self, group: GroupKey, consumer: str, limit: int, lease_us: int, max_bytes: int
    ) -> GroupRead:
        """Hand out jobs that are due again, then new entries. At most `limit`, and no further one once
        their data exceeds `max_bytes`. At most MAX_PENDING jobs of a group are pending at one time.
        """

    async def ack(self, group: GroupKey, epoch: str, sequences: Sequence[int]) -> int:
        """These are done, whoever holds them now. How many of them were pending."""

    async def nack(
        self, group: GroupKey, epoch: str, consumer: str, sequence: int, delay_us: int, reason: str
    ) -> int:
        """Give a job back, to be handed out again after the delay. Its deliveries; 0 if it was not held by
        the consumer, in which case nothing is changed.
        """

    async def extend(
        self, group: GroupKey, epoch: str, consumer: str, sequences: Sequence[int], lease_us: int
    ) -> Sequence[int]:
        """Let the leases end `lease_us` from now. Those of the sequences that the consumer still holds."""

    async def claim(
        self,
        group: GroupKey,
        epoch: str,
        consumer: str,
        sequences: Sequence[int],
        idle_us: int,
        lease_us: int,
    ) -> GroupRead:
        """Hand these pending jobs to the consumer, whoever holds them, if their last delivery was at least
        `idle_us` ago. It counts as a delivery.
        """

    async def pending(self, group: GroupKey, after: tuple[int, int], limit: int) -> Sequence[PendingJob]:
        """Pending jobs by (due_us, sequence), those greater than `after`."""

    async def state(self, group: GroupKey) -> GroupState: ...

    async def delete(self, group: GroupKey) -> bool:
        """Remove the group; the room stays. False if there was none."""

    async def of_room(self, room: RoomKey) -> Sequence[GroupState]:
        """All groups of a room by name; there are at most MAX_GROUPS."""


__all__ = [
    "FROM_BEGIN",
    "FROM_END",
    "KEEP_NOTHING",
    "MAX_GROUPS",
    "MAX_PENDING",
    "Appended",
    "Batch",
    "ConsumerGroups",
    "Durability",
    "Entry",
    "EventLog",
    "GroupJob",
    "GroupKey",
    "GroupRead",
    "GroupState",
    "Head",
    "Item",
    "LogListener",
    "NoSuchGroupError",
    "NotCapableError",
    "Outcome",
    "Page",
    "PendingJob",
    "Retention",
    "RoomKey",
    "RoomMember",
    "RoomPage",
    "StorageError",
    "TooManyGroupsError",
]
