"""Consumer groups, the same cases on every backend that has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from arqonbus.storage.memory.log import MemoryLog
from arqonbus.storage.ports import (
    FROM_BEGIN,
    FROM_END,
    KEEP_NOTHING,
    MAX_GROUPS,
    ConsumerGroups,
    EventLog,
    GroupKey,
    GroupRead,
    GroupState,
    Item,
    NoSuchGroupError,
    Retention,
    RoomKey,
    StorageError,
    TooManyGroupsError,
)
from arqonbus.storage.sqlite import groups as sqlite_groups
from arqonbus.storage.valkey import groups as valkey_groups

from .conftest import Bench, append, append_items, with_groups

LONG = 3_600_000_000
SHORT = 30_000
PLENTY = 1 << 40


@pytest.fixture(params=with_groups)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Every backend with consumer groups."""
    made = request.param(request)
    yield made
    await made.close()


@pytest.fixture
def group(room: RoomKey) -> GroupKey:
    return GroupKey(room, "workers")


def groups_of(log: EventLog) -> ConsumerGroups:
    assert log.groups is not None
    return log.groups


async def read(
    log: EventLog, group: GroupKey, consumer: str = "a", limit: int = 100, lease_us: int = LONG
) -> GroupRead:
    return await groups_of(log).read(group, consumer, limit, lease_us, PLENTY)


async def read_some(log: EventLog, group: GroupKey, consumer: str, lease_us: int = LONG) -> GroupRead:
    """Read until something is handed out."""
    async with asyncio.timeout(10):
        while True:
            given = await read(log, group, consumer, lease_us=lease_us)
            if given.jobs:
                return given
            await asyncio.sleep(0.002)


def numbers(given: GroupRead) -> list[int]:
    return [job.entry.sequence for job in given.jobs]


def tries(given: GroupRead) -> list[tuple[int, int, str, str]]:
    return [(job.entry.sequence, job.deliveries, job.consumer, job.reason) for job in given.jobs]


async def ack(log: EventLog, group: GroupKey, given: GroupRead) -> int:
    return await groups_of(log).ack(group, given.epoch, numbers(given))


async def filled(log: EventLog, group: GroupKey, count: int, max_deliveries: int = 5) -> None:
    """A room with so many entries, and a group that begins with the first."""
    await append(log, group.room, *(f"id-{number}" for number in range(1, count + 1)))
    assert await groups_of(log).ensure(group, FROM_BEGIN, max_deliveries)


def state_of(
    given: int, lag: int = 0, pending: int = 0, delayed: int = 0, missed: int = 0
) -> tuple[int, ...]:
    return given, lag, pending, delayed, missed


async def state(log: EventLog, group: GroupKey) -> tuple[int, ...]:
    found: GroupState = await groups_of(log).state(group)
    return found.given, found.lag, found.pending, found.delayed, found.missed


async def test_memory_has_none() -> None:
    """The memory log says that it has no consumer groups."""
    assert MemoryLog().groups is None


async def test_life_of_an_entry(log: EventLog, group: GroupKey) -> None:
    """An entry is handed out once, with all that was appended, and is pending until it is acked."""
    stored = await append_items(log, group.room, [Item("one", "channel", b"\x00\xff\n")])
    assert await groups_of(log).ensure(group, FROM_BEGIN, 7)
    given = await read(log, group)
    (entry,) = (await log.read(group.room, 0, 0, 10)).entries
    assert given == (stored.epoch, [(entry, 1, "", "")], 0, 7, 0)
    nothing = await read(log, group, "b")
    assert nothing[:4] == (stored.epoch, [], 0, 7)
    assert LONG - 60_000_000 < nothing.due_in_us <= LONG
    assert await state(log, group) == state_of(1, pending=1)
    assert await ack(log, group, given) == 1
    assert (await read(log, group)).due_in_us == 0
    assert await ack(log, group, given) == 0
    assert await state(log, group) == state_of(1)
    assert await groups_of(log).state(group) == ("workers", stored.epoch, 1, 0, 0, 0, 0, 7)


