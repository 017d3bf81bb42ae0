"""Vector clocks and positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.protocol.clocks import (
    MAX_COUNTER,
    MAX_ENTRIES,
    Order,
    Position,
    check_clock,
    compare,
    merge,
    tick,
)
from arqonbus.protocol.errors import Invalid

ACTORS = st.sampled_from(["a", "b", "c", "d"])
CLOCKS = st.dictionaries(ACTORS, st.integers(0, 4))
SWAPPED = {
    Order.EQUAL: Order.EQUAL,
    Order.CONCURRENT: Order.CONCURRENT,
    Order.BEFORE: Order.AFTER,
    Order.AFTER: Order.BEFORE,
}


@given(CLOCKS, CLOCKS, CLOCKS)
def test_merge_is_a_join(a: dict[str, int], b: dict[str, int], c: dict[str, int]) -> None:
    """Merging is commutative, associative and idempotent."""
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    assert merge(merge(a, b), b) == merge(a, b)


@given(CLOCKS, CLOCKS)
def test_merge_leaves_its_arguments(a: dict[str, int], b: dict[str, int]) -> None:
    """Merging and ticking give new clocks and change none."""
    before = dict(a), dict(b)
    merge(a, b)["a"] = 99
    tick(a, "a")["b"] = 99
    assert (a, b) == before


@given(CLOCKS, CLOCKS)
def test_compare_is_antisymmetric(a: dict[str, int], b: dict[str, int]) -> None:
    """Swapping the sides swaps before and after."""
    assert compare(b, a) == SWAPPED[compare(a, b)]
    assert compare(a, a) == Order.EQUAL


@given(CLOCKS, CLOCKS)
def test_compare_is_the_order_of_each_actor(a: dict[str, int], b: dict[str, int]) -> None:
    """A clock is before another if no actor's counter is greater and one is less; missing means 0."""
    actors = {*a, *b}
    at_most = all(a.get(actor, 0) <= b.get(actor, 0) for actor in actors)
    at_least = all(a.get(actor, 0) >= b.get(actor, 0) for actor in actors)
    wanted = {
        (True, True): Order.EQUAL,
        (True, False): Order.BEFORE,
        (False, True): Order.AFTER,
        (False, False): Order.CONCURRENT,
    }
    assert compare(a, b) == wanted[at_most, at_least]


@given(CLOCKS, CLOCKS, ACTORS)
def test_compare_agrees_with_merge_and_tick(a: dict[str, int], b: dict[str, int], actor: str) -> None:
    """A merged clock is before neither side and equals the greater of ordered ones; a tick is after."""
    merged = merge(a, b)
    assert compare(merged, a) in (Order.EQUAL, Order.AFTER)
    assert compare(merged, b) in (Order.EQUAL, Order.AFTER)
    if compare(a, b) in (Order.BEFORE, Order.EQUAL):
        assert compare(merged, b) == Order.EQUAL
    assert compare(tick(a, actor), a) == Order.AFTER
    assert compare(tick(merged, actor), b) == Order.AFTER


@given(CLOCKS, CLOCKS, CLOCKS)
def test_before_is_transitive(a: dict[str, int], b: dict[str, int], c: dict[str, int]) -> None:
    """What is before something earlier is before what is later."""
    if compare(a, b) == Order.BEFORE and compare(b, c) == Order.BEFORE:
        assert compare(a, c) == Order.BEFORE


REFUSED = {
    "too many actors": {f"a{n}": 1 for n in range(MAX_ENTRIES + 1)},
    "actor that is no name": {"a b": 1},
    "empty actor": {"": 1},
    "negative counter": {"a": -1},
    "counter of 2^64": {"a": MAX_COUNTER + 1},
    "tick of the greatest counter": tick({"a": MAX_COUNTER}, "a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """A clock of too many actors, bad names or counters outside 64 bits is refused."""
    with pytest.raises(Invalid, match="clock "):
        check_clock(REFUSED[case])


def test_accepted() -> None:
    """A clock may have 64 actors and counters up to 2^64-1."""
    check_clock({f"a{n}": MAX_COUNTER for n in range(MAX_ENTRIES)})
    check_clock({})


def test_positions() -> None:
    """Positions are ordered by sequence within an epoch, and asking across epochs is an error."""
    assert Position("e", 1).is_behind(Position("e", 2))
    assert not Position("e", 2).is_behind(Position("e", 2))
    with pytest.raises(ValueError, match="no order"):
        Position("e", 1).is_behind(Position("f", 2))
