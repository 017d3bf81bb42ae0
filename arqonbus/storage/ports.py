"""Interfaces of the event log and its consumer groups. Pure declarations: no I/O, no engine named.

`EventLog`: append with dedup and sequence, range reads, live entries from other nodes, presence.
`ConsumerGroups`: distribution of a room's entries to workers. Every engine passes the same contract suite
(tests/contract/storage); bounds, order, limits and errors are the same everywhere. A log stores opaque bytes
and returns them unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from typing import NamedTuple, Protocol

from arqonbus.protocol.durability import Durability


class RoomKey(NamedTuple):
    """A room of one tenant. Both names are validated before a key is made."""

    tenant: str
    room: str


KEEP_NOTHING = -1


class Retention(NamedTuple):
    """Bounds of a room's log; 0 means unbounded. The bound that is reached first trims.

    With `max_messages` KEEP_NOTHING no entry is stored and existing ones are dropped. Sequences, dedup and
    live entries continue; the head has first = last + 1. Only append trims.
    """

    max_messages: int
    max_age_us: int


class Item(NamedTuple):
    """One message to append. `channel` is empty when the message has none."""

    id: str
    channel: str
    data: bytes


class Batch(NamedTuple):
    """The messages of one room in one tick, in order. `durability`: the level to reach; None: the log's."""

    room: RoomKey
    items: Sequence[Item]
    retention: Retention
    durability: Durability | None = None


class Appended(NamedTuple):
    """The outcome of one batch.

    `sequences` has one number per item. New items get consecutive numbers. An item whose id the room already
    has is not stored again: `duplicates` holds its index, and its number is that of the first one (0 if only
    the id is still remembered). `time_us` is the engine's clock and never decreases within a room.
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
    """Epoch and bounds of a room's log. `epoch` is empty and both numbers are 0 for a room that does not
    exist.

    `first` is the oldest sequence still held, `last` the highest ever assigned; an empty log after trimming
    has first = last + 1.
    """

    epoch: str
    first: int
    last: int


class Page(NamedTuple):
    """A slice of a room's log and the head, read atomically.

    Entries up to `base` are of epochs before the head's, which continues from there.
    """

    head: Head
    entries: Sequence[Entry]
    base: int = 0


class RoomMember(NamedTuple):
    """A client in a room, as other nodes see it. `info` is opaque to the store (JSON of the bus)."""

    client: str
    info: bytes


class RoomPage(NamedTuple):
    """Names of rooms of a tenant in ascending order. `more`: the limit cut the list."""

    rooms: Sequence[str]
    more: bool


class GroupKey(NamedTuple):
    """A consumer group of one room. The name is validated like a room's."""

    room: RoomKey
    name: str


FROM_BEGIN = 0
FROM_END = -1
MAX_GROUPS = 256  # of one room
OWN_GROUPS = "arqonbus."  # what the names of the bus's own groups begin with; no client can make one
MAX_OWN_GROUPS = 8  # of one room, on top of the others
MAX_IDS = 100_000  # of messages that a room remembers, in engines that keep them in one process
MAX_PENDING = 100_000  # jobs of one group


class GroupJob(NamedTuple):
    """One entry delivered to a consumer.

    `deliveries` counts the deliveries including this one. Of the previous delivery, one of these is set:
    `consumer`, whose lease ended, or `reason`, why the job was nacked.
    """

    entry: Entry
    deliveries: int
    consumer: str
    reason: str


class GroupRead(NamedTuple):
    """Jobs delivered to a consumer: redelivered jobs first, then new ones in sequence.

    `epoch` is the epoch of the jobs' log; empty while the room does not exist. If it differs from the one
    before, the room started over: the group delivers the new log from its first entry, and jobs of the old
    one count as missed. `missed`: entries counted in this call that the log no longer held when they were to
    be delivered or redelivered. `due_in_us`: if nothing was delivered although jobs are pending, the time
    until the first of them is due; else 0.
    """

    epoch: str
    jobs: Sequence[GroupJob]
    missed: int
    max_deliveries: int
    due_in_us: int = 0


class PendingJob(NamedTuple):
    """A job that was delivered and not acknowledged. Times are the engine's clock.

    `consumer` holds it until `due_us`; it is empty for a nacked job, which may be redelivered from `due_us`
    on.
    """

    sequence: int
    consumer: str
    deliveries: int
    delivered_us: int
    due_us: int
    reason: str


