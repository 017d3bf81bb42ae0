"""op.groups: workers that share the messages of a room, each message for one of them until it is acked.

All of it needs the grant `consume` in the room, and nothing else gives it: who may only subscribe takes no
job away from the workers. `delete` needs `manage` instead. Groups whose name begins with `arqonbus.` are the
bus's own: they can be looked at here and no more. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from arqonbus.bus.follow import unavailable
from arqonbus.bus.groups import MAX_WAIT, RESERVED, dead_letter_room
from arqonbus.commands.rooms import RoomArguments
from arqonbus.commands.table import Caller, Command, Waiting
from arqonbus.config.rooms import Action
from arqonbus.protocol import wire_json
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code, Invalid
from arqonbus.protocol.names import is_name
from arqonbus.protocol.wire_json import format_time, safe_integer
from arqonbus.protocol.wire_protobuf import stamped
from arqonbus.storage.ports import (
    FROM_BEGIN,
    FROM_END,
    GroupKey,
    GroupRead,
    GroupState,
    NoSuchGroupError,
    PendingJob,
    StorageError,
    TooManyGroupsError,
)

T = TypeVar("T")

MAX_WAITING = 64  # reads of one connection that wait at one time

Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]
Lease = Annotated[float, msgspec.Meta(ge=0.1, le=43_200)]
Delay = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Wait = Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT)]
Sequence_ = Annotated[int, msgspec.Meta(ge=0)] | str
Sequences = Annotated[list[Sequence_], msgspec.Meta(min_length=1, max_length=1000)]
Reason = Annotated[str, msgspec.Meta(max_length=500)]


class GroupArguments(msgspec.Struct, forbid_unknown_fields=True):
    """A consumer group of a room."""

    room: str
    group: str


class EnsureArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`start`: begin gives all that the room holds, end what comes from now on, a sequence what comes after
    it. `max_deliveries`: after so many attempts a message moves to the room <room>.dlq.<group>; 0: no limit.
    """

    room: str
    group: str
    start: Literal["begin", "end"] | Annotated[int, msgspec.Meta(ge=1)] = "begin"
    max_deliveries: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5


class ReadArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`lease`: how long the jobs are this consumer's. `wait`: how long to wait while there is none."""

    room: str
    group: str
    consumer: str
    limit: Limit = 10
    lease: Lease = 30.0
    wait: Wait = 0.0


class AckArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`epoch` and `sequences` as the jobs have them."""

    room: str
    group: str
    epoch: str
    sequences: Sequences


class NackArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`delay`: before it is handed out again. `reason`: for the next consumer, or the dead letters."""

    room: str
    group: str
    epoch: str
    consumer: str
    sequence: Sequence_
    delay: Delay = 0.0
    reason: Reason = ""


class ExtendArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`lease`: from now."""

    room: str
    group: str
    epoch: str
    consumer: str
    sequences: Sequences
    lease: Lease = 30.0


class ClaimArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`idle`: only jobs that were handed out at least so long ago."""

    room: str
    group: str
    epoch: str
    consumer: str
    sequences: Annotated[list[Sequence_], msgspec.Meta(min_length=1, max_length=100)]
    idle: Delay = 0.0
    lease: Lease = 30.0


class PendingArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`cursor`: the previous page's."""

    room: str
    group: str
    limit: Limit = 100
    cursor: str = ""


async def ensure(caller: Caller, arguments: EnsureArguments) -> dict[str, Any]:
    group = _own_group(caller, arguments.room, arguments.group)
    if arguments.max_deliveries and not is_name(dead_letter_room(group)):
        raise Invalid("group", "the names of room and group are too long for a room <room>.dlq.<group>")
    start = {"begin": FROM_BEGIN, "end": FROM_END}.get(str(arguments.start))
    if start is None:
        start = int(arguments.start)
    made = await _stored(caller.node.groups.store.ensure(group, start, arguments.max_deliveries))
    return {"room": arguments.room, "group": arguments.group, "created": made}


