"""Dead letters: stored once, returned as they arrived, resolved once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from arqonbus.storage.projection import Projected, ProjectionStore, Subject, Tally
from tests.contract.projection.conftest import Bench
from tests.contract.projection.records import arrivals, event, letter, state, subject


async def test_a_dead_letter_keeps_what_arrived(store: ProjectionStore) -> None:
    """Byte for byte, with the reason, the context and the time at which it was buried."""
    sent = letter(1, payload=bytes(range(256)), context={"nul": "\0", "faults": ["a", "b"], "n": 1.5})
    outcome = await store.project([], [sent])
    assert list(outcome.dead) == [sent]
    assert outcome.tallies == {"demo": Tally(arrived=1, dead_lettered=1)}
    held = await store.dead_letter("demo", sent.id)
    assert held is not None
    assert held.at is not None
    assert abs(held.at - datetime.now(UTC)) < timedelta(minutes=1)
    assert replace(held, at=None) == sent
    assert await store.dead_letter("other", sent.id) is None


async def test_a_dead_letter_is_kept_once(store: ProjectionStore) -> None:
    """The same origin again is a duplicate, in the same batch and in a later one."""
    first = await store.project([], [letter(1), letter(1)])
    again = await store.project([], [letter(1), letter(2)])
    assert first.tallies == {"demo": Tally(arrived=2, dead_lettered=1, duplicate=1)}
    assert again.tallies == {"demo": Tally(arrived=2, dead_lettered=1, duplicate=1)}
    assert [each.id for each in again.dead] == [letter(2).id]
    assert (await store.counts("demo"))["dead_letters"] == 2


async def test_pages_are_oldest_first_and_of_one_state(store: ProjectionStore) -> None:
    """Each once, of one tenant."""
    await store.project([], [letter(n) for n in (5, 3, 1, 4, 2)] + [letter(9, "other")])
    page = await store.dead_letters("demo", None, "", 3)
    rest = await store.dead_letters("demo", None, page[-1].id, 3)
    assert [each.id for each in (*page, *rest)] == [letter(n).id for n in (1, 2, 3, 4, 5)]
    await store.resolve(page[0], None, "admin", "noise")
    assert len(await store.dead_letters("demo", "open", "", 10)) == 4
    (ended,) = await store.dead_letters("demo", "discarded", "", 10)
    assert (ended.state, ended.resolved_by, ended.resolution) == ("discarded", "admin", "noise")
    assert ended.resolved_at is not None


async def test_a_replay_projects_and_ends_the_letter_in_one(store: ProjectionStore) -> None:
    """It counts as one more arrival; the greatest event wins here, too."""
    buried = letter(1)
    await store.project([], [buried])
    outcome = await store.resolve(buried, event(1), "admin", "corrected")
    assert outcome is not None
    assert outcome.tallies == {"demo": Tally(1, 1)}
    assert await store.episode(subject()) == state(event(1))
    held = await store.dead_letter("demo", buried.id)
    assert held is not None
    assert held.state == "replayed"
    assert await store.books("demo") == Tally(arrived=2, projected=1, dead_lettered=1)


async def test_a_letter_is_ended_once(bench: Bench) -> None:
    """Of many who replay and discard at one time, one does; the others are told."""
    stores = [await bench.store() for _ in range(6)]
    await stores[0].project([], [letter(1)])
    outcomes = await asyncio.gather(
        *(
            each.resolve(letter(1), event(1) if n % 2 else None, f"admin-{n}", "x")
            for n, each in enumerate(stores)
        )
    )
    assert sum(isinstance(each, Projected) for each in outcomes) == 1
    (held,) = await stores[0].dead_letters("demo", None, "", 5)
    assert held.state in ("replayed", "discarded")
    replayed = held.state == "replayed"
    assert (await stores[0].counts(None))["events"] == int(replayed)
    assert (await stores[0].books(None)).difference == 0
    assert await stores[0].resolve(letter(1), event(2), "late", "x") is None
    assert await stores[0].resolve(letter(7), None, "nobody", "x") is None


async def test_a_replay_of_what_is_projected_already_is_a_duplicate(store: ProjectionStore) -> None:
    """Nothing changes twice, and the books balance."""
    await store.project(arrivals(event(1)), [letter(1)])
    outcome = await store.resolve(letter(1), event(1), "admin", "again")
    assert outcome is not None
    assert outcome.tallies == {"demo": Tally(arrived=1, duplicate=1)}
    assert len(await store.episodes("demo", None, Subject(), 9, deleted=True)) == 1
    assert (await store.books("demo")).difference == 0
