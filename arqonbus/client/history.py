"""A room's history as an iteration: the bus is asked for one page after the other, and holds none for us."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

from arqonbus.client.message import Ask, Message
from arqonbus.protocol import wire_protobuf


async def history(
    ask: Ask,
    room: str,
    *,
    channel: str,
    begin: datetime | None,
    end: datetime | None,
    newest_first: bool,
    strict_sequence: bool,
    page: int,
) -> AsyncGenerator[Message, None]:
    """Messages of begin <= t < end, both with a time zone. `page`: how many are asked for at once, 1..1000.

    `strict_sequence`, oldest first only: a number that is missing, repeated or going back is refused with
    both numbers. Raises Rejected: POSITION_LOST when what follows was trimmed or a new log began.
    """
    operation = "op.history.get" if newest_first else "op.history.replay"
    arguments: dict[str, Any] = {"room": room, "channel": channel, "limit": page, "form": "protobuf"}
    for name, moment in (("from", begin), ("to", end)):
        if moment is not None:
            arguments[name] = moment.isoformat()
    if strict_sequence:
        arguments["strict_sequence"] = True
    while True:
        reply = await ask(operation, arguments, again=True)
        if reply.payload:
            for envelope, _ in wire_protobuf.decode(reply.payload):
                yield Message(envelope)
        cursor = reply.headers.get("cursor")
        if cursor is None:
            return
        arguments["cursor"] = cursor


__all__ = ["history"]
