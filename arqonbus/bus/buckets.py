"""Token bucket: how much an identity may send. Pure; the caller brings the time."""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens a second up to `burst`. A rate of 0 means no limit."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = max(burst, rate)
        self._tokens = self.burst
        self._at = now

    def take(self, wanted: int, now: float) -> int:
        """Take as many of the wanted tokens as there are, and return their number."""
        if not self.rate:
            return wanted
        tokens = self._tokens + (now - self._at) * self.rate
        self._at = now
        if tokens > self.burst:
            tokens = self.burst
        granted = wanted if tokens >= wanted else int(tokens)
        self._tokens = tokens - granted
        return granted

    def take_whole(self, wanted: int, now: float) -> bool:
        """Take all of the wanted tokens, or none. True if they were taken."""
        if not self.rate:
            return True
        self._refill(now)
        if self._tokens < wanted:
            return False
        self._tokens -= wanted
        return True

    def is_full(self, now: float) -> bool:
        """True if the bucket is full, as a new one is."""
        if self.rate:
            self._refill(now)
        return self._tokens >= self.burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now

    def wait_ms(self, wanted: int = 1) -> int:
        """Milliseconds until that many tokens are there, or the whole burst; at least 1."""
        lacking = min(wanted, self.burst) - self._tokens
        # One to round up, one because sums of floating-point times can fall short by a hair.
        return max(1, int(1000 * lacking / self.rate) + 2) if self.rate else 1


__all__ = ["TokenBucket"]
