"""Degraded storage: a bus that goes on in memory while its engine is away, says so, and hands over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from arqonbus.client import Ack, Client, Position, Rejected, Subscription
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.ids import new_ulid
from tests.integration.conftest import Bus, StartBus
from tests.integration.test_tenants import refused
from tests.integration.waiting import until
from tests.servers.valkey import ValkeyServer, running_server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_server(tmp_path / "valkey") as server:
        yield server


def on(server: ValkeyServer, *more: str) -> list[str]:
    return ["storage.backend=valkey", f"datastores.valkey.url={server.url}", "storage.mode=degraded", *more]


async def readyz(bus: Bus) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient(timeout=10) as http:
        answer = await http.get(bus.http("/readyz"))
        return answer.status_code, answer.json()["storage"]


async def metric(bus: Bus, text: str) -> bool:
    async with httpx.AsyncClient(timeout=10) as http:
        return text in (await http.get(bus.http("/metrics"))).text


class Seen:
    """What a subscription gives, and the signals of its client."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.signals: list[tuple[str, Any]] = []

    def on_signal(self, signal: Envelope) -> None:
        self.signals.append((signal.name, json.loads(signal.payload) if signal.payload else None))

    async def read(self, subscription: Subscription) -> None:
        async for message in subscription:
            self.ids.append(message.id)

    def heard(self, name: str) -> list[Any]:
        return [facts for heard, facts in self.signals if heard == name]


async def held(client: Client, room: str) -> list[str]:
    return [message.id async for message in client.history(room, strict_sequence=True)]


async def test_it_goes_on_says_so_and_hands_over(start_bus: StartBus, valkey: ValkeyServer) -> None:
    """Whatever can say it does; afterwards the engine has all of it once, in order, in a new epoch."""
    bus = await start_bus(*on(valkey))
    seen = Seen()
    writer = await bus.client(timeout=30.0)
    reader = await bus.client("bob", timeout=30.0, on_signal=seen.on_signal)
    room = await reader.subscribe("orders", on_lost=lambda loss: None)
    reading = asyncio.create_task(seen.read(room))
    before = [await writer.publish("orders", n) for n in range(3)]
    assert {ack.durability for ack in before} == {"hot"}
    await asyncio.to_thread(valkey.kill)
    during = [await writer.publish("orders", n) for n in range(3, 8)]
    assert {ack.durability for ack in during} == {"memory"}
    assert {ack.epoch for ack in during}.isdisjoint({before[0].epoch})
    assert [ack.sequence for ack in during] == list(range(4, 9))
    await until(lambda: bool(seen.heard("degraded")), 5)
    assert seen.heard("degraded") == [{"active": True, "durability": "memory"}]
    late = await bus.client("carl")
    assert late.welcome["capabilities"]["degraded"] is True
    assert late.welcome["capabilities"]["durability"] == "memory"
    status, storage = await readyz(bus)
    assert (status, storage["degraded"], storage["durability"]) == (200, True, "memory")
    assert await metric(bus, "arqonbus_degraded 1.0")
    assert await metric(bus, "arqonbus_ready 1.0")
    assert await refused(late.command("op.groups.ensure", {"room": "orders", "group": "g"})) == (
        "CAPABILITY_UNAVAILABLE"
    )
    assert await held(late, "orders") == [ack.id for ack in during], "history says what there is"

    await asyncio.to_thread(valkey.start)
    await until(lambda: len(seen.heard("degraded")) == 2, 30)
    assert seen.heard("degraded")[1] == {"active": False, "durability": "hot"}
    assert not bus.node.degraded
    after = await writer.publish("orders", "last")
    assert after.durability == "hot"
    assert after.epoch > during[0].epoch > before[0].epoch
    everything = [ack.id for ack in (*before, *during, after)]
    await until(lambda: len(seen.ids) >= len(everything), 10)
    assert seen.ids == everything
    assert await held(late, "orders") == everything
    assert (await readyz(bus))[1]["degraded"] is False
    assert await metric(bus, "arqonbus_degraded 0.0")
    for position in (Position(during[1].epoch, during[1].sequence), Position(before[0].epoch, 1)):
        joined = await late.command(
            "op.rooms.join",
            {"room": "orders", "since": {"epoch": position.epoch, "sequence": position.sequence}},
        )
        assert joined["recovered"] is False
        await late.command("op.rooms.leave", {"room": "orders"})
    reading.cancel()


async def test_an_id_is_known_on_both_sides_of_the_gap(start_bus: StartBus, valkey: ValkeyServer) -> None:
    """What the engine has is no news to memory, and the other way round."""
    bus = await start_bus(*on(valkey))
    client = await bus.client(timeout=30.0)
    first, second = new_ulid(), new_ulid()
    await client.publish("orders", 1, message_id=first)
    await asyncio.to_thread(valkey.kill)
    assert (await client.publish("orders", 1, message_id=first)).duplicate
    assert not (await client.publish("orders", 2, message_id=second)).duplicate
    assert (await client.publish("orders", 2, message_id=second)).duplicate
    await asyncio.to_thread(valkey.start)
    await until(lambda: not bus.node.degraded, 30)
    for message_id in (first, second):
        assert (await client.publish("orders", 0, message_id=message_id)).duplicate
    assert await held(client, "orders") == [first, second]


