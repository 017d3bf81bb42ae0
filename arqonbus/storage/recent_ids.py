"""Recent message ids of a room, for dedup, bounded by time and by count. Pure.

There are two generations: ids go into the younger one, and a rotation drops the older one as a whole.
Dropping costs nothing per id, and an id is remembered for at least the window unless the count bound is
reached first.
"""

from __future__ import annotations

from collections import deque


class RecentIds:
    """Sequences by message id, in two generations. Hot paths read `young` and `old` directly."""

    __slots__ = ("old", "waiting", "young")

    def __init__(self) -> None:
        self.young: dict[str, int] = {}
        self.old: dict[str, int] = {}
        self.waiting = False  # a rotation is planned

    def rotate(self) -> None:
        """Drop the older generation and begin a new one."""
        self.old = self.young
        self.young = {}


class Rotations:
    """Schedule of the rotations of all rooms, so that idle rooms free their ids too."""

    def __init__(self, window_us: int) -> None:
        self._window_us = window_us
        self._planned: deque[tuple[int, RecentIds]] = deque()

    @property
    def next_us(self) -> int:
        """Time of the next rotation; far in the future if none is planned."""
        return self._planned[0][0] if self._planned else 1 << 62

    def plan(self, ids: RecentIds, now_us: int) -> None:
        """Rotate these ids one window from now, and again until they are empty."""
        if not ids.waiting:
            ids.waiting = True
            self._planned.append((now_us + self._window_us, ids))

    def run(self, now_us: int, most: int = 256) -> None:
        """Do the due rotations, at most `most` of them to keep a tick short."""
        planned = self._planned
        while planned and most and planned[0][0] <= now_us:
            _, ids = planned.popleft()
            ids.rotate()
            ids.waiting = False
            if ids.old:
                self.plan(ids, now_us)
            most -= 1


__all__ = ["RecentIds", "Rotations"]
