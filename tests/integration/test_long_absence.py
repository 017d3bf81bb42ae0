"""A client that was away while more was published than a client may put into one frame."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.client import Closed
from arqonbus.protocol.wire_protobuf import MAX_ENVELOPES
from tests.integration.conftest import StartBus


async def test_all_that_was_missed_is_recovered(start_bus: StartBus, wire: str) -> None:
    """However much it is, the client reads it, and the subscription goes on."""
    bus = await start_bus(
        "storage.history.max_messages=0", "limits.messages_per_second=0", "limits.bytes_per_second=0"
    )
    reader, writer = await bus.client("reader", wire=wire), await bus.client("writer")
    lost: list[object] = []
    subscription = await reader.subscribe("orders", on_lost=lost.append)
    first = await writer.publish("orders", b"")
    assert (await anext(subscription)).id == first.id
    missed = MAX_ENVELOPES + 100
    reader._connection._backoff._first = 5.0  # it stays away for long enough
    for peer in list(bus.node.clients.values()):
        if peer.session.identity.subject == "reader":
            peer.transport.abort()
    for begin in range(0, missed, 512):
        count = min(512, missed - begin)
        await asyncio.gather(*(writer.publish("orders", b"") for _ in range(count)))
    async with asyncio.timeout(30):
        sequences = [(await anext(subscription)).sequence for _ in range(missed)]
    assert sequences == list(range(2, missed + 2))
    assert not lost


async def test_what_cannot_be_read_ends_the_client(start_bus: StartBus) -> None:
    """Bytes that are no envelope are an error of the client, not silence for ever."""
    bus = await start_bus()
    reader = await bus.client("reader")
    subscription = await reader.subscribe("orders")
    (peer,) = bus.node.clients.values()
    peer.transport.write(b"\x82\x02\xff\xff")  # a binary message of two bytes
    with pytest.raises(Closed, match="cannot be read"):
        async with asyncio.timeout(10):
            await anext(subscription)
