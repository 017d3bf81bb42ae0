"""Engines that go back in time: what a log then says of a room can be proven, or it says nothing.

ARQONBUS_FENCE_ROUNDS asks for more rounds than a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from arqonbus.storage.ports import (
    FROM_BEGIN,
    Appended,
    Batch,
    Durability,
    Entry,
    EventLog,
    GroupKey,
    LogListener,
    RoomKey,
    StorageError,
)
from arqonbus.storage.sqlite.projection import SqliteProjection
from arqonbus.storage.valkey.keys import room_keys
from arqonbus.storage.witness import Mark
from tests.servers.processes import wait_until
from tests.servers.valkey import ValkeyServer, running_server

from .conftest import EVERYTHING, Bench, append, ids_in, items, outcomes, stored, valkey_bench
from .test_live import heard

pytestmark = pytest.mark.servers

ROUNDS = int(os.environ.get("ARQONBUS_FENCE_ROUNDS", "3"))
ROOMS = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_server(tmp_path / "own") as server:
        yield server


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteProjection]:
    witness = SqliteProjection(tmp_path / "witness.sqlite")
    await witness.open()
    yield witness
    await witness.close()


@pytest.fixture
async def bench(server: ValkeyServer, store: SqliteProjection) -> AsyncIterator[Bench]:
    made = valkey_bench([server.url], witness=store, reply_timeout=2.0, connect_timeout=2.0)
    yield made
    await made.close()


class AwayWitness:
    """A witness that cannot be asked."""

    async def marks(self, rooms: Sequence[RoomKey]) -> Mapping[RoomKey, Mark]:
        raise StorageError("the witness is away")

    async def witness(self, marks: Mapping[RoomKey, Mark]) -> None:
        raise StorageError("the witness is away")


async def epoch_of(log: EventLog, room: RoomKey) -> str:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StorageError):
                return (await log.head(room)).epoch
            await asyncio.sleep(0.01)


async def test_a_restart_that_loses_nothing_keeps_the_epoch(bench: Bench, server: ValkeyServer) -> None:
    """With appendfsync always nobody was shown what was not on disk, so positions stay good."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a", "b")
    await asyncio.to_thread(server.restart)
    assert await epoch_of(log, room) == before.epoch
    assert (await stored(log, room, "c")).sequences[0] == 3


async def test_a_bus_that_began_anew_asks_the_witness(bench: Bench, server: ValkeyServer) -> None:
    """A log that was not there when the server went believes what was written down."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a")
    await log.close()
    await asyncio.to_thread(server.restart)
    assert (await append(await bench.log(), room, "b")).epoch == before.epoch


@pytest.mark.parametrize("witness", [None, AwayWitness()], ids=["none", "away"])
async def test_without_a_witness_nothing_is_believed(server: ValkeyServer, witness: object) -> None:
    """A log that was not there, and has nobody to ask, lets the room go on in a new epoch."""
    bench = valkey_bench([server.url], witness=witness)
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a", "b")
    await log.close()
    await asyncio.to_thread(server.restart)
    after = await append(await bench.log(), room, "c")
    assert after.epoch > before.epoch
    assert list(after.sequences) == [3]
    await bench.close()


async def test_what_may_be_lost_counts_as_lost(bench: Bench, server: ValkeyServer) -> None:
    """Without a flush before each answer, a restart begins a new epoch; numbers and history go on."""
    server.ask("CONFIG", "SET", "appendfsync", "everysec")
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a", "b")
    server.options = ("--appendfsync", "everysec")
    await asyncio.to_thread(server.restart)
    after = await stored(log, room, "c")
    assert after.epoch > before.epoch
    page = await log.read(room, 0, 0, 10)
    assert (page.head.epoch, page.base) == (after.epoch, page.head.last - 1)
    assert (await ids_in(log, room))[-1] == "c"


async def test_an_older_copy_of_the_data(bench: Bench, server: ValkeyServer, tmp_path: Path) -> None:
    """Restored files that were flushed as they should be are found out by the witness."""
    log, room, other = await bench.log(), bench.room(), bench.room("other")
    before = await append(log, room, "a", "b")
    await append(log, other, "a")
    shutil.copytree(server.directory / "appendonlydir", tmp_path / "copy")
    await append(log, room, "c")
    await log.close()
    server.kill()
    shutil.rmtree(server.directory / "appendonlydir")
    shutil.copytree(tmp_path / "copy", server.directory / "appendonlydir")
    server.start()
    log = await bench.log()
    after = await append(log, room, "d")
    assert (after.epoch > before.epoch, list(after.sequences)) == (True, [3])
    assert await ids_in(log, room) == ["a", "b", "d"]


async def test_flushall(bench: Bench, server: ValkeyServer) -> None:
    """A room that was emptied behind the bus's back begins anew, under another epoch."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a", "b")
    server.ask("FLUSHALL")
    after = await append(log, room, "c")
    assert (after.epoch > before.epoch, list(after.sequences)) == (True, [1])


