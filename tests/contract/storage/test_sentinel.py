"""Valkey behind sentinels: the primary is found by them and followed after a failover."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from arqonbus.storage.ports import Appended, Batch, Durability, RoomKey, RoomMember, StorageError
from arqonbus.storage.valkey.keys import room_keys
from arqonbus.storage.valkey.link import Access, Endpoint
from arqonbus.storage.valkey.log import ValkeyLog
from arqonbus.storage.valkey.sentinel import Sentinels, endpoint_of_node
from tests.servers.valkey import running_server
from tests.servers.valkey_sentinel import SERVICE, Sentinel, WatchedValkey, running_watched

from .conftest import EVERYTHING, Bench, Ear, append, ids_in, items, outcomes
from .test_interruptions import stored
from .test_live import heard

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("sentinel")]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedValkey]:
    with running_watched(tmp_path / "watched") as watched:
        yield watched


def finder(watched: WatchedValkey, service: str = SERVICE) -> Sentinels:
    nodes = [endpoint_of_node(node) for node in watched.nodes]
    return Sentinels(service, nodes, Access(connect_timeout=1.0))


@pytest.fixture
async def bench(watched: WatchedValkey) -> AsyncIterator[Bench]:
    """Each log is a node of its own with its own finder, as in two processes."""
    nodes = (f"node-{number}" for number in range(100))
    made = Bench(
        lambda **options: ValkeyLog(
            [f"valkey://{node}" for node in watched.nodes],
            **{  # type: ignore[arg-type]
                "node_id": next(nodes),
                "finder": finder(watched),
                "durability": Durability.DURABLE,
                "reply_timeout": 2.0,
                "flush_timeout": 2.0,
                **options,
            },
        ),
        survives=True,
        shared=True,
    )
    yield made
    with contextlib.suppress(StorageError):
        await made.close()


async def test_failover_under_load(bench: Bench, watched: WatchedValkey) -> None:
    """Over a SIGKILL of the primary what was acked is in its successor, once and in order."""
    log, room = await bench.log(), bench.room()
    acked: dict[str, int] = {}
    done = asyncio.Event()

    async def publish(worker: int) -> None:
        number = 0
        while not done.is_set():
            id_ = f"{worker}-{number:05d}"
            acked[id_] = (await stored(log, room, id_, 60.0)).sequences[0]
            number += 1

    publishing = [asyncio.create_task(publish(worker)) for worker in range(8)]
    await heard(lambda: len(acked) > 50, "acks before the failover")
    old = watched.primary()
    old.kill()
    await asyncio.to_thread(watched.wait_for_another, old)
    before = len(acked)
    await heard(lambda: len(acked) > before + 50, "acks after the failover", 60.0)
    done.set()
    await asyncio.gather(*publishing)
    held = {entry.id: entry.sequence for entry in (await log.read(room, 0, 0, 100_000)).entries}
    assert {id_: held.get(id_) for id_ in acked} == acked
    assert len(set(held.values())) == len(held)


async def test_live_and_presence_after_failover(bench: Bench, watched: WatchedValkey) -> None:
    """Followed rooms are heard again, on_resync named them first, and members are present again."""
    ear = Ear()
    here, there, room = await bench.log(ear), await bench.log(), bench.room()
    await here.follow(room)
    await here.enter(room, RoomMember("a", b"info"))
    await append(there, room, "before")
    await heard(lambda: len(ear.entries) == 1, "an entry before the failover")
    old = watched.primary()
    old.kill()
    await heard(lambda: room in ear.resyncs, "the resync", 60.0)
    await stored(there, room, "after", 60.0)
    await heard(lambda: any(entry.id == "after" for _, _, entry in ear.entries), "the entry", 60.0)

    deadline = asyncio.get_running_loop().time() + 60
    while True:
        with contextlib.suppress(StorageError):
            if list(await there.present(room, 10)) == [("a", b"info")]:
                return
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def test_demoted_primary_is_left(bench: Bench, watched: WatchedValkey) -> None:
    """A failover that leaves the old primary running: nothing more is written to it, nor read from it."""
    log, room = await bench.log(), bench.room()
    await append(log, room, "before")
    old = watched.primary()
    watched.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
    new = await asyncio.to_thread(watched.wait_for_another, old)
    await stored(log, room, "after", 60.0)
    assert await ids_in(log, room) == ["before", "after"]
    assert new.ask("XLEN", room_keys(room).log) == 2


async def test_demoted_behind_our_back(bench: Bench, watched: WatchedValkey) -> None:
    """A primary that says READONLY is given up, with a known outcome, and found to be none."""
    log, room = await bench.log(), bench.room()
    await append(log, room, "before")
    old = watched.primary()
    other = next(server for server in watched.servers if server is not old)
    for sentinel in watched.sentinels:
        sentinel.freeze()
    old.ask("REPLICAOF", other.host, other.port)
    (outcome,) = await outcomes(log, Batch(room, items("refused"), EVERYTHING))
    assert isinstance(outcome, StorageError)
    assert not outcome.outcome_unknown
    await heard(lambda: "cannot be reached" in _obstacle(log, room), "the link to be given up")
    for sentinel in watched.sentinels:
        sentinel.thaw()


def _obstacle(log: object, room: RoomKey) -> str:
    assert isinstance(log, ValkeyLog)
    try:
        log._engine.link(room_keys(room).slot)
    except StorageError as error:
        return str(error)
    return ""


async def test_durable_means_the_replicas_too(bench: Bench, watched: WatchedValkey) -> None:
    """An append that no replica has on disk is not acked as durable: a failover would lose it."""
    log, room = await bench.log(flush_timeout=0.3), bench.room()
    await append(log, room, "before")
    primary = watched.primary()
    for server in watched.servers:
        if server is not primary:
            server.freeze()
    (outcome,) = await outcomes(log, Batch(room, items("alone"), EVERYTHING))
    assert isinstance(outcome, StorageError)
    assert outcome.outcome_unknown
    assert "replicas" in str(outcome)
    for server in watched.servers:
        server.thaw()
    assert isinstance(await stored(log, room, "alone", 60.0), Appended)
    assert await ids_in(log, room) == ["before", "alone"]


async def test_one_sentinel_is_enough_to_ask(watched: WatchedValkey) -> None:
    """The primary is found while the other sentinels are dead."""
    for sentinel in watched.sentinels[1:]:
        sentinel.kill()
    primary = watched.servers[0]
    assert await finder(watched).primary() == Endpoint(primary.host, primary.port)


async def test_nobody_knows(watched: WatchedValkey) -> None:
    """What each sentinel said is told: one is dead, the others do not know the name."""
    watched.sentinels[0].kill()
    with pytest.raises(StorageError, match=r"cannot be reached.*knows no other|knows no other.*reached"):
        await finder(watched, "other").primary()


async def test_wrong_password_of_the_sentinels(tmp_path: Path) -> None:
    """A password that sentinels refuse is told as such, and the right one is used."""
    with running_server(tmp_path / "valkey") as primary:
        sentinel = Sentinel(tmp_path / "sentinel", primary, "requirepass right")
        try:
            sentinel.start()
            node = Endpoint(sentinel.host, sentinel.port)
            with pytest.raises(StorageError, match="WRONGPASS"):
                await Sentinels(SERVICE, [node], Access(password="wrong")).primary()
            right = Sentinels(SERVICE, [node], Access(password="right"))
            assert await right.primary() == Endpoint(primary.host, primary.port)
        finally:
            sentinel.kill()
