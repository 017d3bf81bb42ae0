"""Killed and restarted engines, moving slots, a lost function library: recovery without help."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from arqonbus.storage.ports import (
    FROM_BEGIN,
    Appended,
    Batch,
    Durability,
    GroupKey,
    RoomMember,
    StorageError,
)
from arqonbus.storage.valkey.engine import LIBRARY_VERSION
from arqonbus.storage.valkey.keys import room_keys
from tests.servers.processes import wait_until
from tests.servers.valkey import ValkeyCluster, ValkeyServer, running_cluster, running_server

from .conftest import EVERYTHING, Bench, Ear, append, ids_in, items, outcomes, stored, valkey_bench
from .test_live import heard

pytestmark = pytest.mark.servers


@pytest.fixture
def server(tmp_path: Path):  # type: ignore[no-untyped-def]
    with running_server(tmp_path / "own") as server:
        yield server


@pytest.fixture
async def bench(server: ValkeyServer) -> AsyncIterator[Bench]:
    made = valkey_bench([server.url], cluster=False, durability=Durability.DURABLE, reply_timeout=2.0)
    yield made
    await made.close()


async def test_restart_under_load(bench: Bench, server: ValkeyServer) -> None:
    """Over a SIGKILL and a restart every id is stored once, in order, and the log needs no help."""
    log, room = await bench.log(), bench.room()
    acked: dict[str, int] = {}

    async def publish() -> None:
        for number in range(400):
            id_ = f"{number:04d}"
            acked[id_] = (await stored(log, room, id_)).sequences[0]

    publishing = asyncio.create_task(publish())
    for quantity in (50, 150, 250):
        await heard(lambda: len(acked) >= quantity, f"{quantity} acks")  # noqa: B023
        await asyncio.to_thread(server.restart)
    await publishing
    held = (await log.read(room, 0, 0, 1000)).entries
    assert [entry.id for entry in held] == sorted(acked)
    assert {entry.id: entry.sequence for entry in held} == acked


async def test_subscription_after_restart(bench: Bench, server: ValkeyServer) -> None:
    """After a restart the followed rooms are heard again, and on_resync named them first."""
    ear = Ear()
    here, there = await bench.log(ear), await bench.log()
    rooms = [bench.room(f"room-{number}") for number in range(20)]
    for room in rooms:
        await here.follow(room)
    await asyncio.to_thread(server.restart)
    await heard(lambda: set(ear.resyncs) == set(rooms), "the resync of all rooms")
    for room in rooms:
        await stored(there, room, "after")
    await heard(lambda: {room for room, _, _ in ear.entries} == set(rooms), "an entry of each room")


async def test_engine_is_away(bench: Bench, server: ValkeyServer) -> None:
    """While the engine is away, everything is refused at once with a known outcome, and comes back."""
    log, room = await bench.log(), bench.room()
    await append(log, room, "before")
    server.kill()

    async def refusal() -> StorageError | None:
        (outcome,) = await outcomes(log, Batch(room, items("away"), EVERYTHING))
        return outcome if isinstance(outcome, StorageError) else None

    first = await refusal()
    assert first is not None
    async with asyncio.timeout(10):
        error = await refusal()
        while error is None or "cannot be reached" not in str(error):
            await asyncio.sleep(0.01)
            error = await refusal()
    assert not error.outcome_unknown
    with pytest.raises(StorageError, match="cannot be reached"):
        await log.head(room)
    with pytest.raises(StorageError):
        await log.probe()
    server.start()
    assert (await stored(log, room, "away")).duplicates == frozenset()
    assert await ids_in(log, room) == ["before", "away"]


async def test_broken_in_the_middle(bench: Bench, server: ValkeyServer) -> None:
    """An append that was sent when the connection broke has an unknown outcome, and may be repeated."""
    log, room = await bench.log(), bench.room()
    await append(log, room, "before")
    process = server._process
    assert process is not None
    process.signal(signal.SIGSTOP)
    sent = asyncio.ensure_future(outcomes(log, Batch(room, items("middle"), EVERYTHING)))
    await asyncio.sleep(0)
    server.kill()
    (outcome,) = await sent
    assert isinstance(outcome, StorageError)
    assert outcome.outcome_unknown
    server.start()
    await stored(log, room, "middle")
    assert await ids_in(log, room) == ["before", "middle"]


async def test_stalled_engine(server: ValkeyServer) -> None:
    """An engine that stops answering without closing is given up after the timeout, outcome unknown."""
    bench = valkey_bench([server.url], reply_timeout=0.5, flush_timeout=0.5)
    log, room, ear = await bench.log(), bench.room(), Ear()
    other = await bench.log(ear)
    await other.follow(room)
    process = server._process
    assert process is not None
    process.signal(signal.SIGSTOP)
    (outcome,) = await outcomes(log, Batch(room, items("a"), EVERYTHING))
    assert isinstance(outcome, StorageError)
    assert outcome.outcome_unknown
    process.signal(signal.SIGCONT)
    await stored(log, room, "a")
    assert await ids_in(log, room) == ["a"]
    await bench.close()


async def test_own_unknown_append_is_resynced(bench: Bench, server: ValkeyServer) -> None:
    """A node whose own append has an unknown outcome is told to read the room, if it follows it."""
    server.ask("CONFIG", "SET", "appendfsync", "no")
    ear = Ear()
    log, room, other = await bench.log(ear, flush_timeout=0.05), bench.room(), bench.room("other")
    await log.follow(room)
    batches = [Batch(where, items("a"), EVERYTHING) for where in (room, other)]
    assert all(isinstance(outcome, StorageError) for outcome in await outcomes(log, *batches))
    await heard(lambda: ear.resyncs == [room], "the resync")


async def test_presence_after_loss(bench: Bench, server: ValkeyServer) -> None:
    """An engine that lost everything gets this node's members again, without waiting for a renewal."""
    log, room = await bench.log(renew_seconds=60.0), bench.room()
    await log.enter(room, RoomMember("a", b"info"))
    server.ask("FLUSHALL")
    await asyncio.to_thread(server.restart)
    deadline = asyncio.get_running_loop().time() + 20
    while True:
        try:
            if list(await log.present(room, 10)) == [("a", b"info")]:
                return
        except StorageError:
            assert asyncio.get_running_loop().time() < deadline
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_flush_that_does_not_come(bench: Bench, server: ValkeyServer) -> None:
    """DURABLE is not claimed when the flush does not come in time: the outcome is unknown."""
    server.ask("CONFIG", "SET", "appendfsync", "no")
    log = await bench.log(flush_timeout=0.05)
    (outcome,) = await outcomes(log, Batch(bench.room(), items("a"), EVERYTHING))
    assert isinstance(outcome, StorageError)
    assert outcome.outcome_unknown
    assert "did not flush" in str(outcome)