async def read(caller: Caller, arguments: ReadArguments) -> Any:
    group = _own_group(caller, arguments.room, arguments.group)
    consumer = _consumer(arguments.consumer)
    groups = caller.node.groups
    asked = (group, consumer, arguments.limit, _us(arguments.lease))
    given = await _stored(groups.read(*asked))
    if given.jobs or given.missed or not arguments.wait:
        return _jobs(group, given)
    if len(caller.peer.later or ()) >= MAX_WAITING:
        raise BusError(Code.RATE_LIMITED, "too many reads wait already", retry_after_ms=500)

    async def wait() -> dict[str, Any]:
        given = await _stored(groups.read_patiently(*asked, arguments.wait))
        caller.peer.session.demand("consume", arguments.room)  # the token may have been renewed meanwhile
        return _jobs(group, given)

    return Waiting(wait)


async def ack(caller: Caller, arguments: AckArguments) -> dict[str, Any]:
    group = _own_group(caller, arguments.room, arguments.group)
    sequences = _numbers(arguments.sequences)
    return {"acked": await _stored(caller.node.groups.store.ack(group, arguments.epoch, sequences))}


async def nack(caller: Caller, arguments: NackArguments) -> dict[str, Any]:
    group = _own_group(caller, arguments.room, arguments.group)
    deliveries = await _stored(
        caller.node.groups.nack(
            group,
            arguments.epoch,
            _consumer(arguments.consumer),
            _number("sequence", arguments.sequence),
            _us(arguments.delay),
            arguments.reason,
        )
    )
    if not deliveries:
        raise BusError(
            Code.CONFLICT, "the consumer does not hold that job; its lease ran out, or it was acked"
        )
    return {"deliveries": deliveries}


async def extend(caller: Caller, arguments: ExtendArguments) -> dict[str, Any]:
    group = _own_group(caller, arguments.room, arguments.group)
    consumer, sequences = _consumer(arguments.consumer), _numbers(arguments.sequences)
    held = await _stored(
        caller.node.groups.store.extend(group, arguments.epoch, consumer, sequences, _us(arguments.lease))
    )
    return {"extended": [safe_integer(sequence) for sequence in held]}


async def claim(caller: Caller, arguments: ClaimArguments) -> dict[str, Any]:
    group = _own_group(caller, arguments.room, arguments.group)
    consumer, sequences = _consumer(arguments.consumer), _numbers(arguments.sequences)
    times = (_us(arguments.idle), _us(arguments.lease))
    return _jobs(
        group,
        await _stored(caller.node.groups.store.claim(group, arguments.epoch, consumer, sequences, *times)),
    )


async def pending(caller: Caller, arguments: PendingArguments) -> dict[str, Any]:
    group = _group(caller, "consume", arguments.room, arguments.group)
    after = _cursor(arguments.cursor)
    jobs = await _stored(caller.node.groups.store.pending(group, after, arguments.limit))
    result: dict[str, Any] = {"room": arguments.room, "group": arguments.group}
    result["jobs"] = [_pending(job) for job in jobs]
    if len(jobs) == arguments.limit:
        result["cursor"] = f"{jobs[-1].due_us}:{jobs[-1].sequence}"
    return result


async def state(caller: Caller, arguments: GroupArguments) -> dict[str, Any]:
    group = _group(caller, "consume", arguments.room, arguments.group)
    return {"room": arguments.room, **_state(await _stored(caller.node.groups.store.state(group)))}


async def list_(caller: Caller, arguments: RoomArguments) -> dict[str, Any]:
    key = caller.peer.session.demand("consume", arguments.room)
    groups = await _stored(caller.node.groups.store.of_room(key))
    return {"room": arguments.room, "groups": [_state(group) for group in groups]}


async def delete(caller: Caller, arguments: GroupArguments) -> dict[str, Any]:
    group = _own_group(caller, arguments.room, arguments.group, "manage")
    if not await _stored(caller.node.groups.store.delete(group)):
        raise _no_such_group()
    return {"room": arguments.room, "group": arguments.group}


# -- arguments


def _group(caller: Caller, action: Action, room: str, name: str) -> GroupKey:
    key = caller.peer.session.demand(action, room)
    if not is_name(name):
        raise Invalid("group", "group is not 1-128 of A-Z a-z 0-9 . _ -")
    return GroupKey(key, name)


