"""A vector clock for one actor: what it has seen, and which of two messages came first, if either did.

clock = VectorClock("billing-1")
async for message in orders:
    clock.observe(message)
    await client.publish("bills", bill, clock=clock.tick(), cause=message.id)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from arqonbus.client.message import Message
from arqonbus.protocol import clocks
from arqonbus.protocol.clocks import Clock, Order


class VectorClock(Mapping[str, int]):
    """Counts the events of an actor and remembers those of others. Reads like a mapping of actor to count.

    `actor` is 1-128 of A-Z a-z 0-9 . _ - and unique among those who write the same story. `start` is the
    clock as it was kept, when the actor goes on after a restart. Raises Invalid for a clock that is none.

    >>> alice, bob = VectorClock("alice"), VectorClock("bob")
    >>> bob.observe(alice.tick())
    >>> bob.tick()
    {'bob': 1, 'alice': 1}
    """

    def __init__(self, actor: str, start: Clock | None = None) -> None:
        self.actor = actor
        self._counts = {actor: 0, **(start or {})}
        clocks.check_clock(self._counts)

    def tick(self) -> dict[str, int]:
        """Count one event of this actor; the clock to publish it with."""
        self._counts = clocks.tick(self._counts, self.actor)
        return dict(self._counts)

    def observe(self, seen: Message | Clock) -> None:
        """Merge the clock of a message into this one. Raises Invalid beyond 64 actors."""
        merged = clocks.merge(self._counts, _clock_of(seen))
        clocks.check_clock(merged)
        self._counts = merged

    def __getitem__(self, actor: str) -> int:
        return self._counts[actor]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)


def order(left: Message | Clock, right: Message | Clock) -> Order:
    """Causal order of left and right: before, after, equal or concurrent.

    >>> order({"alice": 1}, {"alice": 1, "bob": 1})
    <Order.BEFORE: 'before'>
    """
    return clocks.compare(_clock_of(left), _clock_of(right))


def _clock_of(what: Message | Clock) -> Clock:
    return what.envelope.clock if isinstance(what, Message) else what


__all__ = ["Order", "VectorClock", "order"]
