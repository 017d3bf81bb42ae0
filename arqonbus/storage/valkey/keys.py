"""All keys and channels of the bus in Valkey. Pure.

All keys of a room carry the hash tag {<tenant>/<room>}, so that they are in one slot of a cluster. Names are
validated here again: a separator smuggled into a key would open another tenant's room.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache
from typing import NamedTuple

from arqonbus.protocol.names import is_name
from arqonbus.storage.ports import GroupKey, RoomKey, StorageError

SLOTS = 16384
GENERATION_KEY = "arqonbus:generation"  # without a cluster: the generation of the server's data


class RoomKeys(NamedTuple):
    """The keys of one room, its live channel, and their cluster slot."""

    log: str
    meta: str
    ids: str
    live: str
    expiry: str
    names: str
    info: str
    slot: int


class GroupKeys(NamedTuple):
    """The keys of one consumer group, those of its room that it needs, and their cluster slot."""

    log: str
    meta: str
    groups: str
    state: str
    due: str
    held: str
    slot: int


class Slotted(NamedTuple):
    """One key or channel and its cluster slot."""

    key: str
    slot: int


def slot_of(tag: str) -> int:
    """The cluster slot of a hash tag (CRC16/XMODEM modulo 16384, from the Valkey Cluster specification)."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def _checked(name: str, what: str) -> str:
    if not is_name(name):
        raise StorageError(
            f"The {what} {name!r} cannot be part of a Valkey key; names are 1-128 of A-Z a-z 0-9 . _ -"
        )
    return name


@lru_cache(maxsize=65536)
def room_keys(room: RoomKey) -> RoomKeys:
    """The keys of a room. Raises StorageError for an invalid name."""
    tenant, name = _checked(room.tenant, "tenant"), _checked(room.room, "room")
    tag = f"{tenant}/{name}"
    stem = f"tenant:{tenant}:room:{{{tag}}}:"
    parts = ("log", "meta", "ids", "live", "present:expiry", "present:names", "present:info")
    log, meta, ids, live, expiry, names, info = (stem + part for part in parts)
    return RoomKeys(log, meta, ids, live, expiry, names, info, slot_of(tag))


@lru_cache(maxsize=16384)
def group_keys(group: GroupKey) -> GroupKeys:
    """The keys of a consumer group. Raises StorageError for an invalid name."""
    room = room_keys(group.room)
    stem = f"{room.log.removesuffix('log')}group:{_checked(group.name, 'consumer group')}:"
    state, due, held = (stem + part for part in ("state", "due", "held"))
    return GroupKeys(room.log, room.meta, room_groups(group.room).key, state, due, held, room.slot)


def room_groups(room: RoomKey) -> Slotted:
    """The sorted set of the names of a room's consumer groups."""
    keys = room_keys(room)
    return Slotted(keys.log.removesuffix("log") + "groups", keys.slot)


def tenant_rooms(tenant: str) -> Slotted:
    """The sorted set of a tenant's rooms."""
    return Slotted(f"tenant:{{{_checked(tenant, 'tenant')}}}:rooms", slot_of(tenant))


def tenants_with(room: str) -> Slotted:
    """The sorted set of the tenants that have a room of this name."""
    tag = f"tenants/{_checked(room, 'room')}"
    return Slotted(f"arqonbus:{{{tag}}}", slot_of(tag))


def node_channel(node: str) -> Slotted:
    """The channel for messages to one node."""
    tag = f"node/{_checked(node, 'node')}"
    return Slotted(f"arqonbus:{{{tag}}}:direct", slot_of(tag))


def probe_key(node: str, number: int) -> Slotted:
    """A key for a health probe; `number` spreads the keys over the slots."""
    tag = f"probe/{_checked(node, 'node')}/{number}"
    return Slotted(f"arqonbus:{{{tag}}}", slot_of(tag))


__all__ = [
    "GENERATION_KEY",
    "SLOTS",
    "GroupKeys",
    "RoomKeys",
    "Slotted",
    "group_keys",
    "node_channel",
    "probe_key",
    "room_groups",
    "room_keys",
    "slot_of",
    "tenant_rooms",
    "tenants_with",
]
