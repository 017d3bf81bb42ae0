"""Does a bus do what it is for? A few messages, published and received, with the client that everybody has.

What a rollout asks of each node before it goes back behind the load balancer: connect, join, publish, be
acked at the durability that is promised, receive every message once and in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from arqonbus.client import Client
from arqonbus.protocol.ids import new_ulid

# What the names of its rooms begin with; a token for them needs no other.
ROOMS = "smoke-"


class SmokeFailed(Exception):
    """The bus did not do it; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Smoke:
    """The result of a smoke test. Times in ms from the first publish to the last ack and delivery."""

    node: str
    messages: int
    durability: str
    acked_ms: float
    delivered_ms: float


async def smoke(connect: Callable[[], Client], messages: int, seconds: float) -> Smoke:
    """Publish through one connection, receive through another. Raises SmokeFailed or ClientError."""
    room = f"{ROOMS}{new_ulid().lower()}"
    async with connect() as publisher, connect() as reader:
        subscription = await reader.subscribe(room)
        began = time.perf_counter()
        acks = [await publisher.publish(room, {"n": n}, name="smoke") for n in range(messages)]
        acked = time.perf_counter()
        received: list[int] = []
        try:
            async with asyncio.timeout(seconds):
                while len(received) < messages:
                    received.append((await anext(subscription)).json()["n"])
        except TimeoutError:
            raise SmokeFailed(
                f"{len(received)} of {messages} acked messages were delivered within {seconds:g} s"
            ) from None
        delivered = time.perf_counter()
        if received != list(range(messages)):
            raise SmokeFailed("the messages came in another order than they were acked in")
        return Smoke(
            str(publisher.welcome.get("node", "")),
            messages,
            acks[-1].durability,
            (acked - began) * 1000,
            (delivered - began) * 1000,
        )


__all__ = ["ROOMS", "Smoke", "SmokeFailed", "smoke"]
