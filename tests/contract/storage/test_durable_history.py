"""Rooms with a durable history: what was acknowledged comes back, whatever Valkey lost of it.

ARQONBUS_HISTORY_ROUNDS asks for more rounds of losses under load than a few.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from arqonbus.storage.layers.durable_history import HistoryUnavailable, Piece
from arqonbus.storage.ports import (
    Appended,
    Batch,
    Durability,
    Entry,
    EventLog,
    Retention,
    RoomKey,
    StorageError,
)
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.history import PostgresHistory
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.valkey import ValkeyServer, running_server

from .conftest import EVERYTHING, Bench, append, ids_in, items, outcomes, stored, valkey_bench
from .test_live import heard

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("durable-history")]

ROUNDS = int(os.environ.get("ARQONBUS_HISTORY_ROUNDS", "4"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        asyncio.run(migrate.apply(server.settings("postgres").datastores.postgres))
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_server(tmp_path / "own") as server:
        yield server


@pytest.fixture
async def history(postgres: PostgresServer) -> AsyncIterator[PostgresHistory]:
    store = PostgresHistory(postgres.settings("postgres").datastores.postgres)
    yield store
    await store.close()


@pytest.fixture
async def bench(server: ValkeyServer, postgres: PostgresServer) -> AsyncIterator[Bench]:
    """Logs that keep every room but `passing`, each with connections of its own."""
    settings = postgres.settings("postgres", "datastores.postgres.pool.max=2").datastores.postgres

    def make(**options: object) -> EventLog:
        own = {"history": PostgresHistory(settings), "is_kept": lambda room: room.room != "passing"}
        usual = valkey_bench([server.url], reply_timeout=2.0, connect_timeout=2.0)
        return usual._make(**{**own, **options})

    made = Bench(make, survives=True, shared=True)
    yield made
    await made.close()


async def kept(history: PostgresHistory, room: RoomKey) -> list[Entry]:
    return list(await history.after(room, 0, 1_000_000))


async def entries(log: EventLog, room: RoomKey) -> list[Entry]:
    return list((await log.read(room, 0, 0, 1_000_000)).entries)


async def test_an_ack_stands_in_both(bench: Bench, history: PostgresHistory) -> None:
    """It is durable when Postgres has it; a room without the rule is as it was."""
    log, room, passing = await bench.log(), bench.room(), bench.room("passing")
    outcome = await append(log, room, "a", "b")
    assert outcome.durability is Durability.DURABLE
    assert await kept(history, room) == await entries(log, room)
    assert (await append(log, passing, "a")).durability is Durability.HOT
    assert await history.top(passing) is None


async def test_everything_is_lost(bench: Bench, server: ValkeyServer) -> None:
    """The room comes back with its numbers, in a new epoch, and knows the ids again."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, *(f"id-{number}" for number in range(1200)))
    held = await entries(log, room)
    server.ask("FLUSHALL")
    assert await entries(log, room) == held
    after = await append(log, room, "new", "id-7")
    assert after.epoch > before.epoch
    assert (list(after.sequences), after.duplicates) == ([1201, 8], {1})
    page = await log.read(room, 0, 0, 1)
    assert (page.base, page.head.first, page.head.last) == (1200, 1, 1201)


@pytest.mark.parametrize("comes_first", ["reader", "publisher", "follower"])
async def test_the_end_is_lost(
    bench: Bench, server: ValkeyServer, history: PostgresHistory, tmp_path: Path, comes_first: str
) -> None:
    """Older files are put under the server: whoever comes first finds the hole filled."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a", "b")
    shutil.copytree(server.directory / "appendonlydir", tmp_path / "copy")
    await append(log, room, "c", "d")
    await log.close()
    server.kill()
    shutil.rmtree(server.directory / "appendonlydir")
    shutil.copytree(tmp_path / "copy", server.directory / "appendonlydir")
    server.start()
    log = await bench.log()
    if comes_first == "reader":
        assert await ids_in(log, room) == ["a", "b", "c", "d"]
    if comes_first == "follower":
        assert (await log.follow(room)).last == 4
    after = await append(log, room, "e")
    assert (after.epoch > before.epoch, list(after.sequences)) == (True, [5])
    assert await ids_in(log, room) == ["a", "b", "c", "d", "e"]
    assert await kept(history, room) == await entries(log, room)


async def test_a_restart_that_loses_nothing_keeps_the_epoch(bench: Bench, server: ValkeyServer) -> None:
    """There is nothing to fill, and what is proven whole stays so."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a", "b")
    await asyncio.to_thread(server.restart)
    assert (await stored(log, room, "c")).epoch == before.epoch


