"""A client that does not read sends join with a position and leave, again and again: each recovery comes on
top of its send budget, and the memory of the bus grows without a bound."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import COMMAND, REPLY, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.integration.conftest import Bus
from tests.integration.raw import BINARY, Raw, masked

PAIRS = 12
ROOM_BYTES = 3 * 2**20


def command(name: str, **arguments: Any) -> bytes:
    payload = json.dumps(arguments).encode()
    envelope = Envelope(id=new_ulid(), kind=COMMAND, name=name, time_us=now_us(), payload=payload)
    return masked(BINARY, wire_protobuf.frame_of([envelope]))


async def test_the_next_recovery_waits_for_the_one_before(bus: Bus) -> None:
    """At most one recovery beyond the send budget is held, and a client that reads gets them all."""
    filler = await bus.client()
    acks = [await filler.publish("orders", b"x" * 2**18) for _ in range(ROOM_BYTES // 2**18)]
    since = {"epoch": acks[0].epoch, "sequence": 0}
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", bus.settings.server.port))
    raw = Raw(*await asyncio.open_connection(sock=connection, limit=4096))
    Raw.opened.append(raw)
    assert (await raw.upgrade(bus.token(), "arqonbus.v1.protobuf")).status == 101
    await raw.envelopes()
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(PAIRS):
        raw.send(
            command("op.rooms.join", room="orders", since=since) + command("op.rooms.leave", room="orders")
        )
    held = []
    for number in range(200):
        await filler.publish("other", {"n": number})
        held.append(bus.node.load().queued_bytes)
    assert 0 < max(held) < bus.settings.limits.send_queue_bytes + 2 * ROOM_BYTES
    raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
    replies: list[Envelope] = []
    async with asyncio.timeout(30):
        while len(replies) < 2 * PAIRS:
            replies += [each for each in await raw.envelopes() if each.kind == REPLY]
    recovered = [json.loads(each.payload).get("recovered") for each in replies]
    assert recovered == [True, None] * PAIRS


async def test_a_connection_that_ends_while_its_recovery_waits(bus: Bus) -> None:
    """Leaves nothing behind."""
    filler = await bus.client()
    acks = [await filler.publish("orders", b"x" * 2**18) for _ in range(ROOM_BYTES // 2**18)]
    since = {"epoch": acks[0].epoch, "sequence": 0}
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(bus.token(), "arqonbus.v1.protobuf")).status == 101
    await raw.envelopes()
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(8):
        raw.send(
            command("op.rooms.join", room="orders", since=since) + command("op.rooms.leave", room="orders")
        )
    async with asyncio.timeout(10):
        while not any(peer.backlog for peer in bus.node.clients.values()):
            await filler.publish("other", {"n": 0})
    raw.writer.transport.abort()
    async with asyncio.timeout(10):
        while len(bus.node.clients) > 1:
            await filler.publish("other", {"n": 1})
        while not all(room.is_empty() for room in bus.node.hub.rooms.values()):
            await filler.publish("other", {"n": 2})
