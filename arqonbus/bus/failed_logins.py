"""Refused tokens by address: who keeps failing is answered later and later, and fills no log. Pure.

Only refusals are held back. A valid token is accepted at once, also from an address of which others fail, for
behind one address may be a whole office.
"""

from __future__ import annotations

from arqonbus.bus.buckets import TokenBucket
from arqonbus.shield.proxies import network_of

FIRST_DELAY = 0.25  # seconds; twice as long for each further failure
MAX_DELAY = 4.0
MAX_WAITING = 32  # answers of one address that are held back at one time
MAX_NETWORKS = 10_000  # that are remembered; beyond, the one whose last failure is longest ago is forgotten
LINES_AT_ONCE = 100  # about one address
LINES_PER_SECOND = 1 / 3
ALL_LINES_AT_ONCE = 1000
ALL_LINES_PER_SECOND = 20.0


class _Failures:
    """The record of one network."""

    __slots__ = ("allowed", "strikes", "waiting")

    def __init__(self, allowed: TokenBucket) -> None:
        self.allowed = allowed
        self.strikes = 0
        self.waiting = 0


class FailedLogins:
    """The failures of one port."""

    def __init__(self) -> None:
        self._networks: dict[str, _Failures] = {}

    def hold(self, address: str, per_minute: int, now: float) -> float | None:
        """Seconds by which to hold back the answer to a failure; None: too many are held back already.

        The first `per_minute` are answered at once. Where the result is positive, call `release` afterwards.
        """
        failures = self._of(address, per_minute, now)
        if failures.allowed.is_full(now):
            failures.strikes = 0
        if failures.allowed.take_whole(1, now):
            return 0.0
        if failures.waiting >= MAX_WAITING:
            return None
        failures.waiting += 1
        delay = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(failures.strikes, 16))
        failures.strikes += 1
        return delay

    def release(self, address: str) -> None:
        """The answer was given, or its client left."""
        failures = self._networks.get(network_of(address))
        if failures is not None and failures.waiting:
            failures.waiting -= 1

    def _of(self, address: str, per_minute: int, now: float) -> _Failures:
        network = network_of(address)
        failures = self._networks.pop(network, None)
        if failures is None or failures.allowed.burst != per_minute:
            failures = _Failures(TokenBucket(per_minute / 60, per_minute, now))
        if len(self._networks) >= MAX_NETWORKS:
            del self._networks[next(iter(self._networks))]
        self._networks[network] = failures
        return failures


class LineBudget:
    """Limits of log lines about refusals, in all and per address."""

    def __init__(self, now: float) -> None:
        self._all = TokenBucket(ALL_LINES_PER_SECOND, ALL_LINES_AT_ONCE, now)
        self._networks: dict[str, TokenBucket] = {}
        self._suppressed = 0

    def spend(self, address: str, now: float) -> int | None:
        """Lines suppressed since the last one; None: suppress this one too."""
        network = network_of(address)
        bucket = self._networks.pop(network, None) or TokenBucket(LINES_PER_SECOND, LINES_AT_ONCE, now)
        if len(self._networks) >= MAX_NETWORKS:
            del self._networks[next(iter(self._networks))]
        self._networks[network] = bucket
        if not (bucket.take_whole(1, now) and self._all.take_whole(1, now)):
            self._suppressed += 1
            return None
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


__all__ = ["LINES_AT_ONCE", "MAX_DELAY", "MAX_WAITING", "FailedLogins", "LineBudget"]
