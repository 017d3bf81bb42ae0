"""op.rooms: join and leave, list, look at, create and delete rooms, and who is in them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from arqonbus.bus.fanout import Fanout
from arqonbus.bus.follow import unavailable
from arqonbus.bus.hub import EVERY_CHANNEL
from arqonbus.bus.membership import Joined
from arqonbus.bus.peer import Peer
from arqonbus.commands.table import Answer, Caller, Command
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.errors import BusError, Code, Invalid
from arqonbus.protocol.names import is_name
from arqonbus.protocol.wire_json import safe_integer
from arqonbus.shield.grants import ACTIONS
from arqonbus.storage.ports import RoomKey, StorageError

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Sequence_ = Annotated[int, msgspec.Meta(ge=0)] | str


class Since(msgspec.Struct, forbid_unknown_fields=True):
    """The last position that the client has seen."""

    epoch: str
    sequence: Sequence_


class JoinArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`channel`: only its messages. `since`: recover what came after. `presence`: hear who comes and goes."""

    room: str
    channel: str = EVERY_CHANNEL
    since: Since | None = None
    presence: bool = False


class PlaceArguments(msgspec.Struct, forbid_unknown_fields=True):
    """A room and, if need be, one of its channels."""

    room: str
    channel: str = EVERY_CHANNEL


class RoomArguments(msgspec.Struct, forbid_unknown_fields=True):
    """A room."""

    room: str


class PresenceArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`limit`: clients at most."""

    room: str
    limit: Limit = 100


class RoomListArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`after`: the last name of the previous page."""

    after: str = ""
    limit: Limit = 100


async def join(caller: Caller, arguments: JoinArguments) -> Any:
    node, peer = caller.node, caller.peer
    key = peer.session.demand("subscribe", arguments.room)
    if arguments.presence:
        peer.session.demand("presence", arguments.room)
    if arguments.channel and not is_name(arguments.channel):
        raise Invalid("channel", "channel is not 1-128 of A-Z a-z 0-9 . _ -")
    since = None
    if arguments.since is not None:
        since = Position(arguments.since.epoch, _number(arguments.since.sequence))
    joined = await node.membership.join(peer, key, arguments.channel, since=since, watch=arguments.presence)
    return _joined(peer, joined, arguments)


def _joined(peer: Peer, joined: Joined, arguments: JoinArguments) -> Answer:
    """The reply and what was missed, which go out before anything that is new."""
    room, missed = joined.room, joined.missed
    result: dict[str, Any] = {
        "room": room.key.room,
        "position": {"epoch": room.order.epoch, "sequence": safe_integer(room.order.position)},
    }
    if arguments.channel:
        result["channel"] = arguments.channel
    if arguments.since is not None:
        result["recovered"] = missed is not None
        result["missed"] = len(missed or ())
    epoch = room.order.epoch

    def send_missed() -> None:
        if missed:
            recovered = Fanout(room.key, epoch, missed, room.settings.slow_consumer)
            peer.queue.granted += len(recovered.frame(peer.queue.wire))
            peer.queue.push(recovered)

    return Answer(result, send_missed)


async def leave(caller: Caller, arguments: PlaceArguments) -> dict[str, Any]:
    key = RoomKey(caller.peer.session.identity.tenant, arguments.room)
    if arguments.channel not in caller.peer.rooms.get(key, ()):
        raise BusError(Code.NOT_FOUND, "the client is not in that room or channel")
    caller.node.membership.leave(caller.peer, key, arguments.channel)
    return {"room": arguments.room}


async def list_(caller: Caller, arguments: RoomListArguments) -> dict[str, Any]:
    session = caller.peer.session
    try:
        page = await caller.node.event_log.rooms(session.identity.tenant, arguments.after, arguments.limit)
    except StorageError as failure:
        raise unavailable(failure) from failure
    visible = [room for room in page.rooms if any(session.may(action, room) for action in ACTIONS)]
    result: dict[str, Any] = {"rooms": visible}
    if page.more:
        result["cursor"] = page.rooms[-1]
    return result


async def info(caller: Caller, arguments: RoomArguments) -> dict[str, Any]:
    key = caller.peer.session.demand("subscribe", arguments.room)
    try:
        head = await caller.node.event_log.head(key)
        present = await caller.node.event_log.present(key, 100_000)
    except StorageError as failure:
        raise unavailable(failure) from failure
    if not head.epoch:
        raise BusError(Code.NOT_FOUND, "there is no such room in this tenant")
    settings = caller.node.room_settings.of(arguments.room)
    return {
        "room": arguments.room,
        "epoch": head.epoch,
        "first": safe_integer(head.first),
        "last": safe_integer(head.last),
        "clients": len(present),
        "history": settings.history,
        "slow_consumer": settings.slow_consumer,
    }


async def create(caller: Caller, arguments: RoomArguments) -> dict[str, Any]:
    key = caller.peer.session.demand("manage", arguments.room)
    try:
        created = await caller.node.event_log.create_room(key)
    except StorageError as failure:
        raise unavailable(failure) from failure
    if not created:
        raise BusError(Code.CONFLICT, "the room exists already")
    return {"room": arguments.room}


async def delete(caller: Caller, arguments: RoomArguments) -> dict[str, Any]:
    key = caller.peer.session.demand("manage", arguments.room)
    try:
        deleted = await caller.node.event_log.delete_room(key)
    except StorageError as failure:
        raise unavailable(failure) from failure
    if not deleted:
        raise BusError(Code.NOT_FOUND, "there is no such room in this tenant")
    return {"room": arguments.room}


async def presence(caller: Caller, arguments: PresenceArguments) -> dict[str, Any]:
    key = caller.peer.session.demand("presence", arguments.room)
    return {"room": arguments.room, "clients": await caller.node.presence.members(key, arguments.limit)}


def _number(sequence: int | str) -> int:
    if isinstance(sequence, str):
        if not (sequence.isascii() and sequence.isdigit() and len(sequence) <= 20):
            raise Invalid("since.sequence", "since.sequence is not a decimal integer")
        return int(sequence)
    return sequence


COMMANDS = (
    Command("op.rooms.join", "Subscribe to a room, from now on or after a position.", JoinArguments, join),
    Command("op.rooms.leave", "Unsubscribe from a room.", PlaceArguments, leave),
    Command("op.rooms.list", "List the names of the tenant's rooms, in order.", RoomListArguments, list_),
    Command(
        "op.rooms.info", "Show the head, the oldest message and the settings of a room.", RoomArguments, info
    ),
    Command("op.rooms.create", "Create an empty room.", RoomArguments, create),
    Command("op.rooms.delete", "Delete a room with all its messages.", RoomArguments, delete),
    Command("op.rooms.presence", "List the clients in a room, on all nodes.", PresenceArguments, presence),
)

__all__ = ["COMMANDS"]