async def test_ensure_twice(log: EventLog, group: GroupKey) -> None:
    """A group that is there is left as it is."""
    await filled(log, group, 3, max_deliveries=2)
    await read(log, group, limit=2)
    assert not await groups_of(log).ensure(group, FROM_END, 9)
    given = await read(log, group)
    assert (numbers(given), given.max_deliveries) == ([3], 2)


async def test_ensure_makes_the_room(log: EventLog, group: GroupKey) -> None:
    """A group in a room that does not exist makes it, with the epoch that its first message gets."""
    assert await groups_of(log).ensure(group, FROM_BEGIN, 5)
    assert (await log.rooms(group.room.tenant, "", 10)).rooms == [group.room.room]
    head = await log.head(group.room)
    assert (head.first, head.last) == (1, 0)
    assert not await log.create_room(group.room)
    assert await read(log, group) == (head.epoch, [], 0, 5, 0)
    stored = await append(log, group.room, "a")
    assert stored.epoch == head.epoch
    assert numbers(await read(log, group)) == [1]


@pytest.mark.parametrize(
    ("start", "kept", "first", "missed"),
    [
        (FROM_BEGIN, 0, 1, 0),
        (FROM_BEGIN, 4, 7, 0),
        (FROM_END, 0, 11, 0),
        (3, 0, 4, 0),
        (3, 4, 7, 3),
        (10, 0, 11, 0),
        (99, 0, 11, 0),
    ],
)
async def test_start(log: EventLog, group: GroupKey, start: int, kept: int, first: int, missed: int) -> None:
    """A group begins with what is held, at the end, or behind a sequence; what is gone by then is missed."""
    await append(log, group.room, *(f"id-{n}" for n in range(10)), retention=Retention(kept, 0))
    await groups_of(log).ensure(group, start, 5)
    await append(log, group.room, "last")
    given = await read(log, group)
    assert numbers(given) == list(range(first, 12))
    assert given.missed == missed


async def test_no_such_group(log: EventLog, group: GroupKey) -> None:
    """Every call for a group that was not made says so, and harms nobody else's."""
    groups = groups_of(log)
    stored = asyncio.ensure_future(append(log, group.room, "a"))
    calls = [
        groups.read(group, "a", 10, LONG, PLENTY),
        groups.ack(group, "", [1]),
        groups.nack(group, "", "a", 1, 0, ""),
        groups.extend(group, "", "a", [1], LONG),
        groups.claim(group, "", "a", [1], 0, LONG),
        groups.pending(group, (0, 0), 10),
        groups.state(group),
    ]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, NoSuchGroupError)
        assert not outcome.outcome_unknown
    assert list((await stored).sequences) == [1]
    assert not await groups.delete(group)


async def test_limit_and_bytes(log: EventLog, group: GroupKey) -> None:
    """A read ends with its limit, or with the job that takes its bytes over the bound."""
    groups = groups_of(log)
    await append_items(log, group.room, [Item(f"id-{n}", "", bytes(100)) for n in range(250)])
    await groups.ensure(group, FROM_BEGIN, 5)
    assert (await read(log, group, limit=0)).jobs == []
    assert numbers(await read(log, group, limit=120)) == list(range(1, 121))
    few = await groups.read(group, "a", 100, LONG, 250)
    assert numbers(few) == [121, 122, 123]
    one = await groups.read(group, "a", 100, LONG, 0)
    assert numbers(one) == [124]
    assert numbers(await read(log, group, limit=1000)) == list(range(125, 251))
    for sequence in (5, 6, 7, 8):
        await groups.nack(group, few.epoch, "a", sequence, 0, "")
    assert numbers(await groups.read(group, "a", 100, LONG, 150)) == [5, 6]


