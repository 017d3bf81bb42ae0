"""Counts the outcomes of a batch from the store's results. Pure, the same for every store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from arqonbus.storage.projection import Arrival, DeadLetter, Event, Projected, Tally

Key = tuple[str, str, str]
Rank = tuple[datetime, str]


class Fresh(NamedTuple):
    """A new event: whether the batch updated its episode, and the episode's previous rank."""

    applied: bool
    prior: Rank | None


def distinct(arrivals: Iterable[Arrival]) -> Sequence[Arrival]:
    """The first arrival of each event. A store would refuse an event that occurs twice in one statement."""
    once: dict[Key, Arrival] = {}
    for arrival in arrivals:
        once.setdefault(arrival.event.key, arrival)
    return list(once.values())


def newest(arrivals: Iterable[Arrival]) -> Mapping[Key, Arrival]:
    """The greatest event of each episode."""
    found: dict[Key, Arrival] = {}
    for arrival in arrivals:
        held = found.get(arrival.event.subject)
        if held is None or held.event.rank < arrival.event.rank:
            found[arrival.event.subject] = arrival
    return found


def tally(
    arrivals: Sequence[Arrival],
    dead: Sequence[DeadLetter],
    fresh: Mapping[Key, Fresh],
    buried: Collection[str],
) -> Projected:
    """Count a batch as if its records had arrived one by one, in order.

    `fresh`: events that are new to the store. `buried`: ids of dead letters that are new to it. Other dead
    letters, and repeated ones in the batch, are duplicates.
    """
    counts: dict[str, Counter[str]] = {}
    stale: list[Event] = []
    left = dict(fresh)
    reached: dict[Key, Rank] = {}
    for arrival in arrivals:
        event = arrival.event
        counter = counts.setdefault(event.tenant, Counter())
        counter["arrived"] += 1
        found = left.pop(event.key, None)
        if found is None:
            counter["duplicate"] += 1
            continue
        standing = max(filter(None, (found.prior, reached.get(event.subject))), default=None)
        if not found.applied or (standing is not None and event.rank < standing):
            counter["stale"] += 1
            stale.append(event)
        else:
            counter["projected"] += 1
            reached[event.subject] = event.rank
    unburied = set(buried)
    new: list[DeadLetter] = []
    for letter in dead:
        counter = counts.setdefault(letter.tenant, Counter())
        counter["arrived"] += 1
        if letter.id in unburied:
            unburied.discard(letter.id)
            counter["dead_lettered"] += 1
            new.append(letter)
        else:
            counter["duplicate"] += 1
    return Projected({tenant: Tally(**counter) for tenant, counter in counts.items()}, stale, new)


__all__ = ["Fresh", "distinct", "newest", "tally"]