async def test_durable_needs_the_file(bench: Bench, server: ValkeyServer) -> None:
    """An engine without an append-only file is refused for DURABLE, with what to do."""
    server.ask("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(StorageError, match="Set appendonly yes"):
        await bench.log(connect_timeout=0.5)


async def test_nobody_there() -> None:
    """Opening a log where no server listens fails with a sentence."""
    bench = valkey_bench(["valkey://127.0.0.1:1"])
    with pytest.raises(StorageError, match=r"Valkey at 127\.0\.0\.1:1 cannot be reached"):
        await bench.log(connect_timeout=0.2)


async def test_wrong_password(server: ValkeyServer) -> None:
    """A wrong password is told as such, and the right one is used."""
    server.ask("CONFIG", "SET", "requirepass", "right")
    bench = valkey_bench([server.url], connect_timeout=0.5)
    with pytest.raises(StorageError, match="WRONGPASS"):
        await bench.log(password="wrong")
    log = await bench.log(password="right")
    await append(log, bench.room(), "a")
    await bench.close()


async def test_a_beat_that_was_refused(server: ValkeyServer) -> None:
    """A subscription that heard a refusal and no pong ends when it is told to, whatever others publish."""
    bench = valkey_bench([server.url], reply_timeout=1.0, flush_timeout=1.0)
    log, other, room = await bench.log(), await bench.log(), bench.room()
    await log.follow(room)

    async def publish() -> None:
        for number in itertools.count():
            await stored(other, room, f"id-{number}")
            await asyncio.sleep(0.01)

    publishing = asyncio.create_task(publish())
    server.ask("ACL", "SETUSER", "default", "-ping")
    await asyncio.sleep(1.5)  # every connection beats once a second
    assert server.ask("ACL", "LOG")
    server.ask("ACL", "SETUSER", "default", "+ping")
    async with asyncio.timeout(15):
        await log.close()
    publishing.cancel()
    await bench.close()


async def test_library_of_an_older_release(bench: Bench, server: ValkeyServer) -> None:
    """An older function library is replaced."""
    await bench.log()
    old = "#!lua name=arqonbus\nserver.register_function('arqonbus_version', function() return 0 end)"
    server.ask("FUNCTION", "LOAD", "REPLACE", old)
    log = await bench.log()
    assert server.ask("FCALL", "arqonbus_version", 0) == LIBRARY_VERSION
    await append(log, bench.room(), "a")


async def test_library_of_a_newer_release(bench: Bench, server: ValkeyServer) -> None:
    """A newer function library is left alone, and serves the older node."""
    log = await bench.log()
    [held] = server.ask("FUNCTION", "LIST", "WITHCODE")  # type: ignore[misc]
    source = dict(zip(held[::2], held[1::2], strict=True))[b"library_code"].decode()
    newer = source.replace(f"local VERSION = {LIBRARY_VERSION}", "local VERSION = 999")
    server.ask("FUNCTION", "LOAD", "REPLACE", newer)
    await append(log, bench.room(), "a")
    await bench.log()
    assert server.ask("FCALL", "arqonbus_version", 0) == 999


async def test_replica_is_not_written(server: ValkeyServer, tmp_path: Path) -> None:
    """Of several addresses the primary is used, and a replica is passed over."""
    with running_server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {server.port}") as replica:
        bench = valkey_bench([replica.url, server.url])
        log, room = await bench.log(), bench.room()
        await append(log, room, "a")
        assert server.ask("XLEN", room_keys(room).log) == 1
        await bench.close()


@pytest.fixture
def cluster(tmp_path: Path):  # type: ignore[no-untyped-def]
    with running_cluster(tmp_path / "cluster") as cluster:
        yield cluster


async def test_slot_moves_under_load(cluster: ValkeyCluster) -> None:
    """While a room's slot moves, its appends stay in order, once each, and its followers miss nothing."""
    bench = valkey_bench(cluster.urls, cluster=True)
    ear = Ear()
    log, follower, room = await bench.log(), await bench.log(ear), bench.room()
    await follower.follow(room)
    slot = room_keys(room).slot
    done = asyncio.Event()
    calls: list[asyncio.Task[Appended]] = []

    async def publish() -> None:
        while not done.is_set():
            calls.append(asyncio.create_task(stored(log, room, f"{len(calls):06d}")))
            await asyncio.sleep(0.001)

    publishing = asyncio.create_task(publish())
    await heard(lambda: len(calls) > 50, "appends before the move")
    source = cluster.owner(slot)
    target = next(server for server in cluster.servers if server is not source)
    await asyncio.to_thread(cluster.move_slot, slot, source, target)
    moved = len(calls)
    await heard(lambda: len(calls) > moved + 50, "appends after the move")
    done.set()
    await publishing
    await asyncio.gather(*calls)
    held = (await log.read(room, 0, 0, 100_000)).entries
    assert [entry.id for entry in held] == [f"{number:06d}" for number in range(len(calls))]
    assert [entry.sequence for entry in held] == list(range(1, len(calls) + 1))
    await heard(lambda: room in ear.resyncs, "the resync of the moved room")
    await stored(log, room, "last")
    await heard(lambda: any(entry.id == "last" for _, _, entry in ear.entries), "the last entry")
    await bench.close()


async def test_slot_moves_under_workers(cluster: ValkeyCluster) -> None:
    """While a room's slot moves, its consumer group hands out every entry, none to two workers at a time."""
    bench = valkey_bench(cluster.urls, cluster=True)
    log, room = await bench.log(), bench.room()
    group = GroupKey(room, "workers")
    groups = log.groups
    assert groups is not None
    await groups.ensure(group, FROM_BEGIN, 0)
    await append(log, room, *(f"{number:06d}" for number in range(3000)))
    done: list[int] = []

    async def work(consumer: str) -> None:
        while len(done) < 3000:
            given = await groups.read(group, consumer, 3, 60_000_000, 1 << 20)
            assert all(job.deliveries == 1 for job in given.jobs)
            sequences = [job.entry.sequence for job in given.jobs]
            assert await groups.ack(group, given.epoch, sequences or [1]) == len(sequences)
            done.extend(sequences)

    workers = [asyncio.create_task(work(f"worker-{number}")) for number in range(3)]
    await heard(lambda: len(done) > 50, "work before the move")
    slot = room_keys(room).slot
    source = cluster.owner(slot)
    target = next(server for server in cluster.servers if server is not source)
    await asyncio.to_thread(cluster.move_slot, slot, source, target)
    await asyncio.wait_for(asyncio.gather(*workers), 60)
    assert sorted(done) == list(range(1, 3001))
    state = await groups.state(group)
    assert (state.lag, state.pending, state.missed) == (0, 0, 0)
    await bench.close()


async def test_restart_of_a_cluster_node(cluster: ValkeyCluster) -> None:
    """While one primary is away, rooms of the others work; when it is back, so are its rooms."""
    bench = valkey_bench(cluster.urls, cluster=True)
    ear = Ear()
    log, follower = await bench.log(), await bench.log(ear)
    rooms = [bench.room(f"room-{number}") for number in range(12)]
    for room in rooms:
        await follower.follow(room)
        await append(log, room, "before")
    down = cluster.owner(room_keys(rooms[0]).slot)
    mine = [room for room in rooms if cluster.owner(room_keys(room).slot) is down]
    await asyncio.to_thread(down.restart)
    for room in rooms:
        await stored(log, room, "after")
        assert await ids_in(log, room) == ["before", "after"]
    await heard(lambda: set(mine) <= set(ear.resyncs), "the resync of the node's rooms")
    for room in rooms:
        await stored(log, room, "last")
    await heard(lambda: sum(entry.id == "last" for _, _, entry in ear.entries) == len(rooms), "all entries")
    await bench.close()


async def test_promotion_in_a_cluster(tmp_path: Path) -> None:
    """A primary of a cluster is killed under load: its replica has what was acked, and serves its rooms."""
    with running_cluster(tmp_path / "cluster", replicas=1) as cluster:
        bench = valkey_bench(
            cluster.urls, cluster=True, durability=Durability.DURABLE, durable_replicas=1, flush_timeout=2.0
        )
        ear = Ear()
        log, follower, room = await bench.log(), await bench.log(ear), bench.room()
        await follower.follow(room)
        acked: dict[str, int] = {}
        done = asyncio.Event()

        async def publish(worker: int) -> None:
            number = 0
            while not done.is_set():
                id_ = f"{worker}-{number:05d}"
                acked[id_] = (await stored(log, room, id_, 60.0)).sequences[0]
                number += 1

        publishing = [asyncio.create_task(publish(worker)) for worker in range(4)]
        await heard(lambda: len(acked) > 50, "acks before the promotion")
        old = cluster.owner(room_keys(room).slot)
        old.kill()
        await asyncio.to_thread(
            wait_until, lambda: cluster.owner(room_keys(room).slot) is not old, "a promotion", 30.0
        )
        await asyncio.to_thread(old.start)
        before = len(acked)
        await heard(lambda: len(acked) > before + 50, "acks after the promotion", 60.0)
        done.set()
        await asyncio.gather(*publishing)
        held = {entry.id: entry.sequence for entry in (await log.read(room, 0, 0, 100_000)).entries}
        assert {id_: held.get(id_) for id_ in acked} == acked
        await stored(log, room, "last", 60.0)
        await heard(lambda: any(entry.id == "last" for _, _, entry in ear.entries), "the last entry", 60.0)
        await bench.close()
