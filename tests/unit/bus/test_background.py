"""Background tasks: failures are logged, and the end waits for all of them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from arqonbus.bus.background import Background


async def test_a_failure_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback; what is done or was ended says nothing."""

    async def fail() -> None:
        raise LookupError("nobody asked")

    background = Background()
    done, failed = background.run(asyncio.sleep(0)), background.run(fail())
    await asyncio.wait({done, failed})
    await asyncio.sleep(0)
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "a background task failed")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


async def test_the_end_waits_until_nothing_runs(caplog: pytest.LogCaptureFixture) -> None:
    """Not even what takes its time to go."""
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    background = Background()
    tasks = [background.run(work()) for _ in range(3)]
    await asyncio.sleep(0)
    await background.end()
    assert cleaned == [True] * 3
    assert all(task.cancelled() for task in tasks)
    assert caplog.records == []
