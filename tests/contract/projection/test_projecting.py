"""Projecting: an event counts once, the greatest wins in any order of arrival, the books balance."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arqonbus.storage.projection import Event, ProjectionStore, Subject, Tally, Unprojectable
from tests.contract.projection.conftest import Bench
from tests.contract.projection.records import arrivals, event, letter, state, subject

WRITERS = 8
ROUNDS = 1000

shared_store = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_tenants = (f"tenant-{number}" for number in itertools.count())


async def test_an_event_becomes_the_state_of_its_episode(store: ProjectionStore) -> None:
    """All that it says is there, and nothing stands for an episode that had none."""
    only = event(1)
    outcome = await store.project(arrivals(only), [])
    assert outcome.tallies == {"demo": Tally(1, 1)}
    assert await store.episode(subject()) == state(only)
    assert await store.episode(subject(1)) is None
    assert await store.counts("demo") == {"events": 1, "episodes": 1, "tombstones": 0, "dead_letters": 0}


async def test_an_event_that_comes_again_is_a_duplicate(store: ProjectionStore) -> None:
    """In another batch, in the same batch, and from another place in the log."""
    one, two = event(1, 1), event(2, 2)
    first = await store.project(arrivals(one, two, one), [])
    again = await store.project(arrivals(two, one, first=90), [])
    assert first.tallies == {"demo": Tally(arrived=3, projected=2, duplicate=1)}
    assert again.tallies == {"demo": Tally(arrived=2, duplicate=2)}
    assert (await store.counts(None))["events"] == 2
    assert await store.episode(subject()) == state(two)


async def test_an_event_that_comes_too_late_is_kept_and_not_applied(store: ProjectionStore) -> None:
    """It is named as stale, it counts as stale, and the episode stays as it was."""
    late, newer = event(1, -5), event(2)
    await store.project(arrivals(newer), [])
    outcome = await store.project(arrivals(late), [])
    assert outcome.tallies == {"demo": Tally(arrived=1, stale=1)}
    assert list(outcome.stale) == [late]
    assert await store.episode(subject()) == state(newer)
    assert (await store.counts("demo"))["events"] == 2


async def test_within_a_batch_the_books_tell_of_the_order_of_arrival(store: ProjectionStore) -> None:
    """What came after a greater one is stale, although the batch is one statement."""
    outcome = await store.project(arrivals(event(1, 1), event(3, 3), event(2, 2)), [])
    assert outcome.tallies == {"demo": Tally(arrived=3, projected=2, stale=1)}
    assert await store.episode(subject()) == state(event(3, 3))


async def test_a_tombstone_is_not_revived_by_what_is_older(store: ProjectionStore) -> None:
    """A stale update leaves it deleted; a newer one is a new life."""
    deleted = event(5, 5, type="episode.deleted")
    await store.project(arrivals(event(1, 1), deleted), [])
    await store.project(arrivals(event(4, 4)), [])
    tombstone = await store.episode(subject())
    assert tombstone == state(deleted)
    assert (await store.counts("demo"))["tombstones"] == 1
    await store.project(arrivals(event(6, 6)), [])
    assert (await store.counts("demo"))["episodes"] == 1


# Equal times, a deletion among them, and two episodes.
FEW = (
    event(1, 1),
    event(2, 1),
    event(3, 1, type="episode.deleted"),
    event(4, 0),
    event(5, 1, episode=1),
)


async def test_every_order_of_arrival_ends_in_the_same_state(store: ProjectionStore) -> None:
    """All 120 orders of five events, one by one: a tenant for each order."""
    orders = {f"order-{n}": order for n, order in enumerate(itertools.permutations(FEW))}
    for position in range(len(FEW)):
        batch = [order[position]._replace(tenant=tenant) for tenant, order in orders.items()]
        await store.project(arrivals(*batch), [])
    for tenant in orders:
        found = [await store.episode(subject(number, tenant)) for number in (0, 1)]
        assert found == [state(FEW[number]._replace(tenant=tenant)) for number in (2, 4)]
    assert (await store.books(None)).difference == 0


@shared_store
@given(data=st.data())
async def test_any_batches_in_any_order_end_in_the_same_state(
    store: ProjectionStore, data: st.DataObject
) -> None:
    """Repeated, cut into batches anywhere: only the set of events counts."""
    tenant = next(_tenants)
    kinds = st.sampled_from(["episode.created", "episode.updated", "episode.deleted"])
    made = st.builds(
        lambda n, at, episode, kind: event(n, at, episode=episode, type=kind, tenant=tenant),
        st.integers(0, 999_999), st.integers(0, 3), st.integers(0, 2), kinds,
    )  # fmt: skip
    distinct = data.draw(st.lists(made, min_size=1, max_size=12, unique_by=lambda each: each.event))
    coming = data.draw(st.lists(st.sampled_from(distinct), max_size=30)) + distinct
    coming = data.draw(st.permutations(coming))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(coming)), max_size=4)))
    for start, end in itertools.pairwise([0, *cuts, len(coming)]):
        await store.project(arrivals(*coming[start:end], first=start), [])
    for number in range(3):
        ours = [each for each in distinct if each.episode == subject(number).episode]
        wanted = state(max(ours, key=lambda each: each.rank)) if ours else None
        assert await store.episode(subject(number, tenant)) == wanted
    books = await store.books(tenant)
    assert (books.arrived, books.difference) == (len(coming), 0)
    assert books.projected + books.stale == len(distinct)


@pytest.mark.timeout(120)
async def test_concurrent_writers_of_one_episode_end_at_the_newest_event(bench: Bench) -> None:
    """Eight at a time, each over a connection of its own, in every one of 1 000 rounds."""
    stores = [await bench.store() for _ in range(WRITERS)]
    order = random.Random(7)

    async def work(store: ProjectionStore, mine: Sequence[Event]) -> None:
        for each in mine:
            await store.project(arrivals(each), [])

    # Rounds go on side by side, and each writer has its own order of the events of a round.
    for begin in range(0, ROUNDS, 50):
        events = [
            [event(round * WRITERS + n, n % 5, episode=round) for n in range(WRITERS)]
            for round in range(begin, begin + 50)
        ]
        for each in events:
            order.shuffle(each)
        async with asyncio.TaskGroup() as tasks:
            for number, store in enumerate(stores):
                tasks.create_task(work(store, [each[number] for each in events]))
        for each in events:
            greatest = max(each, key=lambda one: one.rank)
            assert await stores[0].episode(subject(begin)._replace(episode=greatest.episode)) == state(
                greatest
            )
    books = await stores[0].books(None)
    assert (books.arrived, books.difference) == (WRITERS * ROUNDS, 0)
    assert books.duplicate == 0


async def test_overlapping_batches_all_come_through(bench: Bench) -> None:
    """Batches with the same episodes in other orders may have to wait for each other, and none is lost."""
    stores = [await bench.store() for _ in range(WRITERS)]
    order = random.Random(3)
    for turn in range(10):
        batches = []
        for writer in range(WRITERS):
            batch = [event(n * WRITERS + writer, turn, episode=n) for n in range(40)]
            batch = [each._replace(event=f"{each.event[:18]}{turn:02d}{each.event[20:]}") for each in batch]
            batch += [event(900_000 + n, turn, episode=n) for n in range(40)]  # the same in all of them
            order.shuffle(batch)
            batches.append(batch)
        async with asyncio.TaskGroup() as tasks:
            for store, batch in zip(stores, batches, strict=True):
                tasks.create_task(store.project(arrivals(*batch), [letter(turn)]))
    books = await stores[0].books(None)
    counts = await stores[0].counts(None)
    assert (books.arrived, books.difference) == (10 * WRITERS * 81, 0)
    assert (counts["episodes"], counts["dead_letters"]) == (40, 10)
    assert counts["events"] == books.projected + books.stale == 10 * WRITERS * 40 + 40


_numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_values = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=10,
)


@shared_store
@given(tags=st.lists(_texts, max_size=5), metadata=st.dictionaries(_texts, _values, max_size=4))
async def test_tags_and_metadata_come_back_as_they_went_in(
    store: ProjectionStore, tags: list[str], metadata: dict[str, object]
) -> None:
    """Any JSON: the same values, of the same types, in the same order of keys."""
    tenant = next(_tenants)
    await store.project(arrivals(event(1, tenant=tenant, tags=tuple(tags), metadata=metadata)), [])
    held = await store.episode(subject(tenant=tenant))
    assert held is not None
    assert held.tags == tuple(tags)
    assert repr(held.metadata) == repr(metadata)


async def test_a_record_that_the_store_refuses_changes_nothing(store: ProjectionStore) -> None:
    """Unprojectable, and neither its batch nor the books have moved; without it the rest goes through."""
    good = arrivals(event(1), event(2, 1, episode=1))
    poison = arrivals(event(3, 2))[0]
    poison = poison._replace(origin=poison.origin._replace(sequence=2**63))
    half = event(4, 3, metadata={"half": "\ud800"})
    for bad in (poison, *arrivals(half)):
        with pytest.raises(Unprojectable, match="data"):
            await store.project([*good, bad], [letter(1)])
    with pytest.raises(Unprojectable, match="data"):
        await store.project(good, [replace(letter(1), origin=letter(1).origin._replace(sequence=2**63))])
    assert set((await store.counts(None)).values()) == {0}
    assert await store.books(None) == Tally()
    await store.project(good, [letter(1)])
    assert await store.books(None) == Tally(arrived=3, projected=2, dead_lettered=1)


async def test_pages_of_episodes_follow_each_other(store: ProjectionStore) -> None:
    """In order, each once, of one tenant, of one agent where asked for, tombstones only where asked for."""
    made = [event(n, episode=n, agent=f"agent-{n % 2}") for n in range(6)]
    made.append(event(6, episode=6, agent="agent-1", type="episode.deleted"))
    await store.project(arrivals(*made, event(7, tenant="other")), [])
    seen = []
    after = Subject()
    while page := await store.episodes("demo", None, after, 2, deleted=True):
        seen += page
        after = Subject("demo", page[-1].agent, page[-1].episode)
    assert seen == sorted((state(each) for each in made), key=lambda each: (each.agent, each.episode))
    alive = await store.episodes(
        "demo", "agent-1", subject()._replace(agent="", episode=""), 9, deleted=False
    )
    assert {(each.agent, each.deleted) for each in alive} == {("agent-1", False)}
    assert len(alive) == 3


async def test_the_probe_writes(store: ProjectionStore) -> None:
    """And says how long it took."""
    assert 0 < await store.probe() < 10
