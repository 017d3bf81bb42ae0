"""Projectors on a real Valkey and a real Postgres: whatever dies, the books balance and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from arqonbus.config.capacity import projector_bill
from arqonbus.continuum.events import DEAD_ROOM, ROOM, encode_event
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import RoomKey
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.projection import PostgresProjection
from arqonbus.storage.projection import Event, Subject, Tally
from tests.integration.waiting import until
from tests.servers.episodes import Publisher, event, item, publishing
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.projector import ProjectorProcess
from tests.servers.valkey import ValkeyServer, running_server

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("projector")]

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "60"))

Start = Callable[[], ProjectorProcess]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_server(tmp_path / "valkey") as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as name:
        asyncio.run(migrate.apply(postgres.settings(name).datastores.postgres))
        yield name


@pytest.fixture
async def store(postgres: PostgresServer, database: str) -> AsyncIterator[PostgresProjection]:
    projection = PostgresProjection(postgres.settings(database).datastores.postgres)
    yield projection
    await projection.close()


@pytest.fixture
async def publisher(valkey: ValkeyServer) -> AsyncIterator[Publisher]:
    async with publishing(valkey.url) as found:
        yield found


@pytest.fixture
def start(valkey: ValkeyServer, postgres: PostgresServer, database: str, tmp_path: Path) -> Iterator[Start]:
    """Starts one more projector."""
    started: list[ProjectorProcess] = []

    def one_more() -> ProjectorProcess:
        log = tmp_path / f"projector-{len(started)}.log"
        started.append(ProjectorProcess(log, valkey, postgres, database))
        return started[-1].start()

    yield one_more
    for process in started:
        process.kill()


async def settled(store: PostgresProjection, arrived: int) -> Tally:
    """The books, once at least so many records came in and nothing moves any more."""

    async def enough() -> bool:
        return (await store.books(None)).arrived >= arrived

    await until(enough, seconds=60)
    return await store.books(None)


def newest(events: Sequence[Event]) -> dict[tuple[str, str, str], Event]:
    """What the projection has to be, by the rule of the contract and nothing else."""
    state: dict[tuple[str, str, str], Event] = {}
    for each in events:
        held = state.get(each.subject)
        if held is None or held.rank < each.rank:
            state[each.subject] = each
    return state


async def projected(store: PostgresProjection, tenant: str) -> dict[tuple[str, str, str], str]:
    """Which event each episode of a tenant shows."""
    found: dict[tuple[str, str, str], str] = {}
    after = Subject(tenant)
    while page := await store.episodes(tenant, None, after, 1000, deleted=True):
        found |= {(each.tenant, each.agent, each.episode): each.event for each in page}
        after = Subject(tenant, page[-1].agent, page[-1].episode)
    return found


async def test_events_become_episodes(start: Start, publisher: Publisher, store: PostgresProjection) -> None:
    """Created, updated, deleted, and too late: the state is the newest event's, in every tenant."""
    start()
    now = datetime.now(UTC)
    first = event("acme", source_ts=now, tags=("a", "ü"), metadata={"deep": {"list": [1, 2.5, None, True]}})
    update = event(
        "acme", episode=first.episode, type="episode.updated", source_ts=now + timedelta(seconds=2)
    )
    late = event("acme", episode=first.episode, type="episode.updated", source_ts=now + timedelta(seconds=1))
    other = event("other", source_ts=now)
    gone = event("other", episode=other.episode, type="episode.deleted", source_ts=now + timedelta(seconds=1))
    await publisher.publish([first, other])
    await settled(store, 2)
    shown = await store.episode(Subject(*first.subject))
    assert shown is not None
    assert (shown.tags, shown.metadata) == (first.tags, first.metadata)
    await publisher.publish([update, gone])
    await settled(store, 4)
    await publisher.publish([late, other._replace(event=new_ulid(), source_ts=now - timedelta(seconds=1))])
    books = await settled(store, 6)
    assert books == Tally(arrived=6, projected=4, stale=2)
    shown = await store.episode(Subject(*first.subject))
    assert shown is not None
    assert shown.event == update.event
    buried = await store.episode(Subject(*other.subject))
    assert buried is not None
    assert buried.deleted


