"""Append: sequences, dedup, epochs, order and isolation, on every backend."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.protocol.ids import is_ulid
from arqonbus.storage.ports import Appended, Batch, EventLog, Item, RoomKey, StorageError

from .conftest import EVERYTHING, Bench, append, append_items, ids_in, items, outcomes


async def test_first_append(log: EventLog, room: RoomKey) -> None:
    """The first message of a room has sequence 1 under an epoch that is a ULID."""
    stored = await append(log, room, "a")
    assert list(stored.sequences) == [1]
    assert is_ulid(stored.epoch)
    assert stored.duplicates == frozenset()
    assert stored.durability is log.durability


async def test_consecutive_sequences(log: EventLog, room: RoomKey) -> None:
    """New messages get consecutive numbers within a batch and across batches."""
    assert list((await append(log, room, "a", "b", "c")).sequences) == [1, 2, 3]
    assert list((await append(log, room, "d", "e")).sequences) == [4, 5]


async def test_empty_batch(log: EventLog, room: RoomKey) -> None:
    """A batch without items stores nothing and takes no number."""
    assert list((await append(log, room)).sequences) == []
    assert list((await append(log, room, "a")).sequences) == [1]


async def test_no_batches(log: EventLog) -> None:
    """An append of no batches has no outcomes."""
    assert list(await outcomes(log)) == []


async def test_duplicate_in_later_batch(log: EventLog, room: RoomKey) -> None:
    """An id that the room holds is not stored again and answers with the first one's number."""
    await append(log, room, "a", "b")
    stored = await append(log, room, "c", "a", "d", "b")
    assert list(stored.sequences) == [3, 1, 4, 2]
    assert stored.duplicates == {1, 3}
    assert await ids_in(log, room) == ["a", "b", "c", "d"]


async def test_duplicate_within_batch(log: EventLog, room: RoomKey) -> None:
    """The second of two equal ids in one batch is a duplicate of the first."""
    stored = await append(log, room, "a", "b", "a")
    assert list(stored.sequences) == [1, 2, 1]
    assert stored.duplicates == {2}
    assert await ids_in(log, room) == ["a", "b"]


async def test_batch_of_duplicates(log: EventLog, room: RoomKey) -> None:
    """A batch that was stored before is wholly a duplicate and takes no number."""
    await append(log, room, "a", "b")
    again = await append(log, room, "a", "b")
    assert list(again.sequences) == [1, 2]
    assert again.duplicates == {0, 1}
    assert list((await append(log, room, "c")).sequences) == [3]


async def test_same_id_in_other_room(bench: Bench, log: EventLog) -> None:
    """Dedup is per room: another room may hold the same id."""
    await append(log, bench.room("one"), "a")
    assert (await append(log, bench.room("two"), "a")).duplicates == frozenset()


async def test_several_rooms_at_once(bench: Bench, log: EventLog) -> None:
    """The outcomes of one call stand in the order of its batches."""
    one, two = bench.room("one"), bench.room("two")
    batches = [Batch(one, items("a", "b"), EVERYTHING), Batch(two, items("a"), EVERYTHING)]
    batches.append(Batch(one, items("c"), EVERYTHING))
    stored = await outcomes(log, *batches)
    assert all(isinstance(outcome, Appended) for outcome in stored), stored
    assert [list(outcome.sequences) for outcome in stored if isinstance(outcome, Appended)] == [
        [1, 2],
        [1],
        [3],
    ]
    assert await ids_in(log, one) == ["a", "b", "c"]


async def test_overlapping_calls(log: EventLog, room: RoomKey) -> None:
    """Batches of a room are stored in the order of the calls, although the calls overlap."""
    calls = [append(log, room, f"{number:03d}-a", f"{number:03d}-b") for number in range(100)]
    await asyncio.gather(*calls)
    held = await ids_in(log, room)
    assert held == sorted(held)
    assert len(held) == 200


async def test_tenants_are_apart(bench: Bench, log: EventLog) -> None:
    """Rooms of equal name under two tenants share nothing."""
    mine, theirs = bench.room(), RoomKey(bench.tenant + "-other", bench.room().room)
    ours = await append(log, mine, "a")
    stored = await append(log, theirs, "a", "b")
    assert stored.duplicates == frozenset()
    assert stored.epoch != ours.epoch
    assert await ids_in(log, mine) == ["a"]
    assert await log.delete_room(theirs)
    assert await ids_in(log, mine) == ["a"]
    assert (await log.rooms(theirs.tenant, "", 10)).rooms == []


async def test_room_that_spells_another_tenant(bench: Bench, log: EventLog) -> None:
    """Where tenant and room name are cut does not matter: a.b/c and a/b.c are two rooms."""
    one, two = RoomKey(bench.tenant + ".x", "y"), RoomKey(bench.tenant, "x.y")
    await append(log, one, "a")
    assert (await log.head(two)).last == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", bytes(range(256)), bytes(range(256)) * 4096, b"\r\n$5\r\n", b"\xff" * 3],
    ids=["empty", "nul", "all values", "1 MiB", "protocol", "no utf-8"],
)
async def test_bytes_come_back(log: EventLog, room: RoomKey, data: bytes) -> None:
    """Data comes back bit for bit, and so do id and channel."""
    await append_items(log, room, [Item("id-1", "", data), Item("id-2", "kanal.ä", data)])
    first, second = (await log.read(room, 0, 0, 10)).entries
    assert (first.id, first.channel, first.data) == ("id-1", "", data)
    assert (second.id, second.channel, second.data) == ("id-2", "kanal.ä", data)


