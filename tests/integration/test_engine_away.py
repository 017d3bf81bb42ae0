"""A client that comes back while the engine is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.conftest import StartBus
from tests.integration.waiting import until
from tests.servers.valkey import running_server

pytestmark = pytest.mark.servers


async def test_a_subscription_outlives_an_engine_that_is_away(
    start_bus: StartBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rejoin is refused for now, repeated, and what was published meanwhile is recovered."""
    with running_server(tmp_path / "valkey") as server:
        bus = await start_bus("storage.backend=valkey", f"datastores.valkey.url={server.url}")
        reader, writer = await bus.client("reader"), await bus.client("writer")
        subscription = await reader.subscribe("orders")
        first = await writer.publish("orders", 1)
        assert (await anext(subscription)).id == first.id
        server.kill()
        for peer in list(bus.node.clients.values()):
            if peer.session.identity.subject == "reader":
                peer.transport.abort()
        await until(lambda: "the storage engine failed a read" in caplog.text)
        await asyncio.to_thread(server.start)
        second = await writer.publish("orders", 2)
        async with asyncio.timeout(20):
            assert (await anext(subscription)).id == second.id
