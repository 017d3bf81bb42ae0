"""Live entries, signals and direct messages between nodes over a shared engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from arqonbus.storage.ports import KEEP_NOTHING, Item, Retention, RoomMember

from .conftest import Bench, Ear, append, append_items


async def heard(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Return when the condition holds; fail after a deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited {seconds:g} s for {what}"
        await asyncio.sleep(0.005)


async def test_followed_room_is_heard(shared_bench: Bench) -> None:
    """Entries after the head that follow gave are heard with all that a read would give."""
    ear = Ear()
    here, there = await shared_bench.log(ear), await shared_bench.log()
    room = shared_bench.room()
    first = await append(there, room, "before")
    assert await here.follow(room) == (first.epoch, 1, 1)
    await append_items(there, room, [Item("a", "", b""), Item("b", "kanal.ä", bytes(range(256)))])
    await append(there, room, "a", "c")
    await heard(lambda: len(ear.entries) >= 3, "three entries")
    page = await here.read(room, 1, 0, 10)
    assert ear.entries == [(room, first.epoch, entry) for entry in page.entries]


async def test_first_epoch_is_heard(shared_bench: Bench) -> None:
    """A room followed before it was written to is heard from its first entry."""
    ear = Ear()
    here, there = await shared_bench.log(ear), await shared_bench.log()
    room = shared_bench.room()
    assert await here.follow(room) == ("", 0, 0)
    stored = await append(there, room, "a")
    await heard(lambda: len(ear.entries) == 1, "the entry")
    assert ear.entries[0][1:] == (stored.epoch, (await here.read(room, 0, 0, 1)).entries[0])


async def test_nothing_kept_is_heard(shared_bench: Bench) -> None:
    """Entries of a room that keeps nothing are heard all the same."""
    ear = Ear()
    here, there = await shared_bench.log(ear), await shared_bench.log()
    room = shared_bench.room()
    await here.follow(room)
    await append(there, room, "a", retention=Retention(KEEP_NOTHING, 0))
    await heard(lambda: [entry.id for _, _, entry in ear.entries] == ["a"], "the entry")


async def test_only_followed_rooms(shared_bench: Bench) -> None:
    """Rooms not followed, or not any more, are not heard, and neither are a node's own appends."""
    ear = Ear()
    here, there = await shared_bench.log(ear), await shared_bench.log()
    room, left, last = (shared_bench.room(name) for name in ("room", "left", "last"))
    for followed in (room, left, last):
        await here.follow(followed)
    await here.unfollow(left)
    await append(here, room, "own")
    await append(there, left, "a")
    await append(there, shared_bench.room("other"), "a")
    await append(there, last, "end")
    await heard(lambda: len(ear.entries) >= 1, "the last entry")
    assert [(entry_room, entry.id) for entry_room, _, entry in ear.entries] == [(last, "end")]


async def test_followed_again(shared_bench: Bench) -> None:
    """A room can be left and followed again, and is then heard once."""
    ear = Ear()
    here, there = await shared_bench.log(ear), await shared_bench.log()
    room = shared_bench.room()
    for _ in range(3):
        await here.follow(room)
        await here.unfollow(room)
    await here.follow(room)
    await append(there, room, "a")
    await append(there, room, "b")
    await heard(lambda: len(ear.entries) >= 2, "both entries")
    assert [entry.id for _, _, entry in ear.entries] == ["a", "b"]


async def test_many_rooms(shared_bench: Bench) -> None:
    """Hundreds of rooms are followed at once and each is heard."""
    ear = Ear()
    here, there = await shared_bench.log(ear), await shared_bench.log()
    rooms = [shared_bench.room(f"room-{number}") for number in range(300)]
    await asyncio.gather(*(here.follow(room) for room in rooms))
    await asyncio.gather(*(append(there, room, "a") for room in rooms))
    await heard(lambda: len(ear.entries) >= 300, "an entry of each room")
    assert {room for room, _, _ in ear.entries} == set(rooms)


async def test_signal(shared_bench: Bench) -> None:
    """A signal reaches the other followers of its room bit for bit, is not stored, and not echoed."""
    ear, own, deaf = Ear(), Ear(), Ear()
    here, there = await shared_bench.log(ear), await shared_bench.log(own)
    await shared_bench.log(deaf)
    room = shared_bench.room()
    await here.follow(room)
    await there.follow(room)
    await there.signal(room, bytes(range(256)))
    await here.signal(room, b"")
    await heard(lambda: bool(ear.signals and own.signals), "both signals")
    assert ear.signals == [(room, bytes(range(256)))]
    assert own.signals == [(room, b"")]
    assert deaf.signals == []
    assert (await here.head(room)).last == 0


async def test_direct(shared_bench: Bench) -> None:
    """Bytes sent to a node reach it alone; to a node that does not listen they are refused."""
    ear, other = Ear(), Ear()
    await shared_bench.log(ear, node_id=shared_bench.tenant + "-a")
    there = await shared_bench.log(other, node_id=shared_bench.tenant + "-b")
    assert await there.direct(shared_bench.tenant + "-a", b"\x00hello")
    await heard(lambda: ear.direct == [b"\x00hello"], "the bytes")
    assert other.direct == []
    assert not await there.direct("nobody", b"hello")


async def test_direct_to_a_closed_node(shared_bench: Bench) -> None:
    """A node that closed its log listens no more."""
    gone = await shared_bench.log(node_id=shared_bench.tenant)
    there = await shared_bench.log()
    await gone.close()
    assert not await there.direct(shared_bench.tenant, b"hello")


async def test_presence_of_all_nodes(shared_bench: Bench) -> None:
    """Clients of all nodes are listed together; those of a node that closes are gone."""
    here, there = await shared_bench.log(), await shared_bench.log()
    room = shared_bench.room()
    await here.enter(room, RoomMember("b", b"here"))
    await there.enter(room, RoomMember("a", b"there"))
    assert list(await here.present(room, 10)) == [("a", b"there"), ("b", b"here")]
    await there.close()
    assert list(await here.present(room, 10)) == [("b", b"here")]


async def test_presence_ends_by_itself(shared_bench: Bench) -> None:
    """A client that nobody renews leaves the list by the engine's clock; one that is renewed stays."""
    dead = await shared_bench.log(presence_seconds=0.3, renew_seconds=60.0)
    alive = await shared_bench.log(presence_seconds=0.3, renew_seconds=0.05)
    room = shared_bench.room()
    await dead.enter(room, RoomMember("dead", b""))
    await alive.enter(room, RoomMember("alive", b""))
    deadline = asyncio.get_running_loop().time() + 10
    while (listed := [member.client for member in await alive.present(room, 10)]) != ["alive"]:
        assert listed == ["alive", "dead"]
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