async def test_many_nodes_fill_at_once(bench: Bench, server: ValkeyServer, history: PostgresHistory) -> None:
    """All go on in one epoch, each message is there once, and both places agree."""
    first, room = await bench.log(), bench.room()
    await append(first, room, *(f"old-{number}" for number in range(700)))
    await first.close()
    server.ask("FLUSHALL")
    nodes = [await bench.log() for _ in range(6)]
    found = await asyncio.gather(*(stored(log, room, f"new-{at}") for at, log in enumerate(nodes)))
    held = await entries(nodes[0], room)
    assert [entry.id for entry in held[:700]] == [f"old-{number}" for number in range(700)]
    assert sorted(entry.id for entry in held[700:]) == [f"new-{at}" for at in range(6)]
    assert {outcome.epoch for outcome in found} >= {(await nodes[0].head(room)).epoch}
    assert await kept(history, room) == held


async def test_postgres_is_away(bench: Bench, postgres: PostgresServer, history: PostgresHistory) -> None:
    """Nothing is acknowledged as durable; a repeated publish makes up for what Postgres missed."""
    log, room, passing = await bench.log(), bench.room(), bench.room("passing")
    await append(log, room, "a")
    postgres.stop()
    try:
        (outcome,) = await outcomes(log, Batch(room, items("b"), EVERYTHING))
        assert isinstance(outcome, HistoryUnavailable)
        assert outcome.outcome_unknown
        assert isinstance((await outcomes(log, Batch(passing, items("a"), EVERYTHING)))[0], Appended)
        assert await ids_in(log, room) == ["a", "b"]
    finally:
        postgres.start()
    repeated = await stored(log, room, "b")
    assert (list(repeated.sequences), repeated.duplicates) == ([2], {0})
    assert repeated.durability is Durability.DURABLE
    assert await kept(history, room) == await entries(log, room)


async def test_nothing_comes_in_behind_a_fill(bench: Bench, history: PostgresHistory) -> None:
    """What was appended in an epoch of before is refused once a node has raised it."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a")
    await history.raise_epoch(room, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ")
    late = Piece(room, before.epoch, [Entry(2, 1, "late", "", b"")])
    life = (await history.keep([], "")).life
    assert (await history.keep([late], life)).epochs[room] != before.epoch
    assert [entry.id for entry in await kept(history, room)] == ["a"]


async def test_a_node_that_ended_while_it_filled(bench: Bench, history: PostgresHistory) -> None:
    """It had raised the epoch, and the engine never heard of it: the next append sets that right."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a")
    await history.raise_epoch(room, "01ZZZZZZZZZZZZZZZZZZZZZZZZ")
    after = await append(log, room, "b")
    assert after.epoch == before.epoch  # the epoch it was appended in
    assert (await log.head(room)).epoch > "01ZZZZZZZZZZZZZZZZZZZZZZZZ"
    assert await kept(history, room) == await entries(log, room)
    assert (await append(log, room, "c")).sequences == range(3, 4)


async def test_a_deleted_room_stays_deleted(
    bench: Bench, history: PostgresHistory, server: ValkeyServer
) -> None:
    """It does not come back, and begins anew; a deletion that was interrupted is said to be one."""
    log, room = await bench.log(), bench.room()
    await append(log, room, "a", "b")
    assert await log.delete_room(room)
    assert await history.top(room) is None
    assert (await log.head(room)).epoch == ""
    assert (await append(log, room, "c")).sequences == range(1, 2)
    await history.raise_epoch(room, "~")
    server.ask("FLUSHALL")
    with pytest.raises(StorageError, match="Repeat the deletion"):
        await log.head(room)
    await log.delete_room(room)
    assert (await append(log, room, "d")).sequences == range(1, 2)


