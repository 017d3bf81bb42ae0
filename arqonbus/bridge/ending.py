"""A request to end is not forgotten, whatever a library makes of it."""

from __future__ import annotations

import asyncio


def is_cancelled() -> bool:
    """True if the current task was asked to end, also where the CancelledError did not come through.

    nats waits with `asyncio.wait_for`, which before Python 3.12 returns an answer of the same turn instead of
    raising it. Source: https://github.com/python/cpython/issues/86296
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


__all__ = ["is_cancelled"]
