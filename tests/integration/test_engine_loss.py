"""Strict storage: what a bus says and does while its engine is gone, and how it comes back by itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from arqonbus.client import Ack, Client, Disconnected, Rejected
from arqonbus.storage.ports import StorageError
from tests.integration.conftest import Bus, StartBus
from tests.integration.waiting import until
from tests.servers.valkey import ValkeyServer, running_server

pytestmark = pytest.mark.servers


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_server(tmp_path / "valkey") as server:
        yield server


def on(server: ValkeyServer) -> tuple[str, str]:
    return "storage.backend=valkey", f"datastores.valkey.url={server.url}"


async def is_(bus: Bus, status: int, *, ready: bool) -> bool:
    """Whether /readyz has this status and arqonbus_ready says this."""
    async with httpx.AsyncClient(timeout=10) as http:
        answer = await http.get(bus.http("/readyz"))
        said = "arqonbus_ready 1.0" in (await http.get(bus.http("/metrics"))).text
        return answer.status_code == status and said is ready


async def outcome(client: Client, room: str) -> Ack | Rejected | Disconnected:
    try:
        return await client.publish(room, "x")
    except (Rejected, Disconnected) as refusal:
        return refusal


def kill(server: ValkeyServer) -> Callable[[], None]:
    server.kill()
    return server.start


def stop(server: ValkeyServer) -> Callable[[], None]:
    process = server._process
    assert process is not None
    process.signal(signal.SIGSTOP)
    return lambda: process.signal(signal.SIGCONT)


@pytest.mark.parametrize("lose", [kill, stop])
async def test_a_lost_engine_is_said_and_forgiven(
    start_bus: StartBus, valkey: ValkeyServer, lose: Callable[[ValkeyServer], Callable[[], None]]
) -> None:
    """The node is not ready and refuses publishes, with what became of them; then all is as before: the
    subscriber got every message once and in order, and nothing that was not stored.
    """
    bus = await start_bus(*on(valkey))
    writer, reader = await bus.client(timeout=30.0), await bus.client("bob", timeout=30.0)
    room = await reader.subscribe("orders")
    acked = [(await writer.publish("orders", number)).id for number in range(5)]
    assert await is_(bus, 200, ready=True)
    give_back = await asyncio.to_thread(lose, valkey)
    await until(lambda: is_(bus, 503, ready=False), 20)
    waiting = [asyncio.create_task(writer.publish("orders", number)) for number in range(5, 10)]
    impatient = await bus.client("carl", timeout=1.0)
    refusal = await outcome(impatient, "other")
    assert not isinstance(refusal, Ack)
    await asyncio.to_thread(give_back)
    acked += [ack.id for ack in await asyncio.gather(*waiting)]
    await until(lambda: is_(bus, 200, ready=True), 30)
    last = await writer.publish("orders", "last")
    seen = []
    async with asyncio.timeout(20):
        while not seen or seen[-1].id != last.id:
            seen.append(await anext(room))
    assert [message.sequence for message in seen] == list(range(1, 12))
    assert sorted(message.id for message in seen) == sorted([*acked, last.id])


async def test_a_refused_publish_says_what_became_of_it(start_bus: StartBus, valkey: ValkeyServer) -> None:
    """Without a connection nothing was written, and the refusal says so."""
    bus = await start_bus(*on(valkey))
    client = await bus.client(timeout=0.4)  # less than the time to try again in
    await client.publish("orders", 1)
    await asyncio.to_thread(valkey.kill)

    async def refused() -> bool:
        refusal = await outcome(client, "orders")
        return isinstance(refusal, Rejected) and refusal.error.details == {"outcome": "not stored"}

    await until(refused)
    assert bus.node.counters.rejected["STORAGE_UNAVAILABLE"] > 0


async def test_no_start_without_the_engine(start_bus: StartBus) -> None:
    """A strict bus does not begin without its engine, and says where it looked; systemd tries again."""
    with pytest.raises(StorageError, match=r"Valkey at 127\.0\.0\.1:1 cannot be reached"):
        await start_bus("storage.backend=valkey", "datastores.valkey.url=valkey://127.0.0.1:1")