def most_resident(pid: int) -> int:
    """Bytes that a process had in memory at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


async def test_a_projector_stays_within_its_bill(
    start: Start, publisher: Publisher, store: PostgresProjection, postgres: PostgresServer, database: str
) -> None:
    """With batches as full as they get: many tenants at once, each with events of nearly the largest size."""
    large = {f"key-{number}": "ü" * 2000 for number in range(60)}
    tenants, each = 20, 20
    for tenant in range(tenants):
        await publisher.publish(event(f"tenant-{tenant}", metadata=large) for _ in range(each))
    process = start()
    books = await settled(store, tenants * each)
    assert books.projected == tenants * each
    assert most_resident(process.pid) < projector_bill(postgres.settings(database))


def test_a_projector_does_not_go_on_without_the_engine(
    valkey: ValkeyServer, postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    """Also where the profile lets the bus do so: what only its memory had, nobody could project."""
    away = ("storage.mode=degraded", "datastores.valkey.url=valkey://127.0.0.1:1")
    process = ProjectorProcess(tmp_path / "log", valkey, postgres, database, *away)
    with pytest.raises(RuntimeError, match="did not start"):
        process.start()
    said = process.log.read_text()
    assert "Valkey at 127.0.0.1:1 cannot be reached" in said
    assert "Traceback" not in said


async def test_what_is_no_event_goes_to_the_dead_letters_and_stops_nobody(
    start: Start, publisher: Publisher, store: PostgresProjection
) -> None:
    """Each is kept with its bytes and every fault; subscribers are told; all around it is projected."""
    start()
    good = [event("acme") for _ in range(6)]
    poison = [
        b"no json",
        b"[]",
        encode_event(event("acme")).replace(b'"schema_version":1', b'"schema_version":"1"'),
        encode_event(event("elsewhere")),
        encode_event(event("acme")).replace(b'"one"', b'"\\u0000"'),
        encode_event(event("acme", source_ts=datetime.now(UTC) + timedelta(days=400))),
    ]
    for each, bad in zip(good, poison, strict=True):
        await publisher.publish([each])
        await publisher.put("acme", [item(bad)])
    books = await settled(store, 12)
    assert books == Tally(arrived=12, projected=6, dead_lettered=6)
    letters = await store.dead_letters("acme", "open", "", 100)
    assert {letter.payload for letter in letters} == set(poison)
    codes = {letter.payload: letter.code for letter in letters}
    assert codes[b"no json"] == "DECODE_ERROR"
    assert codes[poison[3]] == "TENANT_MISMATCH"
    assert any("schema_version is text, and not a whole number" in letter.reason for letter in letters)

    async def told() -> bool:
        return (await publisher.log.head(RoomKey("acme", DEAD_ROOM))).last == 6

    await until(told)
    page = await publisher.log.read(RoomKey("acme", DEAD_ROOM), 0, 0, 10)
    assert {Envelope.FromString(entry.data).id for entry in page.entries} == {letter.id for letter in letters}


@pytest.mark.timeout(180)
async def test_projectors_that_are_killed_lose_nothing_and_count_everything(
    start: Start, publisher: Publisher, store: PostgresProjection
) -> None:
    """Three share the work; one after the other is killed at a random moment and started again."""
    dice = random.Random(7)
    processes = [start() for _ in range(3)]
    episodes = [new_ulid() for _ in range(40)]
    base = datetime.now(UTC) - timedelta(hours=1)
    sent: list[Event] = []
    for round_ in range(12):
        batch = [
            event(
                f"tenant-{dice.randrange(3)}",
                episode=dice.choice(episodes),
                source_ts=base + timedelta(microseconds=dice.randrange(10**9)),
            )
            for _ in range(400)
        ]
        sent += batch
        await publisher.publish(batch)
        victim = processes[round_ % 3]
        await asyncio.sleep(dice.random() * 0.2)  # the moment of the kill is what is random here
        victim.kill()
        victim.start()
    books = await settled(store, len(sent))

    async def everything_is_acked() -> bool:
        groups = publisher.log.groups
        assert groups is not None
        states = [
            state for number in range(3) for state in await groups.of_room(RoomKey(f"tenant-{number}", ROOM))
        ]
        return all(state.lag == 0 and state.pending == 0 for state in states)

    await until(everything_is_acked, seconds=90)  # the leases of the killed ones end after 30 s
    books = await store.books(None)
    assert books.difference == 0
    assert books.projected + books.stale == len(sent) == (await store.counts(None))["events"]
    expected = {subject: each.event for subject, each in newest(sent).items()}
    found: dict[tuple[str, str, str], str] = {}
    for number in range(3):
        found |= await projected(store, f"tenant-{number}")
    assert found == expected


@pytest.mark.timeout(240)
async def test_postgres_is_down_under_load(
    start: Start, publisher: Publisher, postgres: PostgresServer, store: PostgresProjection
) -> None:
    """Publishers notice nothing, health says it, and afterwards the lag drains with nothing lost."""
    projector = start()
    sent = [event("acme") for _ in range(200)]
    await publisher.publish(sent)
    await settled(store, 200)
    postgres.stop()
    began = asyncio.get_running_loop().time()
    ready = f"http://127.0.0.1:{projector.port}/readyz"
    waits: list[bool] = []
    async with httpx.AsyncClient(timeout=5) as http:
        while asyncio.get_running_loop().time() - began < OUTAGE_SECONDS:
            batch = [event("acme") for _ in range(50)]
            await publisher.publish(batch)
            sent += batch
            shown = (await http.get(ready.replace("readyz", "metrics"))).text
            waits.append("arqonbus_projection_store_up 0.0" in shown)
            await asyncio.sleep(0.1)  # the load has a rate
        answer = await http.get(ready)
        assert answer.status_code == 503
        assert "projection postgres" in answer.text
        # All the time, whatever Valkey answers meanwhile.
        assert waits[-1]
        assert waits == sorted(waits)
        postgres.start()
        books = await settled(store, len(sent))

        async def is_ready() -> bool:
            return (await http.get(ready)).status_code == 200

        await until(is_ready)
        metrics = (await http.get(ready.replace("readyz", "metrics"))).text
    assert books.projected == len(sent)
    assert books.difference == 0
    assert f'arqonbus_projection_records_total{{status="projected"}} {len(sent)}.0' in metrics
    assert "arqonbus_projection_lag_seconds_bucket" in metrics


async def test_a_projector_that_is_told_to_stop_leaves_nothing_behind(
    start: Start, publisher: Publisher, store: PostgresProjection
) -> None:
    """What it had in hand is committed and acked; another one need not wait for a lease."""
    projector = start()
    await publisher.publish([event("acme") for _ in range(3000)])
    await settled(store, 1)
    assert projector.stop() == 0
    groups = publisher.log.groups
    assert groups is not None
    (state,) = await groups.of_room(RoomKey("acme", ROOM))
    assert state.pending == 0
    start()
    books = await settled(store, 3000)
    assert books == Tally(arrived=3000, projected=3000)


async def test_two_projections_of_a_stack_know_each_other_s_work(
    start: Start, publisher: Publisher, store: PostgresProjection
) -> None:
    """A second projector adds nothing of its own: each event is projected by one of them."""
    start()
    start()
    async with AsyncExitStack():
        await publisher.publish([event(f"t-{n % 5}") for n in range(5000)])
    books = await settled(store, 5000)
    assert books == Tally(arrived=5000, projected=5000)
