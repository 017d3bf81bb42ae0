"""Draining a node: clients are notified, then closed over the drain window; nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from arqonbus.bus.frames import Close
from arqonbus.bus.peer import Peer
from arqonbus.protocol import replies

SPREAD = 0.8  # share of the window over which connections are closed; the rest is for the last of them
CLOSE_GRACE = 5.0  # seconds that clients have to answer the close frame

logger = logging.getLogger(__name__)


async def send_away(peers: list[Peer], window: float, empty: asyncio.Event) -> None:
    """Announce, then close with 1012 at a random moment each. `empty` is set when no client is left.

    Readiness is the caller's business and has failed before; new clients are refused meanwhile.
    """
    logger.info("draining", extra={"connections": len(peers), "seconds": window})
    clock = asyncio.get_running_loop().time
    leaving: list[tuple[float, Peer]] = []
    for peer in peers:
        delay = random.uniform(0, window * SPREAD)  # noqa: S311  (jitter, not a secret)
        peer.answer(replies.signal("goaway", {"reconnect_after_ms": int(delay * 1000)}))
        peer.flush()
        leaving.append((clock() + delay, peer))
    leaving.sort(key=lambda pair: pair[0])
    for at, peer in leaving:
        if not peer.closed:
            await asyncio.sleep(max(0.0, at - clock()))
            peer.close(Close.RESTART, "this node is going away; connect again")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_GRACE):
            await empty.wait()


__all__ = ["CLOSE_GRACE", "send_away"]