async def test_lease_ends(log: EventLog, group: GroupKey) -> None:
    """What a consumer does not ack in time goes to another, with the count of its deliveries."""
    await filled(log, group, 3)
    first = await read(log, group, "a", lease_us=SHORT)
    assert tries(first) == [(1, 1, "", ""), (2, 1, "", ""), (3, 1, "", "")]
    assert await groups_of(log).ack(group, first.epoch, [2]) == 1
    second = await read_some(log, group, "b", lease_us=SHORT)
    assert tries(second) == [(1, 2, "a", ""), (3, 2, "a", "")]
    third = await read_some(log, group, "c")
    assert tries(third) == [(1, 3, "b", ""), (3, 3, "b", "")]
    assert await ack(log, group, third) == 2
    assert await state(log, group) == state_of(3)


async def test_due_before_new(log: EventLog, group: GroupKey) -> None:
    """Jobs that came back are handed out before new entries, within one limit."""
    await filled(log, group, 6)
    given = await read(log, group, limit=3)
    for sequence in (3, 1):
        assert await groups_of(log).nack(group, given.epoch, "a", sequence, 0, "later") == 1
    assert numbers(await read(log, group, "b", limit=4)) == [3, 1, 4, 5]


async def test_late_ack(log: EventLog, group: GroupKey) -> None:
    """An ack after the lease ended counts, also while another consumer has the job."""
    await filled(log, group, 1)
    late = await read(log, group, "a", lease_us=SHORT)
    assert numbers(await read_some(log, group, "b")) == [1]
    assert await ack(log, group, late) == 1
    assert await state(log, group) == state_of(1)


async def test_nack(log: EventLog, group: GroupKey) -> None:
    """A job that is given back waits for its delay, and then comes with the reason."""
    await filled(log, group, 2)
    given = await read(log, group, "a")
    groups = groups_of(log)
    assert await groups.nack(group, given.epoch, "a", 1, LONG, "not now") == 1
    assert await groups.nack(group, given.epoch, "a", 2, SHORT, "a: \u00fc\n") == 1
    assert await state(log, group) == state_of(2, delayed=2)
    again = await read_some(log, group, "b")
    assert tries(again) == [(2, 2, "", "a: \u00fc\n")]
    assert await state(log, group) == state_of(2, pending=1, delayed=1)
    assert await groups.ack(group, given.epoch, [1, 2]) == 2
    assert await state(log, group) == state_of(2)


async def test_nack_of_another(log: EventLog, group: GroupKey) -> None:
    """Only who holds a job can give it back, and only once."""
    await filled(log, group, 1)
    given = await read(log, group, "a")
    groups = groups_of(log)
    assert await groups.nack(group, given.epoch, "b", 1, 0, "") == 0
    assert await groups.nack(group, given.epoch, "a", 2, 0, "") == 0
    assert await groups.nack(group, given.epoch, "a", 1, LONG, "") == 1
    assert await groups.nack(group, given.epoch, "a", 1, 0, "") == 0
    assert (await read(log, group, "b")).jobs == []


async def test_extend(log: EventLog, group: GroupKey) -> None:
    """A consumer can lengthen the leases of what it still holds, and learns which those are."""
    await filled(log, group, 4)
    groups = groups_of(log)
    given = await read(log, group, "a", limit=3, lease_us=SHORT)
    await groups.ack(group, given.epoch, [1])
    assert list(await groups.extend(group, given.epoch, "a", [3, 2, 1, 4, 3], LONG)) == [3, 2]
    assert list(await groups.extend(group, given.epoch, "b", [2], LONG)) == []
    assert numbers(await read(log, group, "b")) == [4]
    dues = [job.due_us - job.delivered_us for job in await groups.pending(group, (0, 0), 10)]
    assert all(due >= LONG for due in dues)
    assert len(dues) == 3


async def test_claim(log: EventLog, group: GroupKey) -> None:
    """Jobs of another consumer can be taken over if they were handed out long enough ago."""
    await filled(log, group, 3)
    groups = groups_of(log)
    given = await read(log, group, "a")
    await groups.nack(group, given.epoch, "a", 3, LONG, "why")
    assert (await groups.claim(group, given.epoch, "b", [1, 2], LONG, LONG)).jobs == []
    claimed = await groups.claim(group, given.epoch, "b", [3, 1, 1, 99], 0, LONG)
    assert tries(claimed) == [(3, 2, "", "why"), (1, 2, "a", "")]
    assert await state(log, group) == state_of(3, pending=3)
    holders = {job.sequence: job.consumer for job in await groups.pending(group, (0, 0), 10)}
    assert holders == {1: "b", 2: "a", 3: "b"}


