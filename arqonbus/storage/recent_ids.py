"""The ids a room has seen lately, for dedup, in memory that is bounded by time and by count. Pure.

Two generations: ids go into the younger one, and a rotation forgets the older one whole. So forgetting
costs nothing per id, and an id is remembered for at least the window unless the count bound comes first.
"""

from __future__ import annotations

from collections import deque


class RecentIds:
    """Sequence by message id, in two generations. Hot paths read `young` and `old` directly."""

    __slots__ = ("old", "waiting", "young")

    def __init__(self) -> None:
        self.young: dict[str, int] = {}
        self.old: dict[str, int] = {}
        self.waiting = False  # a rotation is planned

    def rotate(self) -> None:
        """Forget the older generation and begin a new one."""
        self.old = self.young
        self.young = {}


class Rotations:
    """Plans the rotation of every room's ids, so that idle rooms lose theirs too."""

    def __init__(self, window_us: int) -> None:
        self._window_us = window_us
        self._planned: deque[tuple[int, RecentIds]] = deque()

    @property
    def next_us(self) -> int:
        """When `run` has work to do; far in the future if nothing is planned."""
        return self._planned[0][0] if self._planned else 1 << 62

    def plan(self, ids: RecentIds, now_us: int) -> None:
        """Rotate these ids one window from now, and again until they are empty."""
        if not ids.waiting:
            ids.waiting = True
            self._planned.append((now_us + self._window_us, ids))

    def run(self, now_us: int, most: int = 256) -> None:
        """Do the rotations that are due, at most `most` of them so that one tick never stalls."""
        planned = self._planned
        while planned and most and planned[0][0] <= now_us:
            _, ids = planned.popleft()
            ids.rotate()
            ids.waiting = False
            if ids.old:
                self.plan(ids, now_us)
            most -= 1


__all__ = ["RecentIds", "Rotations"]
