"""Reading ranges, trimming and seeking, on every backend."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.storage.ports import KEEP_NOTHING, EventLog, Retention, RoomKey

from .conftest import Bench, append, ids_in

NOTHING = Retention(KEEP_NOTHING, 0)


def _sequences(entries: object) -> list[int]:
    return [entry.sequence for entry in entries]  # type: ignore[attr-defined]


async def test_unknown_room(log: EventLog, room: RoomKey) -> None:
    """A room never written to has an empty epoch, no entries, and nothing to seek."""
    assert await log.head(room) == ("", 0, 0)
    page = await log.read(room, 0, 0, 10)
    assert (page.head, list(page.entries)) == (("", 0, 0), [])
    assert await log.seek(room, 0) == 1


@pytest.mark.parametrize(
    ("after", "until", "limit", "expected"),
    [
        (0, 0, 100, [1, 2, 3, 4, 5, 6]),
        (0, 0, 2, [1, 2]),
        (2, 0, 2, [3, 4]),
        (2, 4, 100, [3, 4]),
        (2, 100, 100, [3, 4, 5, 6]),
        (5, 3, 100, []),
        (6, 0, 100, []),
        (99, 0, 100, []),
        (0, 0, 0, []),
        (3, 3, 10, []),
    ],
)
async def test_read(
    log: EventLog, room: RoomKey, after: int, until: int, limit: int, expected: list[int]
) -> None:
    """Read gives after < sequence <= until, oldest first, at most limit, with the head."""
    stored = await append(log, room, *"abcdef")
    page = await log.read(room, after, until, limit)
    assert _sequences(page.entries) == expected
    assert page.head == (stored.epoch, 1, 6)


@pytest.mark.parametrize(
    ("before", "limit", "expected"),
    [
        (0, 100, [6, 5, 4, 3, 2, 1]),
        (0, 2, [6, 5]),
        (5, 2, [4, 3]),
        (2, 10, [1]),
        (1, 10, []),
        (99, 3, [6, 5, 4]),
        (0, 0, []),
    ],
)
async def test_read_back(log: EventLog, room: RoomKey, before: int, limit: int, expected: list[int]) -> None:
    """Reading back gives sequence < before, newest first, at most limit, with the head."""
    stored = await append(log, room, *"abcdef")
    page = await log.read_back(room, before, limit)
    assert _sequences(page.entries) == expected
    assert page.head == (stored.epoch, 1, 6)


async def test_trimmed_by_count(log: EventLog, room: RoomKey) -> None:
    """Exactly the newest max_messages are kept; the head says so and reads begin there."""
    for id_ in "abcdef":
        await append(log, room, id_, retention=Retention(4, 0))
    assert (await log.head(room))[1:] == (3, 6)
    assert await ids_in(log, room) == list("cdef")
    assert _sequences((await log.read_back(room, 0, 10)).entries) == [6, 5, 4, 3]
    assert _sequences((await log.read(room, 1, 0, 1)).entries) == [3]


async def test_batch_beyond_retention(log: EventLog, room: RoomKey) -> None:
    """Of a batch longer than the retention the end is kept."""
    assert list((await append(log, room, *"abcdef", retention=Retention(2, 0))).sequences) == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert await ids_in(log, room) == ["e", "f"]


async def test_trimmed_much(log: EventLog, room: RoomKey) -> None:
    """The bound holds after thousands of messages, however lazily a backend deletes."""
    for start in range(0, 3000, 100):
        await append(
            log, room, *(f"id-{number}" for number in range(start, start + 100)), retention=Retention(150, 0)
        )
        head = await log.head(room)
        assert head.first == max(1, head.last - 149)
    assert await ids_in(log, room) == [f"id-{number}" for number in range(2850, 3000)]


async def test_retention_made_smaller(log: EventLog, room: RoomKey) -> None:
    """The retention of the latest append counts, also for what was stored before."""
    await append(log, room, *"abcdef")
    await append(log, room, "g", retention=Retention(2, 0))
    assert await ids_in(log, room) == ["f", "g"]


async def _older_than(log: EventLog, room: RoomKey, time_us: int, age_us: int) -> None:
    """Return once the engine's clock is more than age_us past time_us, by asking it in a room of its own."""
    clock = RoomKey(room.tenant, "clock")
    number = 0
    async with asyncio.timeout(10):
        while (
            await append(log, clock, f"tick-{number}", retention=Retention(1, 0))
        ).time_us <= time_us + age_us:
            number += 1
            await asyncio.sleep(0.01)


