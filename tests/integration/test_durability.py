"""What an ack says about a message is what that room's rule declares, and was reached: on real engines."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from arqonbus.client import Rejected
from arqonbus.storage.ports import Appended, Batch, Durability, Item, Retention, RoomKey
from arqonbus.storage.sqlite.log import SqliteLog
from tests.integration.conftest import StartBus
from tests.servers.valkey import ValkeyServer, running_server

LEVELS = {"fast": "memory", "hot": "hot", "safe": "durable"}
RULES = f"rooms=[{', '.join(f'{{match: {room}, durability: {level}}}' for room, level in LEVELS.items())}]"


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_server(tmp_path / "valkey") as server:
        yield server


def on(server: ValkeyServer, *more: str) -> tuple[str, ...]:
    return (
        "storage.backend=valkey",
        f"datastores.valkey.url={server.url}",
        "projector.phase=emit_only",
        *more,
    )


@pytest.mark.servers
@pytest.mark.parametrize("default", ["hot", "durable"])
async def test_an_ack_carries_the_level_of_its_room(
    start_bus: StartBus, valkey: ValkeyServer, default: str
) -> None:
    """Rooms of three levels, published to at once on one engine, are acked each at its own."""
    bus = await start_bus(*on(valkey, RULES, f"storage.durability={default}"))
    client = await bus.client()
    rooms = ["fast", "hot", "safe", "other"]
    acks = await asyncio.gather(*(client.publish(room, 1) for room in rooms))
    assert [ack.durability for ack in acks] == ["memory", "hot", "durable", default]
    assert valkey.ask("KEYS", "*:room:{demo/fast}:*") == []
    assert valkey.ask("KEYS", "*:room:{demo/safe}:log") != []


@pytest.mark.servers
@pytest.mark.parametrize("default", ["hot", "durable"])
async def test_only_durable_rooms_wait_for_the_disk(
    start_bus: StartBus, valkey: ValkeyServer, default: str
) -> None:
    """While the disk is not flushed, hot and memory rooms are acked, and a durable one once it is."""
    bus = await start_bus(*on(valkey, RULES, f"storage.durability={default}"))
    valkey.ask("CONFIG", "SET", "appendfsync", "no")
    client = await bus.client(timeout=4.0)
    safe = asyncio.create_task(client.publish("safe", 1))
    assert (await client.publish("hot", 1)).durability == "hot"
    assert (await client.publish("fast", 1)).durability == "memory"
    for number in range(20):
        assert (await client.publish("hot", number)).durability == "hot"
    assert not safe.done()
    valkey.ask("CONFIG", "SET", "appendfsync", "always")
    assert (await safe).durability == "durable"


async def test_a_room_in_memory_has_history_and_no_groups(start_bus: StartBus) -> None:
    """It can be joined, recovered and read like any other; workers need what outlives a process."""
    bus = await start_bus("storage.backend=sqlite", RULES)
    client, other = await bus.client(), await bus.client("bob")
    room = await other.subscribe("fast", presence=True)
    acks = [await client.publish("fast", number) for number in range(3)]
    assert [(await anext(room)).json() for _ in acks] == [0, 1, 2]
    page = await client.command("op.history.replay", {"room": "fast"})
    assert [message["id"] for message in page["messages"]] == [ack.id for ack in acks]
    assert "fast" in (await client.command("op.rooms.list"))["rooms"]
    since = {"epoch": acks[0].epoch, "sequence": acks[0].sequence}
    joined = await client.command("op.rooms.join", {"room": "fast", "since": since})
    assert (joined["recovered"], joined["missed"]) == (True, 2)
    with pytest.raises(Rejected) as refused:
        await client.command("op.groups.ensure", {"room": "fast", "group": "workers"})
    assert refused.value.code == "CAPABILITY_UNAVAILABLE"
    assert (await client.command("op.groups.ensure", {"room": "hot", "group": "workers"}))["created"]


class _Deaf:
    """A listener for a log that nobody else writes to."""


async def test_sqlite_flushes_the_commits_that_promise_it(tmp_path: Path) -> None:
    """A durable batch is committed with a flush of the write-ahead log, a hot one without."""
    log = SqliteLog(tmp_path / "log.sqlite")
    await log.open(_Deaf())  # type: ignore[arg-type]
    said: list[str] = []
    log._connection.set_trace_callback(said.append)

    async def commit(level: Durability) -> tuple[Durability, list[str]]:
        said.clear()
        batch = Batch(RoomKey("t", "r"), [Item(level.name, "", b"x")], Retention(0, 0), level)
        (outcome,) = await log.append([batch])
        assert isinstance(outcome, Appended)
        before = said[: said.index("COMMIT") + 1]
        return outcome.durability, [line for line in before if line.startswith("PRAGMA")]

    assert await commit(Durability.HOT) == (Durability.HOT, [])
    assert await commit(Durability.DURABLE) == (Durability.DURABLE, ["PRAGMA synchronous = FULL"])
    assert await commit(Durability.HOT) == (Durability.HOT, [])
    await log.close()
    with sqlite3.connect(tmp_path / "log.sqlite") as file:
        assert file.execute("SELECT count(*) FROM entries").fetchone() == (2,)
