"""Detection of clients whose clock is off."""

from __future__ import annotations

from arqonbus.bus.skew import INTERVAL, LOOKS, SkewWatch

LIMIT = 5_000_000


def looks(*leads: int) -> list[int | None]:
    watch = SkewWatch()
    return [watch.look(lead, LIMIT, number * INTERVAL) for number, lead in enumerate(leads)]


def test_one_message_from_the_future_is_enough() -> None:
    """It is said once, and again after it was well in between."""
    assert looks(0, LIMIT + 1, LIMIT + 2, 0, LIMIT + 3) == [None, LIMIT + 1, None, None, LIMIT + 3]


def test_old_messages_prove_nothing_until_all_are_old() -> None:
    """The one that waited least says how far the clock is behind."""
    old = [-LIMIT - 10 * number - 1 for number in range(LOOKS)]
    assert looks(*old[1:]) == [None] * (LOOKS - 1)
    assert looks(*old[1:], old[0]) == [None] * (LOOKS - 1) + [old[0]]
    assert looks(*old, 0, *old[1:])[LOOKS:] == [None] * LOOKS
    assert looks(*([-LIMIT] * LOOKS)) == [None] * LOOKS


def test_it_looks_once_in_an_interval() -> None:
    """Messages in between cost nothing."""
    watch = SkewWatch()
    assert watch.due == 0
    watch.look(0, LIMIT, 100.0)
    assert watch.due == 100.0 + INTERVAL