class GroupState(NamedTuple):
    """Progress of a group in the log `epoch` of its room.

    `given`: the highest sequence delivered or missed. `lag`: entries in the log after it. `pending`: jobs
    held by consumers, including those with an ended lease. `delayed`: nacked jobs. `missed`: see GroupRead,
    since the group was created.
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
    """A failure of the store. `outcome_unknown`: the write may or may not have happened."""

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class NotCapableError(StorageError):
    """The store lacks this capability, for this room or at this time. Nothing was changed."""


class NoSuchGroupError(StorageError):
    """The consumer group was never created, or was deleted."""


class TooManyGroupsError(StorageError):
    """The room has as many consumer groups as it may have."""


def is_own(group: GroupKey) -> bool:
    """True if it is the bus's own, and no client's."""
    return group.name.startswith(OWN_GROUPS)


def most_groups(group: GroupKey) -> int:
    """Groups of its kind that a room may have. The bus's own and those of clients are counted apart."""
    return MAX_OWN_GROUPS if is_own(group) else MAX_GROUPS


Outcome = Appended | StorageError  # of one batch


class LogListener:
    """Callbacks from a log to its node. Called on the event loop, never concurrently.

    This class ignores everything; subclasses override what they need.
    """

    def on_entries(self, room: RoomKey, epoch: str, entries: Sequence[Entry]) -> None:
        """Entries of a followed room, ascending within the call.

        Between calls, entries may be repeated, out of order or missing: the receiver orders them by sequence
        and reads gaps from the log.
        """

    def on_signal(self, room: RoomKey, data: bytes) -> None:
        """An unsequenced broadcast of another node to a followed room."""

    def on_direct(self, data: bytes) -> None:
        """Bytes that another node sent to this one."""

    def on_resync(self, rooms: Sequence[RoomKey]) -> None:
        """The live subscription was interrupted; entries of these rooms may have been missed."""

    def on_degraded(self, active: bool) -> None:
        """True: the engine is unreachable and the log continues in memory.

        False: the engine is back and complete.
        """

    def on_moved(self, room: RoomKey, epoch: str, position: int, known: Collection[str]) -> None:
        """The room was handed over to the engine and has this epoch: read it from after `position`.

        Messages with ids in `known` were already delivered on this node.
        """


class EventLog(Protocol):
    """The event log. Methods raise StorageError, and nothing else, when the engine fails."""

    @property
    def name(self) -> str:
        """The engine: memory, sqlite or valkey."""

    @property
    def shared(self) -> bool:
        """True if other nodes may append to the same log."""

    @property
    def durability(self) -> Durability:
        """The level that append reaches for a batch that names none."""

    @property
    def groups(self) -> ConsumerGroups | None:
        """The consumer groups of this log; None if the engine has none. Usable once the log is open."""

    async def open(self, listener: LogListener) -> None:
        """Connect, prepare the engine, start listening. Raises StorageError."""

    async def close(self) -> None:
        """Finish what was accepted, then release everything. Safe to call twice."""

    def append(self, batches: Sequence[Batch]) -> Sequence[Outcome] | Awaitable[Sequence[Outcome]]:
        """Store one tick's batches, each atomically, and return one outcome per batch, in order.

        Returns the outcomes directly if they are known at once (memory), else an awaitable of them. Calls may
        overlap; batches of the same room are stored in the order of the calls. Never raises for an engine
        failure: it is the outcome.
        """

    async def head(self, room: RoomKey) -> Head: ...

    async def read(self, room: RoomKey, after: int, until: int, limit: int) -> Page:
        """Oldest first: entries with after < sequence <= until (0: to the end), at most limit."""

    async def read_back(self, room: RoomKey, before: int, limit: int) -> Page:
        """Newest first: entries with sequence < before (0: from the end), at most limit."""

    async def seek(self, room: RoomKey, time_us: int) -> int:
        """The lowest held sequence whose time is >= time_us; last + 1 if there is none."""

    async def create_room(self, room: RoomKey) -> bool:
        """Add the room to the tenant's list and give it an epoch. False if it existed.

        append does this implicitly.
        """

    async def delete_room(self, room: RoomKey) -> bool:
        """Remove the room's log, ids and listing. The next append starts a new epoch. False if absent.

        Its consumer groups stay and continue with that epoch.
        """

    async def rooms(self, tenant: str, after: str, limit: int) -> RoomPage:
        """Names > after of rooms that were created or written to and not deleted."""

    async def tenants_of(self, room: str, after: str, limit: int) -> Sequence[str]:
        """Tenants > after, in ascending order, that have a room of this name; at most limit.

        Only for names passed to the constructor (`indexed_rooms`); others raise ValueError.
        """

    async def follow(self, room: RoomKey) -> Head:
        """Subscribe to entries and signals of the room.

        The listener gets all entries after the returned head.
        """

    async def unfollow(self, room: RoomKey) -> None: ...

    async def signal(self, room: RoomKey, data: bytes) -> None:
        """Broadcast to the other nodes that follow the room. Best effort, unordered with entries."""

    async def direct(self, node: str, data: bytes) -> bool:
        """Send bytes to another node. False if no such node listens."""

    async def enter(self, room: RoomKey, member: RoomMember) -> None:
        """List the client as present until leave, or until this node has not renewed it for 30 s."""

    async def leave(self, room: RoomKey, client: str) -> None: ...

    async def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """The clients in the room on all nodes, by client id, at most limit."""

    async def probe(self) -> float:
        """Write, read back and delete a value in the engine. Returns the seconds it took."""


