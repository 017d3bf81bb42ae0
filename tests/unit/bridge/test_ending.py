"""Cancellation ends the bridge, also where a library swallows the request."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from nats.errors import TimeoutError as NatsTimeout

from arqonbus.bridge.ending import is_cancelled
from arqonbus.bridge.inbound import Inbound
from arqonbus.bridge.state import BridgeTotals
from arqonbus.config.bridge import Bridge, Mapping


class _Consumer:
    """Stands for JetStream and for what it gives."""

    async def pull_subscribe(self, *arguments: Any, **options: Any) -> _Consumer:
        return self


class _Greedy(_Consumer):
    """A consumer that meets a cancellation with a batch, as `asyncio.wait_for` may before Python 3.12."""

    def __init__(self) -> None:
        self.asked = 0

    async def fetch(self, batch: int, timeout: float) -> list[Any]:
        self.asked += 1
        if self.asked > 1:
            raise AssertionError("it goes on")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return []


def _way_in(jetstream: Any) -> Inbound:
    mapping = Mapping(subject="in.>", room="in.*", tenant="demo", direction="in")
    return Inbound(jetstream, Bridge(), mapping, lambda tenant: None, BridgeTotals())  # type: ignore[arg-type, return-value]


async def test_a_way_in_ends_although_the_request_was_swallowed() -> None:
    """Or else it would hold up the session that has to begin anew."""
    jetstream = _Greedy()
    running = asyncio.create_task(_way_in(jetstream).run())
    while not jetstream.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    running.cancel()
    await running


class _Quiet(_Consumer):
    """A consumer that has nothing: it says so twice, and then something else happens."""

    def __init__(self, nothing: Exception) -> None:
        self.answers = [nothing, nothing, LookupError("something else")]

    async def fetch(self, batch: int, timeout: float) -> list[Any]:
        raise self.answers.pop(0)


@pytest.mark.parametrize("nothing", [NatsTimeout(), TimeoutError()], ids=["of nats", "of asyncio"])
async def test_a_way_in_goes_on_where_nothing_comes(nothing: Exception) -> None:
    """Whoever of nats and asyncio says so."""
    with pytest.raises(LookupError):
        await _way_in(_Quiet(nothing)).run()


async def test_a_timeout_is_no_request_to_end() -> None:
    """It cancels, too, and takes that back."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    assert not is_cancelled()