async def test_a_promoted_replica(server: ValkeyServer, store: SqliteProjection, tmp_path: Path) -> None:
    """A successor may lack what the primary had shown: its rooms go on in new epochs."""
    with running_server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {server.port}") as replica:
        bench = valkey_bench([server.url, replica.url], witness=store)
        log, room = await bench.log(), bench.room()
        before = await append(log, room, "a", "b")
        wait_until(lambda: replica.ask("XLEN", room_keys(room).log) == 2, "the replica to have it")
        server.kill()
        replica.ask("REPLICAOF", "NO", "ONE")
        after = await stored(log, room, "c")
        assert (after.epoch > before.epoch, list(after.sequences)) == (True, [3])
        await bench.close()


async def test_a_primary_that_is_one_again(server: ValkeyServer, tmp_path: Path) -> None:
    """It lost what the other one never had, and its process never ended: its rooms go on in new epochs."""
    with running_server(tmp_path / "other", "--replicaof", f"127.0.0.1 {server.port}") as other:
        bench = valkey_bench([server.url])
        log, room = await bench.log(), bench.room()
        before = await append(log, room, "a", "b")
        wait_until(lambda: other.ask("XLEN", room_keys(room).log) == 2, "the replica to have it")
        other.ask("REPLICAOF", "NO", "ONE")
        assert (await append(log, room, "lost")).epoch == before.epoch
        server.ask("REPLICAOF", "127.0.0.1", str(other.port))
        wait_until(lambda: server.ask("XLEN", room_keys(room).log) == 2, "the primary to lose it")
        server.ask("REPLICAOF", "NO", "ONE")
        await log.close()
        second = await bench.log()
        after = await stored(second, room, "c")
        assert (after.epoch > before.epoch, list(after.sequences)) == (True, [3])
        await bench.close()


async def test_a_room_that_was_deleted_on_purpose(bench: Bench, server: ValkeyServer) -> None:
    """It begins anew and stays as it is after the next restart."""
    log, room = await bench.log(), bench.room()
    await append(log, room, "a", "b", "c")
    await log.delete_room(room)
    before = await append(log, room, "d")
    await log.close()
    await asyncio.to_thread(server.restart)
    assert (await append(await bench.log(), room, "e")).epoch == before.epoch


async def test_many_nodes_look_at_once(server: ValkeyServer) -> None:
    """One of them begins the new epoch, and all go on in it, each batch once and in order."""
    bench = valkey_bench([server.url])
    first, room = await bench.log(), bench.room()
    before = await append(first, room, "a")
    await first.close()
    await asyncio.to_thread(server.restart)
    nodes = [await bench.log() for _ in range(6)]
    batches = [Batch(room, items(f"{node}-{number}"), EVERYTHING) for node in range(6) for number in range(5)]
    sent = [outcomes(log, *batches[5 * at : 5 * at + 5]) for at, log in enumerate(nodes)]
    found = [outcome for some in await asyncio.gather(*sent) for outcome in some]
    assert all(isinstance(outcome, Appended) for outcome in found), found
    assert len({outcome.epoch for outcome in found} - {before.epoch}) == 1  # type: ignore[union-attr]
    held = (await ids_in(nodes[0], room))[1:]
    assert sorted(held) == sorted(batch.items[0].id for batch in batches)
    for node in range(6):
        assert [id_ for id_ in held if id_.startswith(f"{node}-")] == [f"{node}-{n}" for n in range(5)]
    await bench.close()


async def test_groups_go_on_behind_a_new_epoch(server: ValkeyServer) -> None:
    """What a group was given before is not given again because the epoch is another one."""
    bench = valkey_bench([server.url])
    log, room = await bench.log(), bench.room()
    group = GroupKey(room, "workers")
    await append(log, room, "a", "b", "c")
    assert log.groups is not None
    await log.groups.ensure(group, FROM_BEGIN, 0)
    given = await log.groups.read(group, "ann", 2, 60_000_000, 1 << 20)
    await log.groups.ack(group, given.epoch, [1, 2])
    await log.close()
    await asyncio.to_thread(server.restart)
    log = await bench.log()
    assert (await append(log, room, "d")).epoch > given.epoch
    assert log.groups is not None
    after = await log.groups.read(group, "ann", 10, 60_000_000, 1 << 20)
    assert [job.entry.id for job in after.jobs] == ["c", "d"]
    assert (await log.groups.state(group)).missed == 0
    await bench.close()


