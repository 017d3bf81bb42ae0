"""What the storage contract runs on: every backend, each on a real file or real servers.

A `bench` makes logs of one backend. Logs of one bench see the same data where the backend can do that, and
`reopened` gives a new log on what an earlier one left behind.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
if str(ROOT) not in sys.path:  # so that tests.servers can be imported however pytest was started
    sys.path.insert(0, str(ROOT))

from arqonbus.storage.memory.log import MemoryLog  # noqa: E402
from arqonbus.storage.ports import (  # noqa: E402
    Appended,
    Batch,
    Durability,
    Entry,
    EventLog,
    Item,
    LogListener,
    Retention,
    RoomKey,
    StorageError,
)
from arqonbus.storage.sqlite.log import SqliteLog  # noqa: E402
from arqonbus.storage.valkey.log import ValkeyLog  # noqa: E402
from tests.servers.valkey import ValkeyCluster, ValkeyServer, running_cluster, running_server  # noqa: E402

EVERYTHING = Retention(0, 0)
INDEXED = "indexed"  # a room name for which tenants are looked up
_numbers = itertools.count(1)


class Ear(LogListener):
    """A Listener that remembers what it heard."""

    def __init__(self) -> None:
        self.entries: list[tuple[RoomKey, str, Entry]] = []
        self.signals: list[tuple[RoomKey, bytes]] = []
        self.direct: list[bytes] = []
        self.resyncs: list[RoomKey] = []

    def on_entries(self, room: RoomKey, epoch: str, entries: Sequence[Entry]) -> None:
        self.entries += [(room, epoch, entry) for entry in entries]

    def on_signal(self, room: RoomKey, data: bytes) -> None:
        self.signals.append((room, data))

    def on_direct(self, data: bytes) -> None:
        self.direct.append(data)

    def on_resync(self, rooms: Sequence[RoomKey]) -> None:
        self.resyncs += rooms


class Bench:
    """Opens logs of one backend and closes them at the end of the test."""

    def __init__(self, make: Callable[..., EventLog], *, survives: bool, shared: bool = False) -> None:
        self._make = make
        self.shared = shared  # several logs can be open at one time
        self.survives = survives  # what was stored is there for a log that is opened later
        self.logs: list[EventLog] = []
        self.tenant = f"tenant-{next(_numbers)}"

    async def log(self, ear: Ear | None = None, **options: object) -> EventLog:
        log = self._make(**options)
        await log.open(ear or Ear())
        self.logs.append(log)
        return log

    async def reopened(self, log: EventLog) -> EventLog:
        await log.close()
        return await self.log()

    def room(self, name: str = "room") -> RoomKey:
        """A room that no other test uses, although they share the servers."""
        return RoomKey(self.tenant, name)

    async def close(self) -> None:
        for log in self.logs:
            await log.close()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    with running_cluster(tmp_path_factory.mktemp("valkey-cluster")) as cluster:
        yield cluster


def _memory(request: pytest.FixtureRequest) -> Bench:
    return Bench(MemoryLog, survives=False)


def _sqlite(request: pytest.FixtureRequest) -> Bench:
    path = request.getfixturevalue("tmp_path") / "log.sqlite"
    return Bench(lambda **options: SqliteLog(path, **options), survives=True)


def _valkey(request: pytest.FixtureRequest) -> Bench:
    return valkey_bench([request.getfixturevalue("valkey_server").url], cluster=False)


def _valkey_durable(request: pytest.FixtureRequest) -> Bench:
    urls = [request.getfixturevalue("valkey_server").url]
    return valkey_bench(urls, cluster=False, durability=Durability.DURABLE)


def _valkey_cluster(request: pytest.FixtureRequest) -> Bench:
    return valkey_bench(request.getfixturevalue("valkey_cluster").urls, cluster=True)


def valkey_bench(urls: Sequence[str], **always: object) -> Bench:
    def make(**options: object) -> EventLog:
        usual = {"node_id": f"node-{next(_numbers)}", "indexed_rooms": frozenset({INDEXED})}
        return ValkeyLog(urls, **{**usual, **always, **options})  # type: ignore[arg-type]

    return Bench(make, survives=True, shared=True)


_SERVERS = pytest.mark.servers
_SHARED = [
    pytest.param(_valkey, id="valkey", marks=_SERVERS),
    pytest.param(_valkey_cluster, id="valkey-cluster", marks=_SERVERS),
]
_ALL = [
    pytest.param(_memory, id="memory"),
    pytest.param(_sqlite, id="sqlite"),
    pytest.param(_valkey_durable, id="valkey-durable", marks=_SERVERS),
    *_SHARED,
]


with_groups = [pytest.param(_sqlite, id="sqlite"), *_SHARED]


@pytest.fixture(params=_ALL)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Every backend."""
    made = request.param(request)
    yield made
    await made.close()


@pytest.fixture(params=_SHARED)
async def shared_bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The backends that several nodes share."""
    made = request.param(request)
    yield made
    await made.close()


@pytest.fixture
async def log(bench: Bench) -> EventLog:
    """One open log of every backend."""
    return await bench.log()


@pytest.fixture
def room(bench: Bench) -> RoomKey:
    return bench.room()


def items(*ids: str) -> list[Item]:
    """Items whose data says which they are."""
    return [Item(id_, "", f"data of {id_}".encode()) for id_ in ids]


async def outcomes(log: EventLog, *batches: Batch) -> Sequence[Appended | StorageError]:
    """Append, whether the log answers at once or later."""
    given = log.append(batches)
    return await given if isinstance(given, Awaitable) else given


async def append(log: EventLog, room: RoomKey, *ids: str, retention: Retention = EVERYTHING) -> Appended:
    """Append one batch that must succeed."""
    return await append_items(log, room, items(*ids), retention)


async def append_items(
    log: EventLog, room: RoomKey, what: Sequence[Item], retention: Retention = EVERYTHING
) -> Appended:
    (outcome,) = await outcomes(log, Batch(room, what, retention))
    assert isinstance(outcome, Appended), outcome
    return outcome


async def ids_in(log: EventLog, room: RoomKey) -> list[str]:
    """The ids of all that is held, oldest first."""
    page = await log.read(room, 0, 0, 1_000_000)
    return [entry.id for entry in page.entries]


async def stored(log: EventLog, room: RoomKey, id_: str, seconds: float = 20.0) -> Appended:
    """Publish the id again and again, as a client does, until it is acknowledged."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        (outcome,) = await outcomes(log, Batch(room, items(id_), EVERYTHING))
        if isinstance(outcome, Appended):
            return outcome
        assert asyncio.get_running_loop().time() < deadline, outcome
        await asyncio.sleep(0.01)
