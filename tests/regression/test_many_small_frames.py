"""A client sends a message in tens of thousands of empty or tiny fragments, or a flood of pings, and the node
stands still for everybody."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.protocol import wire_json
from arqonbus.protocol.envelope import COMMAND, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import CONTINUATION, PING, PONG, TEXT, Raw, masked

PIECES = 40_000
FLOODS = {
    "empty fragments": masked(TEXT, b"", fin=False) + masked(CONTINUATION, b"", fin=False) * PIECES,
    "tiny fragments": masked(TEXT, b"x", fin=False) + masked(CONTINUATION, b"x", fin=False) * PIECES,
    "pings": masked(PING, b"") * PIECES,
    "pongs": masked(PONG, b"") * PIECES,
}


async def joined(bus: Bus) -> Raw:
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(bus.token("mallory", "red"), "arqonbus.v1.json")).status == 101
    await raw.envelopes()
    return raw


@pytest.mark.parametrize("transport", ["picows", "websockets"])
@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_small_frames_is_closed_by_the_byte_rate(
    start_bus: StartBus, transport: str, flood: str
) -> None:
    """Each counts for 512 bytes at least; another tenant is served meanwhile."""
    bus = await start_bus(f"server.transport={transport}", "limits.bytes_per_second=1MiB")
    raw, other = await joined(bus), await bus.client("other", "green")
    raw.send(FLOODS[flood])
    async with asyncio.timeout(10):
        assert (await raw.close_frame()).close_code == 1008
        assert (await other.publish("calm", {"n": 1})).sequence == 1
    assert bus.node.counters.rejected["RATE_LIMITED"] == 1


@pytest.mark.parametrize("transport", ["picows", "websockets"])
async def test_a_message_in_many_pieces_is_one_message(start_bus: StartBus, transport: str) -> None:
    """Where no byte rate is set: a byte in each piece, with an empty one behind it."""
    bus = await start_bus(f"server.transport={transport}", "limits.bytes_per_second=0")
    raw = await joined(bus)
    command = Envelope(id=new_ulid(), kind=COMMAND, name="op.ping", time_us=now_us())
    text = wire_json.encode(command) + b" " * PIECES
    raw.send(masked(TEXT, b"", fin=False))
    for at in range(len(text)):
        raw.send(masked(CONTINUATION, text[at : at + 1], fin=False) + masked(CONTINUATION, b"", fin=False))
    raw.send(masked(CONTINUATION, b""))
    async with asyncio.timeout(10):
        [reply] = await raw.envelopes()
    assert reply.status.code == "OK"


async def test_the_newest_ping_is_answered(bus: Bus) -> None:
    """Of pings that came together."""
    raw = await joined(bus)
    raw.send(b"".join(masked(PING, b"%d" % n) for n in range(20)))
    frame = await raw.frame()
    while frame.payload != b"19":
        frame = await raw.frame()
    assert frame.opcode == PONG
