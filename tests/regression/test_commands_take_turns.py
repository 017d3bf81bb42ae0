"""A client sends a hundred requests for history in one frame, and nobody else is served until all are
answered."""

from __future__ import annotations

import asyncio
import json

from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import COMMAND, REPLY, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.integration.conftest import Bus
from tests.integration.raw import BINARY, Raw
from tests.integration.waiting import until

COUNT = 100


async def test_commands_of_others_are_answered_between(bus: Bus) -> None:
    """And all of the requests are, in their order."""
    other = await bus.client("other", "green")
    filler = await bus.client()
    await filler.publish_many("orders", [{"n": number} for number in range(500)])
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(bus.token(), "arqonbus.v1.protobuf")).status == 101
    await raw.envelopes()
    payload = json.dumps({"room": "orders", "limit": 200}).encode()
    commands = [
        Envelope(id=new_ulid(), kind=COMMAND, name="op.history.get", time_us=now_us(), payload=payload)
        for _ in range(COUNT)
    ]
    raw.send_frame(BINARY, wire_protobuf.frame_of(commands))

    def waiting() -> int:
        return max(len(peer.backlog or ()) for peer in bus.node.clients.values())

    async with asyncio.timeout(20):
        await until(lambda: waiting() > 0)
        await other.command("op.ping")
        assert waiting()
        replies: list[Envelope] = []
        while len(replies) < COUNT:
            replies += [each for each in await raw.envelopes() if each.kind == REPLY]
    assert [each.reply_to for each in replies] == [each.id for each in commands]
