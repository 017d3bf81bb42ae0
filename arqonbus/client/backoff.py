"""Delay before the next attempt: exponential with full jitter.

Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ (full jitter).
"""

from __future__ import annotations

import random


class Backoff:
    """Waiting times in seconds. `first` is the bound of the first wait, `most` the largest bound."""

    def __init__(self, first: float = 0.1, most: float = 10.0) -> None:
        self._first = first
        self._most = most
        self._attempt = 0

    def next(self, hint: float = 0.0) -> float:
        """The next wait: random up to a bound that doubles, plus the server's hint."""
        bound = min(self._most, self._first * 2**self._attempt)
        self._attempt = min(self._attempt + 1, 30)
        return hint + random.uniform(0, bound)  # noqa: S311  (jitter, not a secret)

    def reset(self) -> None:
        """Start over with the first bound."""
        self._attempt = 0


__all__ = ["Backoff"]
