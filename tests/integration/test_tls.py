"""A bus that ends TLS itself behaves as one that does not, on both adapters."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from arqonbus.client import Client
from tests.integration.conftest import StartBus
from tests.servers.certificates import Authority


@pytest.mark.parametrize("transport", ["picows", "websockets"])
async def test_a_subscriber_that_says_nothing_gets_every_message(
    start_bus: StartBus, tmp_path: Path, transport: str
) -> None:
    """Each message reaches it by itself: nothing waits for the next one, or for something from the client."""
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.server("bus")
    bus = await start_bus(
        f"server.tls.cert_file={certificate}",
        f"server.tls.key_file={key}",
        f"server.transport={transport}",
    )
    context = ssl.create_default_context(cafile=authority.file)
    url = f"wss://127.0.0.1:{bus.settings.server.port}/v1/ws"
    async with (
        Client(url, bus.token("alice"), tls=context) as alice,
        Client(url, bus.token("bob"), tls=context) as bob,
    ):
        room = await bob.subscribe("quiet")
        for n in range(5):
            await alice.publish("quiet", {"n": n})
            async with asyncio.timeout(5):
                assert (await anext(room)).json() == {"n": n}
        large = b"x" * 1_000_000
        await alice.publish("quiet", large, content_type="application/octet-stream")
        async with asyncio.timeout(10):
            assert (await anext(room)).payload == large