def _own_group(caller: Caller, room: str, name: str, action: Action = "consume") -> GroupKey:
    """A group that clients may work in."""
    group = _group(caller, action, room, name)
    if name.startswith(RESERVED):
        raise BusError(
            Code.AUTHORIZATION_ERROR,
            f"groups that begin with {RESERVED} are the bus's own",
        )
    return group


def _consumer(name: str) -> str:
    if not is_name(name):
        raise Invalid("consumer", "consumer is not 1-128 of A-Z a-z 0-9 . _ -")
    return name


def _number(argument: str, sequence: int | str) -> int:
    if isinstance(sequence, str):
        if not (sequence.isascii() and sequence.isdigit() and len(sequence) <= 20):
            raise Invalid(argument, f"{argument} is not a decimal integer")
        sequence = int(sequence)
    if sequence >= 1 << 53:
        raise Invalid(argument, f"{argument} is greater than any sequence")
    return sequence


def _numbers(sequences: Sequence[int | str]) -> list[int]:
    return [_number("sequences", sequence) for sequence in sequences]


def _cursor(cursor: str) -> tuple[int, int]:
    if not cursor:
        return 0, 0
    due, _, sequence = cursor.partition(":")
    if not all(part.isascii() and part.isdigit() and len(part) <= 16 for part in (due, sequence)):
        raise Invalid("cursor", "cursor is not one that this operation gave")
    return int(due), int(sequence)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


# -- results


async def _stored(work: Awaitable[T]) -> T:
    try:
        return await work
    except NoSuchGroupError:
        raise _no_such_group() from None
    except TooManyGroupsError as failure:
        raise BusError(Code.CONFLICT, str(failure)) from failure
    except StorageError as failure:
        raise unavailable(failure) from failure


def _no_such_group() -> BusError:
    return BusError(Code.NOT_FOUND, "there is no such consumer group; op.groups.ensure makes it")


def _jobs(group: GroupKey, given: GroupRead) -> dict[str, Any]:
    jobs = []
    for entry, deliveries, consumer, reason in given.jobs:
        data = stamped(entry.data, given.epoch, entry.time_us, entry.sequence)
        job: dict[str, Any] = {
            "message": msgspec.Raw(wire_json.encode(Envelope.FromString(data))),
            "deliveries": deliveries,
        }
        if consumer:
            job["consumer"] = consumer
        if reason:
            job["reason"] = reason
        jobs.append(job)
    result: dict[str, Any] = {
        "room": group.room.room,
        "group": group.name,
        "epoch": given.epoch,
        "jobs": jobs,
    }
    if given.missed:
        result["missed"] = given.missed
    return result


def _pending(job: PendingJob) -> dict[str, Any]:
    listed = {
        "sequence": safe_integer(job.sequence),
        "deliveries": job.deliveries,
        "delivered_at": format_time(job.delivered_us),
        "due_at": format_time(job.due_us),
    }
    if job.consumer:
        listed["consumer"] = job.consumer
    if job.reason:
        listed["reason"] = job.reason
    return listed


def _state(group: GroupState) -> dict[str, Any]:
    facts = group._asdict()
    facts["group"] = facts.pop("name")
    for number in ("given", "lag", "missed"):
        facts[number] = safe_integer(facts[number])
    return facts


COMMANDS = (
    Command("op.groups.ensure", "Create a consumer group, unless it exists.", EnsureArguments, ensure),
    Command("op.groups.read", "Lease jobs; wait for some if there are none.", ReadArguments, read),
    Command("op.groups.ack", "Acknowledge jobs.", AckArguments, ack),
    Command("op.groups.nack", "Return a job, to be retried after a delay.", NackArguments, nack),
    Command("op.groups.extend", "Extend the leases of jobs.", ExtendArguments, extend),
    Command("op.groups.pending", "List leased jobs that are not acknowledged.", PendingArguments, pending),
    Command(
        "op.groups.claim", "Transfer leased jobs of another consumer to this one.", ClaimArguments, claim
    ),
    Command(
        "op.groups.state", "Show the position and the counts of a consumer group.", GroupArguments, state
    ),
    Command("op.groups.list", "List the consumer groups of a room.", RoomArguments, list_),
    Command("op.groups.delete", "Delete a consumer group.", GroupArguments, delete),
)

__all__ = ["COMMANDS"]