async def test_pending_in_pages(log: EventLog, group: GroupKey) -> None:
    """Pending jobs are listed by when they are due, in pages without gap or repeat."""
    await filled(log, group, 350)
    groups = groups_of(log)
    late = await read(log, group, "a", limit=150, lease_us=2 * LONG)
    await read(log, group, "b", limit=150, lease_us=LONG)
    await groups.nack(group, late.epoch, "a", 7, 0, "soon: now")
    expected = [7, *range(151, 301), *range(1, 7), *range(8, 151)]
    found: list[int] = []
    after = (0, 0)
    while page := await groups.pending(group, after, 40):
        assert len(page) <= 40
        found += [job.sequence for job in page]
        after = (page[-1].due_us, page[-1].sequence)
    assert found == expected
    first, second = await groups.pending(group, (0, 0), 2)
    assert (first.consumer, first.deliveries, first.reason) == ("", 1, "soon: now")
    assert (second.consumer, second.deliveries, second.reason) == ("b", 1, "")
    assert second.due_us == second.delivered_us + LONG
    assert list(await groups.pending(group, (0, 0), 0)) == []


async def test_missed(log: EventLog, group: GroupKey) -> None:
    """What retention drops before it was handed out, or before it came again, is counted once each."""
    await filled(log, group, 4)
    groups = groups_of(log)
    given = await read(log, group, limit=3)
    assert await groups.ack(group, given.epoch, [1]) == 1
    assert await groups.nack(group, given.epoch, "a", 2, 0, "") == 1
    await append(log, group.room, *(f"more-{n}" for n in range(6)), retention=Retention(5, 0))
    after = await read(log, group, "b")
    assert (numbers(after), after.missed) == ([6, 7, 8, 9, 10], 3)  # 2 came too late again, 4 and 5 at all
    assert await state(log, group) == state_of(10, pending=6, missed=3)
    gone = await groups.claim(group, given.epoch, "b", [3], 0, LONG)
    assert (gone.jobs, gone.missed) == ([], 1)
    assert (await read(log, group)).missed == 0


async def test_room_that_keeps_nothing(log: EventLog, group: GroupKey) -> None:
    """In a room without history everything is missed, and the group says so."""
    await groups_of(log).ensure(group, FROM_BEGIN, 5)
    await append(log, group.room, "a", "b", retention=Retention(KEEP_NOTHING, 0))
    given = await read(log, group)
    assert (given.jobs, given.missed) == ([], 2)
    assert await state(log, group) == state_of(2, missed=2)


async def test_room_begins_anew(log: EventLog, group: GroupKey) -> None:
    """When a room is deleted and written again, its group goes on with the new log from the first entry."""
    await filled(log, group, 3)
    groups = groups_of(log)
    old = await read(log, group, limit=2)
    await log.delete_room(group.room)
    assert await read(log, group) == ("", [], 0, 5, 0)
    await append(log, group.room, "new")
    assert await state(log, group) == state_of(0, lag=1, missed=2)
    assert list(await groups.pending(group, (0, 0), 10)) == []
    new = await read(log, group)
    assert new.epoch != old.epoch
    assert (numbers(new), new.missed) == ([1], 2)
    assert await groups.ack(group, old.epoch, [1]) == 0
    assert await groups.nack(group, old.epoch, "a", 1, 0, "") == 0
    assert list(await groups.extend(group, old.epoch, "a", [1], LONG)) == []
    assert (await groups.claim(group, old.epoch, "b", [1], 0, LONG)).jobs == []
    assert await groups.ack(group, new.epoch, [1]) == 1


