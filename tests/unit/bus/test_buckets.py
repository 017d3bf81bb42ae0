"""Token buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arqonbus.bus.buckets import TokenBucket

RATES = st.integers(1, 1000)
BURSTS = st.integers(0, 3000)
USE = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 5000)), max_size=40)


@given(RATES, BURSTS, USE)
def test_no_window_grants_more_than_its_share(rate: int, burst: int, use: list[tuple[float, int]]) -> None:
    """Between any two moments at most burst + rate * time tokens are granted."""
    bucket = TokenBucket(rate, burst, 0.0)
    now, granted = 0.0, [(0.0, 0)]
    for pause, wanted in use:
        now += pause
        taken = bucket.take(wanted, now)
        assert 0 <= taken <= wanted
        granted.append((now, taken))
    for begin in range(len(granted)):
        total = 0
        for at, taken in granted[begin:]:
            total += taken
            assert total <= max(burst, rate) + rate * (at - granted[begin][0]) + 1e-6


@given(RATES, BURSTS, USE)
def test_what_is_there_is_granted(rate: int, burst: int, use: list[tuple[float, int]]) -> None:
    """A bucket that was left alone for long enough grants its whole burst, whatever was before."""
    bucket = TokenBucket(rate, burst, 0.0)
    now = 0.0
    for pause, wanted in use:
        now += pause
        bucket.take(wanted, now)
    full = max(burst, rate)
    assert bucket.take(full, now + full / rate + 1) == full


@given(RATES, BURSTS, USE, st.integers(1, 1000))
def test_the_hint_is_long_enough(rate: int, burst: int, use: list[tuple[float, int]], wanted: int) -> None:
    """Whoever waits as long as the hint says gets what was asked for."""
    bucket = TokenBucket(rate, burst, 0.0)
    now = 0.0
    for pause, amount in use:
        now += pause
        bucket.take(amount, now)
    wanted = min(wanted, max(rate, burst))
    assert bucket.wait_ms(wanted) >= 1
    assert bucket.take(wanted, now + bucket.wait_ms(wanted) / 1000) == wanted


@given(st.lists(st.integers(0, 2**40), max_size=5))
def test_no_rate_is_no_limit(wanted: list[int]) -> None:
    """A rate of 0 grants everything."""
    bucket = TokenBucket(0, 0, 0.0)
    assert [bucket.take(amount, 0.0) for amount in wanted] == wanted
    assert bucket.wait_ms() == 1