class Witnessed(LogListener):
    """What a subscriber of a room has really been shown, by epoch and sequence."""

    def __init__(self) -> None:
        self.shown: dict[tuple[RoomKey, str], dict[int, str]] = {}
        self.positions: list[tuple[RoomKey, str, int]] = []

    def on_entries(self, room: RoomKey, epoch: str, entries: Sequence[Entry]) -> None:
        seen = self.shown.setdefault((room, epoch), {})
        for entry in entries:
            assert seen.setdefault(entry.sequence, entry.id) == entry.id, "a number was given twice"
            self.positions.append((room, epoch, entry.sequence))


@pytest.mark.parametrize("flush", ["always", "everysec", "no"])
async def test_no_recovery_is_claimed_across_a_hole(
    server: ValkeyServer, store: SqliteProjection, flush: str, tmp_path: Path
) -> None:
    """Under load the engine is killed, and comes back as it was or from older files. Whoever was shown
    something asks for what came after: if the log answers under that epoch, everything shown is in it.
    """
    chance = random.Random(flush)
    server.ask("CONFIG", "SET", "appendfsync", flush)
    server.options = ("--appendfsync", flush)
    bench = valkey_bench([server.url], witness=store, reply_timeout=2.0, connect_timeout=2.0)
    ear = Witnessed()
    logs = [await bench.log(ear), await bench.log(Witnessed())]  # type: ignore[arg-type]
    rooms = [bench.room(f"room-{number}") for number in range(ROOMS)]
    for room in rooms:
        await logs[0].follow(room)
    count = recoveries = kept = 0
    copy = tmp_path / "copy"
    for turn in range(ROUNDS):
        stop = asyncio.Event()

        async def publish(log: EventLog, stop: asyncio.Event) -> None:
            nonlocal count
            while not stop.is_set():
                count += 1
                await outcomes(log, *(Batch(room, items(f"{count}-{log}"), EVERYTHING) for room in rooms))
                await asyncio.sleep(0.001)

        load = [asyncio.create_task(publish(log, stop)) for log in logs]
        enough = len(ear.positions) + 40 * ROOMS
        await heard(lambda: len(ear.positions) >= enough, "enough entries")  # noqa: B023
        await asyncio.to_thread(server.kill)
        stop.set()
        await asyncio.gather(*load)
        if turn % 3 == 1 and copy.exists():
            shutil.rmtree(server.directory / "appendonlydir")
            shutil.copytree(copy, server.directory / "appendonlydir")
        elif turn % 3 == 0:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(server.directory / "appendonlydir", copy)
        await asyncio.to_thread(server.start)
        for room in rooms:
            await stored(logs[turn % 2], room, f"after-{turn}")
        await epoch_of(logs[1], rooms[0])  # it has to be connected again, too
        for room, epoch, sequence in [*chance.sample(ear.positions, 200), *ear.positions[-5 * ROOMS :]]:
            recoveries += 1
            page = await logs[1].read(room, 0, 0, 1_000_000)
            if page.head.epoch != epoch or sequence > page.head.last:
                continue
            kept += 1
            held = {entry.sequence: entry.id for entry in page.entries}
            shown = ear.shown[room, epoch]
            false = {n: id_ for n, id_ in shown.items() if n > page.base and held.get(n) != id_}
            assert not false, f"{room} claims {epoch}, and lacks {false}"
    assert recoveries >= 200 * ROUNDS
    assert kept or flush != "always"
    await bench.close()


async def test_a_stopped_server_that_goes_on_is_the_same(bench: Bench, server: ValkeyServer) -> None:
    """A connection that broke is no new beginning: the server's run is the same, and so is the epoch."""
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a")
    assert server._process is not None
    server._process.signal(signal.SIGSTOP)
    (outcome,) = await outcomes(log, Batch(room, items("b"), EVERYTHING))
    server._process.signal(signal.SIGCONT)
    assert isinstance(outcome, StorageError)
    assert (await stored(log, room, "b")).epoch == before.epoch
    assert log.durability is Durability.HOT


async def test_a_server_that_does_not_say_how_it_flushes(
    server: ValkeyServer, store: SqliteProjection
) -> None:
    """An account without CONFIG works; nothing is then taken to have been on disk."""
    server.ask("ACL", "SETUSER", "bus", "on", ">secret", "~*", "&*", "+@all", "-config")
    bench = valkey_bench([server.url], witness=store, username="bus", password="secret")
    log, room = await bench.log(), bench.room()
    before = await append(log, room, "a")
    await log.close()
    await asyncio.to_thread(server.restart)
    server.ask("ACL", "SETUSER", "bus", "on", ">secret", "~*", "&*", "+@all", "-config")
    after = await append(await bench.log(), room, "b")
    assert (after.epoch > before.epoch, list(after.sequences)) == (True, [2])
    await bench.close()