async def test_groups_are_apart(bench: Bench, log: EventLog, group: GroupKey) -> None:
    """Each group of a room is given everything; groups are listed by name, and deleted one by one."""
    groups = groups_of(log)
    await filled(log, group, 2)
    other = GroupKey(group.room, "other")
    await groups.ensure(other, FROM_BEGIN, 0)
    assert numbers(await read(log, group)) == numbers(await read(log, other, limit=2)) == [1, 2]
    await ack(log, other, await groups.claim(other, (await groups.state(other)).epoch, "b", [1], 0, LONG))
    found = await groups.of_room(group.room)
    assert [(one.name, one.pending) for one in found] == [("other", 1), ("workers", 2)]
    assert list(await groups.of_room(bench.room("nobody"))) == []
    assert await groups.delete(group)
    assert not await groups.delete(group)
    assert [one.name for one in await groups.of_room(group.room)] == ["other"]
    assert await groups.ensure(group, FROM_BEGIN, 5)
    assert tries(await read(log, group)) == [(1, 1, "", ""), (2, 1, "", "")]


async def test_most_groups(log: EventLog, room: RoomKey) -> None:
    """A room has a bounded number of groups."""
    groups = groups_of(log)
    for number in range(MAX_GROUPS):
        assert await groups.ensure(GroupKey(room, f"group-{number}"), FROM_BEGIN, 5)
    with pytest.raises(TooManyGroupsError, match="which is the limit"):
        await groups.ensure(GroupKey(room, "one-more"), FROM_BEGIN, 5)
    assert not await groups.ensure(GroupKey(room, "group-7"), FROM_BEGIN, 5)
    assert len(await groups.of_room(room)) == MAX_GROUPS


async def test_most_pending(log: EventLog, group: GroupKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group with too many pending jobs is given no new ones until some are acked."""
    for module in (sqlite_groups, valkey_groups):
        monkeypatch.setattr(module, "MAX_PENDING", 5)
    await filled(log, group, 8)
    given = await read(log, group)
    assert numbers(given) == [1, 2, 3, 4, 5]
    await groups_of(log).nack(group, given.epoch, "a", 2, 0, "")
    assert numbers(await read(log, group)) == [2]
    await groups_of(log).ack(group, given.epoch, [1])
    assert numbers(await read(log, group)) == [6]


async def test_consumers_share(bench: Bench, group: GroupKey) -> None:
    """Consumers that read at the same time, on several nodes where there can be, never get the same job."""
    logs = [await bench.log() for _ in range(2 if bench.shared else 1)]
    await filled(logs[0], group, 1000)
    held: dict[str, list[int]] = {f"consumer-{number}": [] for number in range(8)}

    async def work(number: int, consumer: str) -> None:
        log = logs[number % len(logs)]
        while (given := await read(log, group, consumer, limit=7)).jobs:
            assert all(job.deliveries == 1 for job in given.jobs)
            held[consumer] += numbers(given)
            assert await ack(log, group, given) == len(given.jobs)

    await asyncio.gather(*(work(number, consumer) for number, consumer in enumerate(held)))
    everything: Sequence[int] = [number for mine in held.values() for number in mine]
    assert sorted(everything) == list(range(1, 1001))
    assert await state(logs[0], group) == state_of(1000)


async def test_survives(bench: Bench, group: GroupKey) -> None:
    """Who holds what and how often it was handed out is known to a log that is opened later."""
    log = await bench.log()
    await filled(log, group, 3)
    given = await read(log, group, "a", limit=2)
    await groups_of(log).nack(group, given.epoch, "a", 2, 0, "again")
    log = await bench.reopened(log)
    assert await state(log, group) == state_of(2, lag=1, pending=1, delayed=1)
    assert tries(await read(log, group, "b")) == [(2, 2, "", "again"), (3, 1, "", "")]


async def test_bad_name(shared_bench: Bench) -> None:
    """A group name that is none is refused before it becomes part of a key."""
    log = await shared_bench.log()
    with pytest.raises(StorageError, match="The consumer group 'a:b' cannot be part of a Valkey key"):
        await groups_of(log).ensure(GroupKey(shared_bench.room(), "a:b"), FROM_BEGIN, 5)
