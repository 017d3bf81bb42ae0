"""Clock skew of a client, estimated from its messages. Pure.

A message cannot come from the future, so one that is ahead proves that the clock is. One that is behind may
have waited somewhere; only when every one of a while is behind, the clock is.
"""

from __future__ import annotations

INTERVAL = 1.0  # seconds between two looks
LOOKS = 8  # that have to agree before a clock counts as behind


class SkewWatch:
    """Looks at one client now and then: when `now`, in monotonic seconds, has reached `due`."""

    __slots__ = ("_leads", "due", "skewed")

    def __init__(self) -> None:
        self.due = 0.0
        self.skewed = False
        self._leads: list[int] = []

    def look(self, lead_us: int, limit_us: int, now: float) -> int | None:
        """Skew in µs (negative: behind) when it has just become too great; else None.

        `lead_us`: the time that the newest message claims, less ours. `limit_us`: what is tolerated.
        """
        self.due = now + INTERVAL
        self._leads = [*self._leads[1 - LOOKS :], lead_us]
        nearest = max(self._leads)
        ahead = lead_us > limit_us
        behind = len(self._leads) == LOOKS and nearest < -limit_us
        was, self.skewed = self.skewed, ahead or behind
        if not self.skewed or was:
            return None
        return lead_us if ahead else nearest


__all__ = ["INTERVAL", "LOOKS", "SkewWatch"]
