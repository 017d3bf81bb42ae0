"""The tally of a batch, compared with counting its records one by one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from arqonbus.storage.projection import Event
from arqonbus.storage.tallying import Fresh, Key, Rank, distinct, newest, tally
from tests.contract.projection.records import arrivals, event, letter

_events = st.builds(
    lambda number, at, episode, tenant: event(number, at, episode=episode, tenant=tenant),
    st.integers(0, 5), st.integers(0, 2), st.integers(0, 1), st.sampled_from(["a", "b"]),
)  # fmt: skip
_letters = st.builds(letter, st.integers(0, 3), st.sampled_from(["a", "b"]))


class OneByOne:
    """What a store would do that takes each record for itself."""

    def __init__(self) -> None:
        self.events: dict[Key, Event] = {}
        self.standing: dict[Key, Rank] = {}
        self.letters: set[str] = set()
        self.counts: Counter[tuple[str, str]] = Counter()

    def take(self, each: Event) -> None:
        self.counts[each.tenant, "arrived"] += 1
        if each.key in self.events:
            self.counts[each.tenant, "duplicate"] += 1
            return
        self.events[each.key] = each
        if each.subject in self.standing and self.standing[each.subject] > each.rank:
            self.counts[each.tenant, "stale"] += 1
        else:
            self.standing[each.subject] = each.rank
            self.counts[each.tenant, "projected"] += 1

    def bury(self, tenant: str, id: str) -> None:
        self.counts[tenant, "arrived"] += 1
        self.counts[tenant, "duplicate" if id in self.letters else "dead_lettered"] += 1
        self.letters.add(id)


@given(st.lists(_events, max_size=8), st.lists(_events, max_size=10), st.lists(_letters, max_size=4))
def test_a_batch_counts_as_its_records_one_by_one(before, batch, dead):
    """Whatever the store held before, and however often and in which order the records of the batch come."""
    model = OneByOne()
    for each in before:
        model.take(each)
    held, standing = dict(model.events), dict(model.standing)
    model.counts.clear()

    coming = arrivals(*batch)
    new = [arrival for arrival in distinct(coming) if arrival.event.key not in held]
    moved = {
        key: Fresh(key not in standing or standing[key] < arrival.event.rank, standing.get(key))
        for key, arrival in newest(new).items()
    }
    fresh = {arrival.event.key: moved[arrival.event.subject] for arrival in new}
    found = tally(coming, dead, fresh, {each.id for each in dead})

    for each in batch:
        model.take(each)
    for each in dead:
        model.bury(each.tenant, each.id)
    told = Counter(
        {(tenant, name): n for tenant, t in found.tallies.items() for name, n in t._asdict().items()}
    )
    assert +told == +model.counts
    assert all(each.difference == 0 for each in found.tallies.values())
    assert len(found.stale) == sum(n for (_, name), n in model.counts.items() if name == "stale")
    assert {each.id for each in found.dead} == {each.id for each in dead}


def test_the_first_of_the_same_events_stands_for_all():
    """With the place in the log that it came from."""
    coming = arrivals(event(1), event(2), event(1))
    assert list(distinct(coming)) == list(coming[:2])


@given(st.lists(_events, max_size=10))
def test_the_newest_of_an_episode_is_its_greatest_event(batch):
    """Each episode that the batch has, once."""
    found = newest(arrivals(*batch))
    assert set(found) == {each.subject for each in batch}
    for subject, arrival in found.items():
        assert arrival.event.rank == max(each.rank for each in batch if each.subject == subject)
