"""Read what a subscription missed from the room's history, a page at a time, as fast as it is read."""

from __future__ import annotations

from arqonbus.client.errors import Rejected
from arqonbus.client.message import command_envelope
from arqonbus.client.requests import Requests
from arqonbus.client.subscription import Subscription
from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.errors import BusError, Code

PAGE = 1000


async def catch_up(sub: Subscription, requests: Requests) -> None:
    """Fill the buffer from its last message to the end of the room's log.

    Raises Rejected when the log no longer holds what was missed or the token does not grant `history`, and
    Disconnected when no answer came.
    """
    begin = sub.buffered
    assert begin is not None
    cursor: str | None = f"{begin.epoch}:{begin.sequence}"
    while cursor is not None:
        limit = min(PAGE, await sub.half_empty())
        if sub.over:
            return
        arguments = {
            "room": sub.room,
            "cursor": cursor,
            "limit": limit,
            "form": "protobuf",
            "strict_sequence": True,
        }
        reply = await requests.ask(command_envelope("op.history.replay", arguments), again=True)
        if reply.payload:
            for envelope, raw in wire_protobuf.decode(reply.payload):
                sub.take(envelope, len(raw))
        cursor = reply.headers.get("cursor")
        if sub.paused and sub.buffered is not None:  # the rest of the page was not taken
            cursor = f"{sub.buffered.epoch}:{sub.buffered.sequence}"
    if sub.buffered == begin:
        raise Rejected(BusError(Code.POSITION_LOST, "the history has nothing behind the position"))


__all__ = ["catch_up"]
