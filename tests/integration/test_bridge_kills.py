"""Nothing is lost between the bus and NATS while either is killed under load, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from arqonbus.client import Client, ClientError
from arqonbus.protocol.ids import new_ulid
from tests.integration.waiting import until
from tests.servers.bus import BusProcess
from tests.servers.nats import NatsServer, running_nats

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("bridge")]

ROUNDS = 4
PER_ROUND = 150  # messages each way, acked, before the next kill
CONFLICTS = (NatsError, OSError, TimeoutError)


def bus_of(server: NatsServer, directory: Path) -> BusProcess:
    mappings = [
        {"subject": "in.>", "room": "in.*", "tenant": "demo", "direction": "in"},
        {"subject": "out.>", "room": "out.*", "tenant": "demo", "direction": "out"},
    ]
    return BusProcess(
        directory,
        "storage.backend=sqlite",
        f"datastores.nats.url={server.url}",
        f"bridge.mappings={json.dumps(mappings)}",
        "bridge.create_stream=true",
    )


class Load:
    """Two producers that repeat what was not acked, and remember what was."""

    def __init__(self, bus: BusProcess, server: NatsServer) -> None:
        self.bus, self.server = bus, server
        self.ended = False
        self.to_bus: list[int] = []
        self.to_nats: list[int] = []

    async def publish_to_bus(self) -> None:
        async with Client(self.bus.url, self.bus.token(), timeout=60) as client:
            number = 0
            while not self.ended:
                message_id = new_ulid()
                while number not in self.to_bus[-1:]:
                    with contextlib.suppress(ClientError):
                        await client.publish(f"out.{number % 3}", number, message_id=message_id)
                        self.to_bus.append(number)
                number += 1

    async def publish_to_nats(self) -> None:
        number = 0
        while not self.ended:
            with contextlib.suppress(*CONFLICTS):
                client = await connected(self.server)
                try:
                    jetstream = client.jetstream(timeout=2)
                    while not self.ended:
                        headers = {"Nats-Msg-Id": f"n-{number}", "Content-Type": "application/json"}
                        await jetstream.publish(f"in.{number % 3}", str(number).encode(), headers=headers)
                        self.to_nats.append(number)
                        number += 1
                finally:
                    with contextlib.suppress(*CONFLICTS):
                        await client.close()
            await asyncio.sleep(0.05)


async def connected(server: NatsServer) -> NatsClient:
    async def ignore(_: Exception) -> None:
        pass

    return await nats.connect(server.url, allow_reconnect=False, connect_timeout=2, error_cb=ignore)


async def in_room(client: Client, room: str) -> list[int]:
    """The payloads of a room, all of them."""
    found: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = await client.command("op.history.replay", {"room": room, "limit": 1000, **cursor})
        found += [int(message["payload"]) for message in page["messages"]]
        if not page.get("cursor"):
            return found
        cursor = {"cursor": page["cursor"]}


async def in_stream(server: NatsServer, subject: str, wanted: list[int]) -> list[int]:
    """The payloads of a subject, until all that are wanted were found, and what else is there."""
    client = await connected(server)
    subscription = await client.jetstream().subscribe(subject, stream="ARQONBUS", ordered_consumer=True)
    found: list[int] = []
    left = set(wanted)
    with contextlib.suppress(TimeoutError, NatsError):
        while left:  # what was under way when the bus was killed comes when its lease ends
            found.append(int((await subscription.next_msg(timeout=30)).data))
            left.discard(found[-1])
        while True:
            found.append(int((await subscription.next_msg(timeout=1)).data))
    await client.close()
    return found


async def test_nothing_is_lost(tmp_path: Path) -> None:
    """Every acked message is on the other side, once, after kills of nats-server and of the bus in turn."""
    with running_nats(tmp_path / "nats", "-js", "-sd", str(tmp_path / "jetstream")) as server:
        bus = bus_of(server, tmp_path / "bus").start()
        try:
            load = Load(bus, server)
            producers = [
                asyncio.create_task(load.publish_to_bus()),
                asyncio.create_task(load.publish_to_nats()),
            ]
            for turn in range(ROUNDS):
                goals = len(load.to_bus) + PER_ROUND, len(load.to_nats) + PER_ROUND
                assert not any(producer.done() for producer in producers)
                await until(lambda: len(load.to_bus) >= goals[0] and len(load.to_nats) >= goals[1], 60)  # noqa: B023
                if turn % 2:
                    await asyncio.to_thread(bus.kill)
                    await asyncio.to_thread(bus.start)
                else:
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
            load.ended = True
            await asyncio.gather(*producers)
            out = Counter(await in_stream(server, "out.>", load.to_bus))
            assert not set(load.to_bus) - set(out)
            assert not [number for number, count in out.items() if count > 1]
            async with Client(bus.url, bus.token(), timeout=60) as client:

                async def arrived() -> Counter[int]:
                    return Counter([n for room in range(3) for n in await in_room(client, f"in.{room}")])

                async def are_all_there() -> bool:
                    return not set(load.to_nats) - set(await arrived())

                await until(are_all_there, 45)
                assert not [number for number, count in (await arrived()).items() if count > 1]
        finally:
            bus.kill()
