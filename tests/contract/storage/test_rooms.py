"""The list of rooms, presence and the probe, on every backend."""

from __future__ import annotations

import pytest

from arqonbus.storage.ports import EventLog, RoomKey, RoomMember

from .conftest import INDEXED, Bench, append


async def test_rooms_in_pages(bench: Bench, log: EventLog) -> None:
    """Rooms come in ascending order, in pages that say whether there is more."""
    names = ["b", "a.b", "Z", "a", "a-b", "c1", "c10", "c2"]
    for name in names:
        await append(log, bench.room(name), "id")
    expected = sorted(names)
    assert await log.rooms(bench.tenant, "", 100) == (expected, False)
    assert await log.rooms(bench.tenant, "", 8) == (expected, False)
    assert await log.rooms(bench.tenant, "", 3) == (expected[:3], True)
    assert await log.rooms(bench.tenant, expected[2], 3) == (expected[3:6], True)
    assert await log.rooms(bench.tenant, expected[-1], 3) == ([], False)
    assert await log.rooms(bench.tenant, "aa", 1) == (["b"], True)


async def test_create_room(log: EventLog, room: RoomKey) -> None:
    """A room can be created before it is written to, once; its epoch is the one of its first message."""
    assert await log.create_room(room)
    assert not await log.create_room(room)
    assert (await log.rooms(room.tenant, "", 10)).rooms == [room.room]
    head = await log.head(room)
    assert (head.first, head.last, len(head.epoch)) == (1, 0, 26)
    first = await append(log, room, "a")
    assert (list(first.sequences), first.epoch) == ([1], head.epoch)
    assert not await log.create_room(room)


async def test_delete_created_room(log: EventLog, room: RoomKey) -> None:
    """A room that was created but never written to can be deleted."""
    await log.create_room(room)
    assert await log.delete_room(room)
    assert not await log.delete_room(room)
    assert (await log.rooms(room.tenant, "", 10)).rooms == []


async def test_other_node_deletes(shared_bench: Bench) -> None:
    """A room that another node deleted is listed again once this node writes to it."""
    one, two = await shared_bench.log(), await shared_bench.log()
    room = shared_bench.room()
    before = await append(one, room, "a")
    assert await two.delete_room(room)
    assert (await one.rooms(room.tenant, "", 10)).rooms == []
    after = await append(one, room, "a")
    assert after.epoch != before.epoch
    assert (await one.rooms(room.tenant, "", 10)).rooms == [room.room]


async def test_tenants_of_a_room(bench: Bench, log: EventLog) -> None:
    """The tenants that have a room of an indexed name are found in order, until they delete it."""
    tenants = [f"{bench.tenant}-{letter}" for letter in "cab"]
    for tenant in tenants:
        await append(log, RoomKey(tenant, INDEXED), "id")
        await append(log, RoomKey(tenant, "other"), "id")
    await log.create_room(RoomKey(f"{bench.tenant}-d", INDEXED))
    found = [f"{bench.tenant}-{letter}" for letter in "abcd"]
    assert list(await log.tenants_of(INDEXED, f"{bench.tenant}-", 4)) == found
    assert list(await log.tenants_of(INDEXED, f"{bench.tenant}-", 2)) == found[:2]
    assert list(await log.tenants_of(INDEXED, found[1], 2)) == found[2:]
    assert list(await log.tenants_of(INDEXED, "", 0)) == []
    await log.delete_room(RoomKey(found[1], INDEXED))
    assert list(await log.tenants_of(INDEXED, f"{bench.tenant}-", 3)) == [found[0], *found[2:]]


async def test_tenants_of_a_name_without_index(shared_bench: Bench) -> None:
    """Where an index is kept, a name that has none is refused rather than answered with nobody."""
    log = await shared_bench.log()
    with pytest.raises(ValueError, match="does not index the rooms named 'other'"):
        await log.tenants_of("other", "", 10)


async def test_presence(log: EventLog, room: RoomKey) -> None:
    """Clients are present from enter to leave, by id, with the info of their last enter."""
    assert list(await log.present(room, 10)) == []
    for client in ("c", "a", "b"):
        await log.enter(room, RoomMember(client, client.encode() * 2))
    await log.enter(room, RoomMember("a", b"\x00\xff"))
    assert list(await log.present(room, 10)) == [("a", b"\x00\xff"), ("b", b"bb"), ("c", b"cc")]
    assert [member.client for member in await log.present(room, 2)] == ["a", "b"]
    assert list(await log.present(room, 0)) == []
    await log.leave(room, "b")
    await log.leave(room, "nobody")
    assert [member.client for member in await log.present(room, 10)] == ["a", "c"]


async def test_presence_is_per_room(bench: Bench, log: EventLog) -> None:
    """A client in one room is not in another, nor in one of equal name under another tenant."""
    await log.enter(bench.room("one"), RoomMember("a", b""))
    assert list(await log.present(bench.room("two"), 10)) == []
    assert list(await log.present(RoomKey(bench.tenant + "-other", "one"), 10)) == []


async def test_probe(log: EventLog) -> None:
    """A probe of a healthy log gives the seconds it took and leaves nothing behind."""
    assert 0 < await log.probe() < 10
    assert 0 < await log.probe() < 10


async def test_closed_twice(log: EventLog) -> None:
    """Closing a log a second time does nothing."""
    await log.close()
    await log.close()