async def test_a_room_of_before_the_rule(bench: Bench, history: PostgresHistory) -> None:
    """With the first append Postgres gets all that the engine has of the room."""
    room = bench.room()
    plain = await bench.log(history=None)
    await append(plain, room, *(f"id-{number}" for number in range(1100)))
    log = await bench.log()
    await append(log, room, "new")
    held = await kept(history, room)
    assert held == await entries(log, room)
    assert len(held) == 1101


async def test_postgres_went_back_in_time(
    bench: Bench, postgres: PostgresServer, history: PostgresHistory
) -> None:
    """Restored from a backup, it gets what it lacks from the engine with the next append."""
    log, room = await bench.log(), bench.room()
    await append(log, room, "a", "b", "c", "d")
    postgres.stop()
    postgres.start()
    await history.trim(room, 1 << 62)
    await stored(log, room, "e")
    await stored(log, room, "f")
    assert await kept(history, room) == await entries(log, room)


async def test_retention_is_the_engine_s(bench: Bench, history: PostgresHistory) -> None:
    """What the room no longer holds is removed from Postgres too."""
    log, room = await bench.log(), bench.room()
    for number in range(30):
        await append(log, room, f"id-{number}", retention=Retention(10, 0))
    assert len(await kept(history, room)) == 30
    await log._history.trim()  # type: ignore[attr-defined]
    assert await kept(history, room) == await entries(log, room)


async def test_losses_under_load(
    bench: Bench, server: ValkeyServer, postgres: PostgresServer, history: PostgresHistory, tmp_path: Path
) -> None:
    """Valkey is killed, put back in time, emptied; Postgres is killed: each ack holds, once and in order."""
    chance = random.Random(7)
    server.ask("CONFIG", "SET", "appendfsync", "no")
    server.options = ("--appendfsync", "no")
    rooms = [bench.room(f"room-{number}") for number in range(4)]
    logs = [await bench.log(), await bench.log()]
    acked: dict[RoomKey, list[str]] = {room: [] for room in rooms}
    stop = asyncio.Event()

    async def publish(log: EventLog, room: RoomKey, name: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await stored(log, room, f"{name}-{number:06}", 30.0)
            acked[room].append(f"{name}-{number:06}")

    load = [
        asyncio.create_task(publish(log, room, f"node-{at}")) for at, log in enumerate(logs) for room in rooms
    ]
    copy = tmp_path / "copy"
    for turn in range(ROUNDS):
        enough = sum(map(len, acked.values())) + 200
        await heard(lambda: sum(map(len, acked.values())) >= enough, "enough acks")  # noqa: B023
        if turn % 4 == 3:
            await asyncio.to_thread(postgres.signal, signal.SIGKILL)
            await asyncio.sleep(chance.uniform(0.1, 0.5))
            await asyncio.to_thread(postgres.stop)
            await asyncio.to_thread(postgres.start)
        elif turn % 4 == 2:
            server.ask("FLUSHALL")
        else:
            await asyncio.to_thread(server.kill)
            if copy.exists():
                shutil.rmtree(server.directory / "appendonlydir")
                shutil.copytree(copy, server.directory / "appendonlydir")
            else:
                shutil.copytree(server.directory / "appendonlydir", copy)
            await asyncio.to_thread(server.start)
    stop.set()
    await asyncio.gather(*load)
    for room in rooms:
        held = [entry.id for entry in await entries(logs[0], room)]
        assert len(held) == len(set(held)), "a message is there twice"
        assert set(acked[room]) <= set(held), "an acknowledged message is lost"
        for name in ("node-0", "node-1"):
            own = [id_ for id_ in held if id_.startswith(name)]
            assert own == sorted(own), "messages are out of order"
