"""Several buses on one Valkey, and on a Valkey Cluster: in order, once, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arqonbus.client import Ack, Client, Disconnected, Message, Rejected, Subscription
from tests.integration.waiting import until
from tests.servers.bus import BusProcess
from tests.servers.valkey import ValkeyCluster, ValkeyServer, running_cluster, running_server

pytestmark = pytest.mark.servers

# A client may wait for ten seconds before it looks again: what is published meanwhile has to fit into a room.
PACE_SECONDS = 0.02

Engine = ValkeyServer | ValkeyCluster
StartNode = Callable[[], BusProcess]


@pytest.fixture(params=["valkey", "cluster"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    running = running_server if request.param == "valkey" else running_cluster
    with running(tmp_path / "engine") as started:
        yield started


@pytest.fixture
def start_node(engine: Engine, tmp_path: Path) -> Iterator[StartNode]:
    nodes: list[BusProcess] = []
    clustered = isinstance(engine, ValkeyCluster)
    url = engine.servers[0].url if isinstance(engine, ValkeyCluster) else engine.url

    def start() -> BusProcess:
        node = BusProcess(
            tmp_path / f"node-{len(nodes)}",
            "storage.backend=valkey",
            f"datastores.valkey.url={url}",
            f"datastores.valkey.cluster={str(clustered).lower()}",
            "limits.messages_per_second=0",
        )
        nodes.append(node)
        return node.start()

    yield start
    for node in nodes:
        node.kill()


def clients(*nodes: BusProcess) -> list[Client]:
    return [Client(node.url, node.token(), timeout=30) for node in nodes]


class Reading:
    """Collects what a subscription gives."""

    def __init__(self, subscription: Subscription) -> None:
        self.messages: list[Message] = []
        self._task = asyncio.create_task(self._run(subscription))

    async def _run(self, subscription: Subscription) -> None:
        async for message in subscription:
            self.messages.append(message)

    @property
    def sequences(self) -> list[int]:
        if self._task.done():
            self._task.result()
        return [message.sequence for message in self.messages]


class Load:
    """Publishes numbered messages until told to stop, and remembers what was acked."""

    def __init__(self, client: Client, room: str, mark: str) -> None:
        self.acks: dict[str, Ack] = {}
        self._stopping = False
        self._task = asyncio.create_task(self._run(client, room, mark))

    async def _run(self, client: Client, room: str, mark: str) -> None:
        number = 0
        while not self._stopping:
            names = [f"{mark}{number + k}" for k in range(8)]
            number += 8
            found = await asyncio.gather(
                *(client.publish(room, name) for name in names), return_exceptions=True
            )
            for name, ack in zip(names, found, strict=True):
                if isinstance(ack, Ack):
                    self.acks[name] = ack
                else:
                    assert isinstance(ack, (Rejected, Disconnected)), ack
            await asyncio.sleep(PACE_SECONDS)

    async def stop(self) -> dict[str, Ack]:
        self._stopping = True
        await self._task
        return self.acks


def check(reading: Reading, acked: dict[str, Ack]) -> None:
    """Every sequence once and in order, and every acked message at the sequence that its ack named."""
    sequences = reading.sequences
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    delivered = {message.json(): message.sequence for message in reading.messages}
    assert len(delivered) == len(reading.messages)
    lost = {name: ack.sequence for name, ack in acked.items() if delivered.get(name) != ack.sequence}
    assert not lost


async def settle(readings: list[Reading], acked: dict[str, Ack]) -> None:
    last = max(ack.sequence for ack in acked.values())
    await until(lambda: all(reading.sequences and reading.sequences[-1] >= last for reading in readings), 30)


async def test_two_nodes_deliver_each_others_messages_in_order_and_once(start_node: StartNode) -> None:
    """Subscribers on both nodes get the messages of publishers on both in one and the same order."""
    nodes = [start_node(), start_node()]
    async with contextlib.AsyncExitStack() as stack:
        both = [await stack.enter_async_context(client) for client in clients(*nodes)]
        readings = [Reading(await client.subscribe("orders")) for client in both]
        loads = [Load(client, "orders", mark) for client, mark in zip(both, "ab", strict=True)]
        await until(lambda: all(len(load.acks) > 400 for load in loads), 30)
        acked = {name: ack for load in loads for name, ack in (await load.stop()).items()}
        await settle(readings, acked)
        for reading in readings:
            check(reading, acked)
        assert [m.id for m in readings[0].messages] == [m.id for m in readings[1].messages]


async def test_clients_of_two_nodes_find_each_other(start_node: StartNode) -> None:
    """Presence, presence signals and direct messages reach across nodes."""
    first, second = start_node(), start_node()
    heard: asyncio.Queue[Message] = asyncio.Queue()
    signals: asyncio.Queue[str] = asyncio.Queue()
    async with (
        Client(first.url, first.token("ann"), on_signal=lambda s: signals.put_nowait(s.name)) as ann,
        Client(second.url, second.token("bob"), on_direct=heard.put_nowait) as bob,
    ):
        await ann.subscribe("lobby", presence=True)
        visit = await bob.subscribe("lobby")
        present = await ann.command("op.rooms.presence", {"room": "lobby"})
        assert {client["subject"] for client in present["clients"]} == {"ann", "bob"}
        ack = await ann.send(bob.welcome["client"], "hello")
        assert ack.durability == "memory"
        assert (await asyncio.wait_for(heard.get(), 5)).json() == "hello"
        with pytest.raises(Rejected) as refused:
            await ann.send(f"{ack.id}.{bob.welcome['node']}", "nobody")
        assert refused.value.code == "NOT_FOUND"
        with pytest.raises(Rejected) as refused:
            await ann.send(f"{ack.id}.no-such-node", "nobody")
        assert refused.value.code == "NOT_FOUND"
        await visit.close()
        seen: set[str] = set()
        async with asyncio.timeout(10):
            while not {"presence.join", "presence.leave"} <= seen:
                seen.add(await signals.get())


async def test_kill_9_of_either_node_loses_no_acked_message(start_node: StartNode) -> None:
    """While both nodes publish, each is killed in turn; nothing acked is lost, repeated or out of order."""
    nodes = [start_node(), start_node()]
    async with contextlib.AsyncExitStack() as stack:
        both = [await stack.enter_async_context(client) for client in clients(*nodes)]
        readings = [Reading(await client.subscribe("orders")) for client in both]
        loads = [Load(client, "orders", mark) for client, mark in zip(both, "ab", strict=True)]
        for victim, load in zip(nodes, loads, strict=True):
            before = len(load.acks)
            await until(lambda load=load, before=before: len(load.acks) > before + 100, 30)
            await asyncio.to_thread(victim.kill)
            await asyncio.to_thread(victim.start)
            before = len(load.acks)
            await until(lambda load=load, before=before: len(load.acks) > before + 100, 30)
        acked = {name: ack for load in loads for name, ack in (await load.stop()).items()}
        await settle(readings, acked)
        for reading in readings:
            check(reading, acked)


async def test_a_restart_of_the_engine_loses_no_acked_message(engine: Engine, start_node: StartNode) -> None:
    """Valkey is killed and started again under load; nothing acked is lost, repeated or out of order."""
    nodes = [start_node(), start_node()]
    servers = engine.servers if isinstance(engine, ValkeyCluster) else [engine]
    async with contextlib.AsyncExitStack() as stack:
        both = [await stack.enter_async_context(client) for client in clients(*nodes)]
        readings = [Reading(await client.subscribe("orders")) for client in both]
        loads = [Load(client, "orders", mark) for client, mark in zip(both, "ab", strict=True)]
        for server in servers:
            before = [len(load.acks) for load in loads]
            await until(
                lambda before=before: all(
                    len(load.acks) > b + 50 for load, b in zip(loads, before, strict=True)
                ),
                30,
            )
            await asyncio.to_thread(server.restart)
        before = [len(load.acks) for load in loads]
        await until(lambda: all(len(load.acks) > b + 50 for load, b in zip(loads, before, strict=True)), 30)
        acked = {name: ack for load in loads for name, ack in (await load.stop()).items()}
        await settle(readings, acked)
        for reading in readings:
            check(reading, acked)


async def test_sigterm_drains_and_ends_with_0(start_node: StartNode) -> None:
    """On SIGTERM a client hears goaway, what was acked is kept, and the exit code is 0."""
    first, second = start_node(), start_node()
    signals: list[str] = []
    async with (
        Client(first.url, first.token(), timeout=5, on_signal=lambda s: signals.append(s.name)) as leaving,
        Client(second.url, second.token(), timeout=5) as staying,
    ):
        acks = [await leaving.publish("orders", n) for n in range(20)]
        assert await asyncio.to_thread(first.stop) == 0
        assert "goaway" in signals
        page = await staying.command("op.history.replay", {"room": "orders"})
        assert [m["id"] for m in page["messages"]] == [ack.id for ack in acks]
