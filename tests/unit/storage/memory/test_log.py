"""The memory log under a clock of its own: what the contract suite cannot reach on a real one."""

from __future__ import annotations

from arqonbus.storage.memory.log import MemoryLog
from arqonbus.storage.ports import KEEP_NOTHING, Appended, Batch, Item, Retention, RoomKey

ROOM = RoomKey("tenant", "room")
EVERYTHING = Retention(0, 0)
SECOND = 1_000_000


class Clock:
    """Microseconds that only move when told."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND

    def __call__(self) -> int:
        return self.now


def append(log: MemoryLog, *ids: str, room: RoomKey = ROOM, retention: Retention = EVERYTHING) -> Appended:
    (outcome,) = log.append([Batch(room, [Item(id_, "", b"") for id_ in ids], retention)])
    assert isinstance(outcome, Appended)
    return outcome


def test_clock_set_back() -> None:
    """Time within a room stays where it was when the clock is set back."""
    clock = Clock()
    log = MemoryLog(clock_us=clock)
    before = append(log, "a").time_us
    clock.now -= 5 * SECOND
    assert append(log, "b").time_us == before
    clock.now = before + 1
    assert append(log, "c").time_us == before + 1


def test_id_within_window() -> None:
    """An id is known for the whole window, however the generations fall."""
    for offset in range(0, 120, 7):
        clock = Clock()
        log = MemoryLog(dedup_seconds=60, clock_us=clock)
        append(log, "first")
        clock.now += offset * SECOND
        append(log, "a")
        clock.now += 59 * SECOND
        assert append(log, "a").duplicates == {0}


def test_id_after_window() -> None:
    """An id is forgotten after twice the window, also if nothing else is written to its room."""
    clock = Clock()
    log = MemoryLog(dedup_seconds=60, clock_us=clock)
    append(log, "a", room=RoomKey("tenant", "idle"))
    for _ in range(3):
        clock.now += 61 * SECOND
        append(log, "b")
    assert append(log, "a", room=RoomKey("tenant", "idle")).duplicates == frozenset()


def test_idle_rooms_hold_no_ids() -> None:
    """Appends to one room make the idle ones forget their ids: memory follows use, not history."""
    clock = Clock()
    log = MemoryLog(dedup_seconds=60, clock_us=clock)
    rooms = [RoomKey("tenant", f"room-{number}") for number in range(1000)]
    for room in rooms:
        append(log, "a", room=room, retention=Retention(KEEP_NOTHING, 0))
    for tick in range(30):
        clock.now += 61 * SECOND
        append(log, f"tick-{tick}")
    held = [log._rooms[room].ids for room in rooms]
    assert not any(ids.young or ids.old or ids.waiting for ids in held)


def test_ids_are_bounded_by_count() -> None:
    """A busy room holds at most dedup_max ids, and at least the newest half of them."""
    log = MemoryLog(dedup_max=100)
    for number in range(1000):
        append(log, f"id-{number}")
    ids = log._rooms[ROOM].ids
    assert len(ids.young) + len(ids.old) <= 100
    assert append(log, *(f"id-{number}" for number in range(950, 1000))).duplicates == set(range(50))


def test_age_counts_from_the_append() -> None:
    """max_age_us is measured at each append; an entry exactly that old stays."""
    clock = Clock()
    log = MemoryLog(clock_us=clock)
    minute = Retention(0, 60 * SECOND)
    append(log, "a", retention=minute)
    clock.now += 60 * SECOND
    append(log, "b", retention=minute)
    assert len(log._rooms[ROOM].log) == 2
    clock.now += 1
    append(log, "c", retention=minute)
    assert [entry.id for entry in log._rooms[ROOM].log] == ["b", "c"]
