"""Clients under load through the load balancer, that keep the books: acked, received, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from arqonbus.client import Client
from arqonbus.client.link import open_link
from tests.infra.hosts import Hosts

PUBLISHERS, READERS = 4, 2
SETTLE_SECONDS = 60.0


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
async def under_load(hosts: Hosts, room: str) -> AsyncIterator[Books]:
    """Publish, receive and connect all the time; at the end, what was acked has its time to arrive."""
    books = Books()
    ending = asyncio.Event()
    async with AsyncExitStack() as stack:
        token = hosts.token("load")

        async def connected() -> Client:
            client = Client(hosts.url, token, tls=hosts.tls(), timeout=60)
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
        working.append(asyncio.create_task(_knock(hosts, token, books, ending)))
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
        await asyncio.sleep(0.01)


async def _read(subscription: AsyncIterator, seen: list[str]) -> None:
    async for message in subscription:
        seen.append(message.payload.decode())


async def _knock(hosts: Hosts, token: str, books: Books, ending: asyncio.Event) -> None:
    """Connect anew again and again, without the patience of a client."""
    while not ending.is_set():
        try:
            link = await open_link(hosts.url, token, "protobuf", hosts.tls())
            await anext(link.frames())
            await link.close()
            books.connections += 1
        except Exception as error:  # noqa: BLE001  (whatever it is, somebody could not connect)
            books.refusals.append(f"{type(error).__name__}: {error}")
        await asyncio.sleep(0.05)


async def _settled(books: Books) -> None:
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while books.lost() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


__all__ = ["Books", "under_load"]
