"""Backfill and rebuild: the projection follows from the events, in steps that can be resumed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arqonbus.storage.projection import (
    Episode,
    Event,
    ProjectionStore,
    Reprojected,
    Selection,
    Subject,
)
from tests.contract.projection.conftest import Bench
from tests.contract.projection.records import NOON, arrivals, event, state, subject

EVERYTHING = Selection()
_tenants = (f"tenant-{number}" for number in itertools.count())


async def _all(store: ProjectionStore, tenant: str = "demo") -> Sequence[Episode]:
    return await store.episodes(tenant, None, Subject(), 10_000, deleted=True)


async def _run(
    store: ProjectionStore,
    selection: Selection = EVERYTHING,
    *,
    rebuild: bool = False,
    dry_run: bool = False,
    limit: int = 7,
) -> Reprojected:
    """Every step to the end; the sum."""
    total = Reprojected(0, 0, 0, 0, None)
    after: Subject | None = Subject()
    while after is not None:
        step = await store.reproject(selection, after, limit, rebuild=rebuild, dry_run=dry_run)
        assert step.episodes <= limit
        total = Reprojected(*(mine + theirs for mine, theirs in zip(total[:4], step[:4], strict=True)), None)
        after = step.next
    return total


async def _filled(store: ProjectionStore, episodes: int = 20) -> Sequence[Event]:
    """Three events for each episode, some of them deleted, in two tenants and of two agents."""
    made = [
        event(
            number * 3 + turn, turn * 60 + number, episode=number, agent=f"agent-{number % 2}",
            tenant="demo" if number % 5 else "other",
            type="episode.deleted" if turn == 2 and number % 4 == 0 else "episode.updated",
        )
        for number in range(episodes) for turn in range(3)
    ]  # fmt: skip
    await store.project(arrivals(*made), [])
    return made


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM episodes",
        "UPDATE episodes SET tags = '[]', summary = NULL, content_ref = 'gone'",
        "UPDATE episodes SET metadata = '{\"number\":0}' WHERE agent_id = 'agent-1'",
        "UPDATE episodes SET event_type = 'episode.created', deleted = NOT deleted",
        "DELETE FROM episodes WHERE agent_id = 'agent-0'",
    ],
)
async def test_a_damaged_projection_is_rebuilt_identical(
    bench: Bench, store: ProjectionStore, damage: str
) -> None:
    """Rows that are missing or wrong in any column; rows that are right are not counted as changed."""
    await _filled(store)
    before = {tenant: await _all(store, tenant) for tenant in ("demo", "other")}
    assert await _run(store, rebuild=True) == Reprojected(20, 60, 0, 0, None)
    if bench.__class__.__name__ == "SqliteBench":
        damage = damage.replace("NOT deleted", "1 - deleted")
    else:
        damage = (
            damage.replace("= 'gone'", "= 'gone', source_ts = 'infinity'") if "gone" in damage else damage
        )
    bench.tamper(damage)
    assert {tenant: await _all(store, tenant) for tenant in before} != before
    assert (await _run(store, rebuild=True)).changed > 0
    assert {tenant: await _all(store, tenant) for tenant in before} == before
    assert (await _run(store, rebuild=True)).changed == 0


async def test_rows_ahead_of_every_event_are_taken_back_by_a_rebuild_only(
    bench: Bench, store: ProjectionStore
) -> None:
    """The guard holds in a backfill."""
    await store.project(arrivals(event(1)), [])
    column, value = (
        ("source_us", "source_us + 1") if bench.__class__.__name__ == "SqliteBench" else
        ("source_ts", "source_ts + interval '1 second'")
    )  # fmt: skip
    bench.tamper(f"UPDATE episodes SET {column} = {value}")
    assert (await _run(store)).changed == 0
    assert await store.episode(subject()) != state(event(1))
    assert (await _run(store, rebuild=True)).changed == 1
    assert await store.episode(subject()) == state(event(1))


async def test_a_backfill_fills_what_is_missing_in_its_window(bench: Bench, store: ProjectionStore) -> None:
    """The window is half-open by the time of the source: from <= t < to."""
    made = [event(n, n, episode=n) for n in range(10)]
    await store.project(arrivals(*made), [])
    bench.tamper("DELETE FROM episodes")
    window = Selection("demo", None, NOON + timedelta(seconds=3), NOON + timedelta(seconds=6))
    assert await store.select(window) == (3, 3)
    assert await _run(store, window) == Reprojected(3, 3, 3, 0, None)
    assert sorted(await _all(store)) == sorted(state(made[n]) for n in (3, 4, 5))
    assert await store.select(Selection()) == (10, 10)


async def test_a_selection_may_name_tenant_and_agent(bench: Bench, store: ProjectionStore) -> None:
    """And then nothing else is touched."""
    await _filled(store)
    bench.tamper("DELETE FROM episodes")
    assert await store.select(Selection("demo", "agent-1")) == (24, 8)
    await _run(store, Selection("demo", "agent-1"))
    assert {each.agent for each in await _all(store)} == {"agent-1"}
    assert await _all(store, "other") == []
    await _run(store, Selection("other"), rebuild=True)
    assert len(await _all(store, "other")) == 4


@pytest.mark.parametrize("rebuild", [False, True])
async def test_a_dry_run_changes_nothing_and_tells_what_the_run_does(
    bench: Bench, store: ProjectionStore, rebuild: bool
) -> None:
    """The same counts, and every row as it was."""
    await _filled(store)
    bench.tamper("DELETE FROM episodes WHERE agent_id = 'agent-0'")
    bench.tamper("UPDATE episodes SET summary = 'wrong'")
    window = Selection(None, None, NOON, NOON + timedelta(seconds=90))
    before = await _all(store), await _all(store, "other"), await store.books(None)
    told = await _run(store, window, rebuild=rebuild, dry_run=True)
    assert (await _all(store), await _all(store, "other"), await store.books(None)) == before
    assert await _run(store, window, rebuild=rebuild) == told
    assert told.changed == (20 if rebuild else 10)


async def test_a_run_that_was_interrupted_goes_on_from_its_cursor(
    bench: Bench, store: ProjectionStore
) -> None:
    """With another store, and nothing is done twice."""
    await _filled(store)
    whole = await _all(store), await _all(store, "other")
    bench.tamper("DELETE FROM episodes")
    first = await store.reproject(EVERYTHING, Subject(), 8, rebuild=True, dry_run=False)
    assert (first.episodes, first.changed) == (8, 8)
    assert first.next is not None
    other = await bench.store()
    second = await other.reproject(EVERYTHING, first.next, 100, rebuild=True, dry_run=False)
    assert (second.episodes, second.changed, second.next) == (12, 12, None)
    assert (await _all(store), await _all(store, "other")) == whole


async def test_what_comes_in_during_a_rebuild_is_not_lost(bench: Bench, store: ProjectionStore) -> None:
    """In every round two writers move all episodes on while these are rebuilt twice."""
    writers = [await bench.store() for _ in range(2)]
    episodes = range(100)
    for turn in range(30):
        batches = [
            [event(turn * 1000 + writer * 100 + n, turn * 2 + writer, episode=n) for n in episodes]
            for writer in range(2)
        ]
        await asyncio.gather(
            *(writer.project(arrivals(*batch), []) for writer, batch in zip(writers, batches, strict=True)),
            *(_run(store, rebuild=True, limit=limit) for limit in (100, 60)),
        )
        assert sorted(await _all(store)) == sorted(map(state, batches[1]))
    assert (await _run(store, rebuild=True, dry_run=True)).changed == 0


async def test_retention_drops_months_whole_and_leaves_their_episodes(store: ProjectionStore) -> None:
    """By the time in the event's id; episodes without an event are counted as orphans, and stay."""
    months = [datetime(2026, month, 28, tzinfo=UTC) for month in (1, 2, 3)]
    made = [event(n, n, episode=n, born=born) for n, born in enumerate(months)]
    await store.project(arrivals(*made), [])
    assert list(await store.retire(datetime(2026, 1, 31, 23, tzinfo=UTC))) == []
    assert list(await store.retire(datetime(2026, 3, 1, tzinfo=UTC))) == ["events_2026_01", "events_2026_02"]
    assert (await store.counts("demo"))["events"] == 1
    before = await _all(store)
    assert await _run(store, rebuild=True) == Reprojected(3, 1, 0, 2, None)
    assert await _all(store) == before
    assert list(await store.retire(datetime(2026, 3, 1, tzinfo=UTC))) == []