async def test_it_starts_without_the_engine(start_bus: StartBus, valkey: ValkeyServer) -> None:
    """Rooms that were there before are whole afterwards, and who joined meanwhile is not shown the past."""
    first = await start_bus(*on(valkey))
    old = await (await first.client()).publish("orders", "old")
    await first.service.stop()
    await asyncio.to_thread(valkey.kill)
    bus = await start_bus(*on(valkey))
    seen = Seen()
    client = await bus.client(timeout=30.0)
    reading = asyncio.create_task(seen.read(await client.subscribe("orders", on_lost=lambda loss: None)))
    acks = [await client.publish("orders", n) for n in range(3)]
    assert {ack.durability for ack in acks} == {"memory"}
    await asyncio.to_thread(valkey.start)
    await until(lambda: not bus.node.degraded, 30)
    acks.append(await client.publish("orders", "new"))
    await until(lambda: len(seen.ids) >= len(acks), 10)
    assert seen.ids == [ack.id for ack in acks]
    assert await held(client, "orders") == [old.id, *seen.ids]
    reading.cancel()


async def test_memory_is_bounded_and_strict_rooms_stay_strict(
    start_bus: StartBus, valkey: ValkeyServer
) -> None:
    """Beyond the bound publishes are refused; a room that says strict is refused from the first on."""
    rooms = '[{"match": "strict", "mode": "strict"}]'
    bus = await start_bus(*on(valkey, f"rooms={rooms}", "storage.degraded_max_bytes=20KiB"))
    client = await bus.client(timeout=2.0)
    await client.publish("strict", 0)
    await asyncio.to_thread(valkey.kill)
    await client.publish("orders", "x" * 10_000)
    assert await refused(client.publish("orders", "x" * 15_000)) == "STORAGE_UNAVAILABLE"
    await client.publish("orders", "small")
    assert await refused(client.publish("strict", 1)) == "STORAGE_UNAVAILABLE"
    await asyncio.to_thread(valkey.start)
    await until(lambda: not bus.node.degraded, 30)
    assert (await client.publish("strict", 2)).durability == "hot"
    assert (await client.publish("orders", "x" * 15_000)).durability == "hot"


async def test_a_strict_bus_may_have_rooms_that_go_on(start_bus: StartBus, valkey: ValkeyServer) -> None:
    """By their rule; the bus itself is not ready meanwhile."""
    rooms = '[{"match": "loose.*", "mode": "degraded"}]'
    bus = await start_bus(*on(valkey, f"rooms={rooms}")[:2], f"rooms={rooms}")
    client = await bus.client(timeout=2.0)
    await asyncio.to_thread(valkey.kill)
    assert (await client.publish("loose.a", 1)).durability == "memory"
    assert await refused(client.publish("orders", 1)) == "STORAGE_UNAVAILABLE"
    assert (await readyz(bus))[0] == 503
    await asyncio.to_thread(valkey.start)
    await until(lambda: not bus.node.degraded, 30)
    assert len(await held(client, "loose.a")) == 1


async def test_nodes_that_went_on_apart_come_together(start_bus: StartBus, valkey: ValkeyServer) -> None:
    """Each reader, on either node, gets what both took, once, each writer in its order; again and again."""
    buses = [await start_bus(*on(valkey)) for _ in range(2)]
    writers = [await bus.client(f"writer-{n}", timeout=60.0) for n, bus in enumerate(buses)]
    seen = [Seen(), Seen()]
    tasks = []
    for bus, eyes in zip(buses, seen, strict=True):
        reader = await bus.client("reader", timeout=60.0)
        tasks.append(
            asyncio.create_task(eyes.read(await reader.subscribe("orders", on_lost=lambda loss: None)))
        )
    acked: list[list[Ack]] = [[], []]
    stop = asyncio.Event()

    async def write(number: int) -> None:
        while not stop.is_set():
            try:
                acked[number].append(await writers[number].publish("orders", len(acked[number])))
            except Rejected:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.002)

    writing = [asyncio.create_task(write(number)) for number in range(2)]
    for _ in range(3):
        await asyncio.sleep(0.4)
        await asyncio.to_thread(valkey.kill)
        await asyncio.sleep(0.8)
        await asyncio.to_thread(valkey.start)
        await until(lambda: not any(bus.node.degraded for bus in buses), 40)
    stop.set()
    await asyncio.gather(*writing)
    wanted = [[ack.id for ack in acks] for acks in acked]
    stored = await held(writers[0], "orders")
    assert sorted(stored) == sorted(wanted[0] + wanted[1])
    for ids in wanted:
        assert [message_id for message_id in stored if message_id in set(ids)] == ids
    assert {ack.durability for acks in acked for ack in acks} == {"hot", "memory"}
    await until(lambda: all(len(eyes.ids) >= len(stored) for eyes in seen), 20)
    for eyes in seen:
        assert len(eyes.ids) == len(set(eyes.ids)), "nothing is delivered twice"
        assert set(eyes.ids) == set(stored)
        for ids in wanted:
            assert [message_id for message_id in eyes.ids if message_id in set(ids)] == ids
    for task in tasks:
        task.cancel()