async def test_large_batch(log: EventLog, room: RoomKey) -> None:
    """A batch of thousands is stored as one, with its duplicates found."""
    ids = [f"id-{number}" for number in range(5000)]
    assert list((await append(log, room, *ids)).sequences) == list(range(1, 5001))
    assert len((await append(log, room, *ids, "new")).duplicates) == 5000
    assert (await log.head(room)).last == 5001


async def test_time_does_not_go_back(log: EventLog, room: RoomKey) -> None:
    """Time within a room never decreases, and an entry has the time of its append."""
    times = [(await append(log, room, f"id-{number}")).time_us for number in range(20)]
    assert times == sorted(times)
    assert [entry.time_us for entry in (await log.read(room, 0, 0, 100)).entries] == times


async def test_epoch_stays(log: EventLog, room: RoomKey) -> None:
    """All appends of a room have the epoch of its head."""
    first = await append(log, room, "a")
    assert (await append(log, room, "b")).epoch == first.epoch
    assert (await log.head(room)).epoch == first.epoch


async def test_reopened(bench: Bench, log: EventLog, room: RoomKey) -> None:
    """A log that survives its process goes on with epoch, sequence, entries and dedup."""
    before = await append(log, room, "a", "b")
    if not bench.survives:
        assert log.durability == 1
        return
    again = await bench.reopened(log)
    after = await append(again, room, "b", "c")
    assert after.epoch == before.epoch
    assert list(after.sequences) == [2, 3]
    assert after.duplicates == {0}
    assert await ids_in(again, room) == ["a", "b", "c"]


async def test_deleted_room(bench: Bench, log: EventLog, room: RoomKey) -> None:
    """A deleted room is gone, and the next append starts a new epoch that remembers no id."""
    before = await append(log, room, "a", "b")
    assert await log.delete_room(room)
    assert await log.head(room) == ("", 0, 0)
    assert await ids_in(log, room) == []
    assert (await log.rooms(room.tenant, "", 10)).rooms == []
    after = await append(log, room, "a")
    assert after.epoch != before.epoch
    assert (list(after.sequences), after.duplicates) == ([1], frozenset())
    assert (await log.rooms(room.tenant, "", 10)).rooms == [room.room]


async def test_deleting_nothing(log: EventLog, room: RoomKey) -> None:
    """Deleting a room that is not there says so."""
    assert not await log.delete_room(room)


async def test_two_clients_share_dedup(shared_bench: Bench) -> None:
    """Two nodes on one engine count as one: numbers go on and ids are known to both."""
    one, two = await shared_bench.log(), await shared_bench.log()
    room = shared_bench.room()
    first = await append(one, room, "a", "b")
    second = await append(two, room, "b", "c")
    assert second.epoch == first.epoch
    assert list(second.sequences) == [2, 3]
    assert second.duplicates == {0}


async def test_two_clients_race(shared_bench: Bench) -> None:
    """Of two nodes that append the same ids at once, each id is stored by exactly one."""
    one, two = await shared_bench.log(), await shared_bench.log()
    room = shared_bench.room()
    ids = [f"id-{number}" for number in range(50)]
    stored = await asyncio.gather(*(append(log, room, id_) for id_ in ids for log in (one, two)))
    assert sum(len(outcome.duplicates) for outcome in stored) == 50
    assert sorted(await ids_in(one, room)) == sorted(ids)


@pytest.mark.parametrize("bad", ["a/b", "a:b", "{a}", "", "a b", "ä", "x" * 129])
async def test_names_that_could_smuggle(shared_bench: Bench, bad: str) -> None:
    """A name that is none is refused before a key is made of it, in append as an outcome."""
    log = await shared_bench.log()
    (outcome,) = await outcomes(log, Batch(RoomKey("t", bad), items("a"), EVERYTHING))
    assert isinstance(outcome, StorageError)
    assert not outcome.outcome_unknown
    with pytest.raises(StorageError, match="cannot be part of a Valkey key"):
        await log.head(RoomKey(bad, "room"))


async def test_dedup_window(bench: Bench) -> None:
    """An id is known for the whole window, also across the engine's own steps, and forgotten after it."""
    window_us = 1_000_000
    log = await bench.log(dedup_seconds=window_us / 1_000_000)
    room, clock = bench.room(), bench.room("clock")

    async def engine_time_after(time_us: int) -> int:
        async with asyncio.timeout(20):
            number = 0
            while (now := (await append(log, clock, f"{time_us}-{number}")).time_us) <= time_us:
                number += 1
        return now

    start = (await append(log, clock, "start")).time_us
    late_in_step = (start // window_us + 1) * window_us + window_us * 6 // 10
    await engine_time_after(late_in_step)
    stored = await append(log, room, "a")
    await engine_time_after(stored.time_us + window_us * 6 // 10)
    again = await append(log, room, "a")
    assert again.time_us < stored.time_us + window_us, (
        "the machine was too slow for this test to say anything"
    )
    assert again.duplicates == {0}
    for windows in range(2, 8):  # two, and as much longer as a busy machine was late to forget
        now = await engine_time_after(stored.time_us + window_us * windows)
        if not (await append(log, room, "a")).duplicates:
            return
    pytest.fail(f"still known {now - stored.time_us} us later")