async def test_an_event_of_a_month_that_another_process_dropped_is_taken(bench: Bench) -> None:
    """A store that has seen the partition finds that it is gone, and makes it again."""
    one, other = await bench.store(), await bench.store()
    old = datetime(2026, 1, 28, tzinfo=UTC)
    await one.project(arrivals(event(1, born=old)), [])
    await other.retire(datetime(2026, 3, 1, tzinfo=UTC))
    outcome = await one.project(arrivals(event(2, 1, born=old)), [])
    assert outcome.tallies["demo"].projected == 1


async def test_the_pages_of_events_hold_each_event_once(store: ProjectionStore) -> None:
    """In the order of their keys, as they came in, of the selection only; from any place on."""
    made = await _filled(store, 500)
    ordered = sorted(made, key=lambda each: each.key)
    read = [each async for page in store.events(EVERYTHING, ("", "", "")) for each in page]
    assert read == ordered
    rest = [each async for page in store.events(EVERYTHING, ordered[700].key) for each in page]
    assert rest == ordered[701:]
    ours = [each async for page in store.events(Selection("other", "agent-0"), ("", "", "")) for each in page]
    assert ours == [each for each in ordered if each.key[:2] == ("other", "agent-0")]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(
        st.tuples(st.integers(0, 999), st.integers(0, 5), st.integers(0, 3)),
        max_size=12,
        unique_by=lambda t: t[0],
    ),
    window=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    limit=st.integers(1, 5),
)
async def test_a_rebuild_of_a_window_never_changes_a_sound_projection(
    store: ProjectionStore, made: list[tuple[int, int, int]], window: tuple[int, int], limit: int
) -> None:
    """Whatever the window and the steps: an episode is made from all of its events."""
    tenant = next(_tenants)
    events = [event(n, at, episode=episode, tenant=tenant) for n, at, episode in made]
    await store.project(arrivals(*events), [])
    since, until = (NOON + timedelta(seconds=each) for each in window)
    for rebuild in (False, True):
        done = await _run(store, Selection(tenant, None, since, until), rebuild=rebuild, limit=limit)
        assert (done.changed, done.orphans) == (0, 0)
        inside = {each.episode for each in events if since <= each.source_ts < until}
        assert done.episodes == len(inside)