class ConsumerGroups(Protocol):
    """Workers that share the entries of a room: each entry is delivered to one at a time, until it is
    acknowledged.

    Every call is atomic; delivery is at least once. A job belongs to a consumer until its lease ends, by the
    engine's clock; then it is redelivered. Retention also trims entries that a group has not read yet.
    Methods raise NoSuchGroupError for a group that does not exist, StorageError when the engine fails. An
    ack, nack or extension for another epoch than the group's does nothing.
    """

    async def ensure(self, group: GroupKey, start: int, max_deliveries: int) -> bool:
        """Create the group, and its room if it does not exist. False, and no change, if the group exists.

        `start`: FROM_BEGIN delivers all that the log holds, FROM_END new entries only, a sequence the entries
        after it. `max_deliveries` is only stored, for readers; 0 means no bound.
        """

    async def read(
        self, group: GroupKey, consumer: str, limit: int, lease_us: int, max_bytes: int
    ) -> GroupRead:
        """Deliver jobs that are due again, then new entries: at most `limit`, and none after their data
        exceeds `max_bytes`. At most MAX_PENDING jobs of a group are pending at a time.
        """

    async def ack(self, group: GroupKey, epoch: str, sequences: Sequence[int]) -> int:
        """Acknowledge jobs, regardless of their current holder. Returns how many of them were pending."""

    async def nack(
        self, group: GroupKey, epoch: str, consumer: str, sequence: int, delay_us: int, reason: str
    ) -> int:
        """Return a job to the group, for redelivery after the delay. Returns its deliveries; 0, and no
        change, if the consumer does not hold it.
        """

    async def extend(
        self, group: GroupKey, epoch: str, consumer: str, sequences: Sequence[int], lease_us: int
    ) -> Sequence[int]:
        """Let the leases end `lease_us` from now. Returns the sequences that the consumer still holds."""

    async def claim(
        self,
        group: GroupKey,
        epoch: str,
        consumer: str,
        sequences: Sequence[int],
        idle_us: int,
        lease_us: int,
    ) -> GroupRead:
        """Deliver these pending jobs to the consumer, regardless of their current holder, if their last
        delivery was at least `idle_us` ago. Counts as a delivery.
        """

    async def pending(self, group: GroupKey, after: tuple[int, int], limit: int) -> Sequence[PendingJob]:
        """Pending jobs in the order of (due_us, sequence), after `after`."""

    async def state(self, group: GroupKey) -> GroupState: ...

    async def delete(self, group: GroupKey) -> bool:
        """Remove the group; the room stays. False if there was none."""

    async def of_room(self, room: RoomKey) -> Sequence[GroupState]:
        """All groups of a room in the order of their names, at most MAX_GROUPS + MAX_OWN_GROUPS."""


__all__ = [
    "FROM_BEGIN",
    "FROM_END",
    "KEEP_NOTHING",
    "MAX_GROUPS",
    "MAX_IDS",
    "MAX_OWN_GROUPS",
    "MAX_PENDING",
    "OWN_GROUPS",
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
    "is_own",
    "most_groups",
]
