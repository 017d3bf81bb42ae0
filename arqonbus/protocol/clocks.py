"""Logical time: vector clocks, and positions in a sequence domain.

A vector clock orders events by cause. A position orders entries of one log; positions of different
epochs have no order, and asking for one is an error rather than a guess. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from arqonbus.protocol.errors import Invalid
from arqonbus.protocol.names import is_name

MAX_ENTRIES = 64
MAX_COUNTER = (1 << 64) - 1

Clock = Mapping[str, int]


class Order(Enum):
    """The causal order of two clocks."""

    EQUAL = "equal"
    BEFORE = "before"
    AFTER = "after"
    CONCURRENT = "concurrent"


def check_clock(clock: Clock) -> None:
    """Raise Invalid unless every actor is a name and every counter fits an unsigned 64-bit integer."""
    if len(clock) > MAX_ENTRIES:
        raise Invalid("clock", f"clock has {len(clock)} entries; at most {MAX_ENTRIES} are accepted")
    for actor, counter in clock.items():
        if not is_name(actor):
            raise Invalid("clock", "clock names an actor that is not 1-128 of A-Z a-z 0-9 . _ -")
        if not 0 <= counter <= MAX_COUNTER:
            raise Invalid("clock", f"clock counter of {actor} is outside 0..2^64-1")


def tick(clock: Clock, actor: str) -> dict[str, int]:
    """A copy in which the actor has counted one event more."""
    return {**clock, actor: clock.get(actor, 0) + 1}


def merge(left: Clock, right: Clock) -> dict[str, int]:
    """The least clock that is not before either: the greater counter of each actor."""
    merged = dict(left)
    for actor, counter in right.items():
        if counter > merged.get(actor, -1):
            merged[actor] = counter
    return merged


def compare(left: Clock, right: Clock) -> Order:
    """Order of left to right. A missing actor counts as 0."""
    less = any(counter < right.get(actor, 0) for actor, counter in left.items()) or any(
        counter > 0 and actor not in left for actor, counter in right.items()
    )
    greater = any(counter > right.get(actor, 0) for actor, counter in left.items())
    if less and greater:
        return Order.CONCURRENT
    if less:
        return Order.BEFORE
    return Order.AFTER if greater else Order.EQUAL


class Position(NamedTuple):
    """A place in one room's log: the epoch is the domain in which the sequence counts."""

    epoch: str
    sequence: int

    def is_behind(self, other: Position) -> bool:
        """True if self is earlier. Raises ValueError across epochs, which have no order."""
        if self.epoch != other.epoch:
            raise ValueError("positions of different epochs have no order")
        return self.sequence < other.sequence


__all__ = [
    "MAX_COUNTER",
    "MAX_ENTRIES",
    "Clock",
    "Order",
    "Position",
    "check_clock",
    "compare",
    "merge",
    "tick",
]