async def test_trimmed_by_age(log: EventLog, room: RoomKey) -> None:
    """Entries older than max_age_us are dropped by the next append, and younger ones are not."""
    old = await append(log, room, "a", "b")
    # As long as no machine stands still between two appends.
    await _older_than(log, room, old.time_us, 1_000_000)
    young = await append(log, room, "c")
    assert (await log.head(room))[1:] == (1, 3)
    await append(log, room, "d", retention=Retention(0, young.time_us - old.time_us - 1))
    assert await ids_in(log, room) == ["c", "d"]
    assert (await log.head(room))[1:] == (3, 4)


async def test_all_trimmed_by_age(log: EventLog, room: RoomKey) -> None:
    """When age leaves only the new entry, numbers go on and the head begins there."""
    old = await append(log, room, *"abc")
    await _older_than(log, room, old.time_us, 1000)
    await append(log, room, "d", retention=Retention(0, 1000))
    assert (await log.head(room))[1:] == (4, 4)


async def test_keep_nothing(log: EventLog, room: RoomKey) -> None:
    """A room that keeps nothing numbers and deduplicates, and has first = last + 1."""
    stored = await append(log, room, "a", "b", retention=NOTHING)
    assert list(stored.sequences) == [1, 2]
    assert await log.head(room) == (stored.epoch, 3, 2)
    again = await append(log, room, "b", "c", retention=NOTHING)
    assert (list(again.sequences), again.duplicates) == ([2, 3], {0})
    assert await ids_in(log, room) == []
    assert await log.seek(room, 0) == 4
    assert list((await log.read_back(room, 0, 10)).entries) == []


async def test_keep_nothing_any_more(log: EventLog, room: RoomKey) -> None:
    """Turning history off drops what was held; turning it on again begins after the gap."""
    await append(log, room, "a", "b")
    await append(log, room, "c", retention=NOTHING)
    assert (await log.head(room))[1:] == (4, 3)
    await append(log, room, "d", "e")
    assert (await log.head(room))[1:] == (4, 5)
    assert await ids_in(log, room) == ["d", "e"]


async def test_keep_nothing_then_reopened(bench: Bench, log: EventLog, room: RoomKey) -> None:
    """Ids of a room that keeps nothing, or has trimmed them, survive a restart of the bus."""
    await append(log, room, "a", "b", retention=NOTHING)
    trimmed = bench.room("trimmed")
    await append(log, trimmed, *(f"id-{number}" for number in range(700)), retention=Retention(3, 0))
    if not bench.survives:
        assert log.durability == 1
        return
    again = await bench.reopened(log)
    assert (await append(again, room, "a", "b", retention=NOTHING)).duplicates == {0, 1}
    stored = await append(again, trimmed, "id-0", "id-699", "new", retention=Retention(3, 0))
    assert (list(stored.sequences), stored.duplicates) == ([1, 700, 701], {0, 1})


async def test_seek(log: EventLog, room: RoomKey) -> None:
    """Seek gives the lowest held sequence of that time or later, and last + 1 past the end."""
    times: list[int] = []
    for number in range(30):
        stored = await append(log, room, f"id-{number}", f"id-{number}-b")
        times += [stored.time_us, stored.time_us]
    for wanted in {times[0] - 1, *times, *(time + 1 for time in times)}:
        expected = next((index + 1 for index, time in enumerate(times) if time >= wanted), 61)
        assert await log.seek(room, wanted) == expected
    assert await log.seek(room, 0) == 1


async def test_seek_after_trimming(log: EventLog, room: RoomKey) -> None:
    """Seeking before the oldest entry gives the oldest that is held."""
    await append(log, room, *"abcdef", retention=Retention(2, 0))
    assert await log.seek(room, 0) == 5
