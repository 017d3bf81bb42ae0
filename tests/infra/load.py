"""Clients under load through the load balancer that record what was acked, received and refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from arqonbus.client import Client
from arqonbus.client.opening import open_link

PUBLISHERS, READERS = 4, 2
# As much as shows a gap, and no more: what is under load is the rollout, on the same processors.
PUBLISH_SECONDS, KNOCK_SECONDS = 0.05, 0.1
SETTLE_SECONDS = 60.0


class FrontDoor(Protocol):
    """Where clients come in: hosts that were rolled out, or what compose started."""

    @property
    def url(self) -> str: ...

    def token(self, subject: str) -> str: ...

    def tls(self) -> ssl.SSLContext: ...


@dataclass
class Books:
    """What happened so far. Messages by their payload, which is unique."""

    acked: list[str] = field(default_factory=list)
    delivered: list[list[str]] = field(default_factory=list)
    connections: int = 0
    refusals: list[str] = field(default_factory=list)
    reconnects: int = 0

    def lost(self) -> list[str]:
        """Acked, and not delivered to every reader."""
        seen = [set(each) for each in self.delivered]
        return [payload for payload in self.acked if not all(payload in each for each in seen)]

    def repeated(self) -> list[str]:
        """Delivered to a reader more than once."""
        found = []
        for each in self.delivered:
            seen: set[str] = set()
            for payload in each:
                if payload in seen:
                    found.append(payload)
                seen.add(payload)
        return found


@asynccontextmanager
async def under_load(door: FrontDoor, room: str) -> AsyncIterator[Books]:
    """Publish, receive and connect all the time; at the end, what was acked has its time to arrive."""
    books = Books()
    ending = asyncio.Event()
    async with AsyncExitStack() as stack:
        token = door.token("load")

        async def connected() -> Client:
            client = Client(door.url, token, tls=door.tls(), timeout=60)
            return await stack.enter_async_context(client)

        clients = [await connected() for _ in range(READERS + PUBLISHERS)]
        readers, publishers = clients[:READERS], clients[READERS:]
        reading = []
        for client in readers:
            seen: list[str] = []
            books.delivered.append(seen)
            reading.append(asyncio.create_task(_read(await client.subscribe(room), seen)))
        working = [
            asyncio.create_task(_publish(client, room, str(number), books, ending))
            for number, client in enumerate(publishers)
        ]
        working.append(asyncio.create_task(_knock(door, token, books, ending)))
        try:
            yield books
        finally:
            ending.set()
            await asyncio.gather(*working)
            await _settled(books)
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            books.reconnects = sum(client.reconnects for client in clients)


async def _publish(client: Client, room: str, name: str, books: Books, ending: asyncio.Event) -> None:
    number = 0
    while not ending.is_set():
        payload = f"{name}-{number}"
        await client.publish(room, payload.encode(), content_type="text/plain")
        books.acked.append(payload)
        number += 1
        await asyncio.sleep(PUBLISH_SECONDS)


async def _read(subscription: AsyncIterator, seen: list[str]) -> None:
    async for message in subscription:
        seen.append(message.payload.decode())


async def _knock(door: FrontDoor, token: str, books: Books, ending: asyncio.Event) -> None:
    """Connect anew again and again, without the patience of a client."""
    while not ending.is_set():
        try:
            link = await open_link(door.url, token, "protobuf", door.tls())
            await anext(link.frames())
            await link.close()
            books.connections += 1
        except Exception as error:  # noqa: BLE001  (whatever it is, somebody could not connect)
            books.refusals.append(f"{type(error).__name__}: {error}")
        await asyncio.sleep(KNOCK_SECONDS)


async def _settled(books: Books) -> None:
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while books.lost() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


__all__ = ["Books", "FrontDoor", "under_load"]
