"""Consumer groups through the bus: grants, waiting, retries, dead letters; the SDK's worker; kills."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arqonbus.bus.groups import UNDERTAKER, _dead_letter
from arqonbus.client import Client, ClientError, Job, Rejected
from arqonbus.storage.ports import GroupKey, RoomKey
from tests.integration.conftest import REPOSITORY, Bus, StartBus
from tests.integration.waiting import until
from tests.servers.bus import BusProcess
from tests.servers.valkey import running_server

PLACE = {"room": "orders", "group": "billing"}
EPOCH = "01JD0000000000000000000000"


@pytest.fixture(params=["picows", "websockets"])
async def bus(request: pytest.FixtureRequest, start_bus: StartBus) -> Bus:
    """A bus with groups on each of the two server adapters."""
    return await start_bus(f"server.transport={request.param}", "storage.backend=sqlite")


async def publish(client: Client, count: int, room: str = "orders") -> None:
    await asyncio.gather(*(client.publish(room, {"n": number}) for number in range(count)))


async def read(client: Client, consumer: str = "w", **arguments: object) -> dict[str, Any]:
    result = await client.command("op.groups.read", {**PLACE, "consumer": consumer, **arguments})
    assert isinstance(result, dict)
    return result


async def state(client: Client, **place: str) -> dict[str, Any]:
    result = await client.command("op.groups.state", place or PLACE)
    assert isinstance(result, dict)
    return result


async def is_done(client: Client) -> bool:
    found = await state(client)
    return (found["lag"], found["pending"], found["delayed"]) == (0, 0, 0)


# -- the commands


async def test_read_and_ack(bus: Bus, wire: str) -> None:
    """A job is the message as it was published, and gone once it is acked."""
    client = await bus.client(wire=wire)
    created = await client.command("op.groups.ensure", {**PLACE, "start": "begin"})
    assert created == {**PLACE, "created": True}
    assert client.welcome["capabilities"]["consumer_groups"] is True
    ack = await client.publish("orders", {"n": 2**53 + 1}, name="order", headers={"k": "ü"})
    given = await read(client)
    assert {**given, "jobs": 1} == {**PLACE, "epoch": ack.epoch, "jobs": 1}
    [job] = given["jobs"]
    message = job["message"]
    assert (job["deliveries"], message["id"], message["sequence"]) == (1, ack.id, 1)
    assert (message["payload"], message["headers"]) == ({"n": 2**53 + 1}, {"k": "ü"})
    listed = await client.command("op.groups.pending", PLACE)
    assert [(one["sequence"], one["consumer"]) for one in listed["jobs"]] == [(1, "w")]
    acked = await client.command("op.groups.ack", {**PLACE, "epoch": ack.epoch, "sequences": [1]})
    assert acked == {"acked": 1}
    assert await is_done(client)
    assert (await client.command("op.groups.list", {"room": "orders"}))["groups"] == [
        {
            "group": "billing", "epoch": ack.epoch, "given": 1, "lag": 0, "pending": 0, "delayed": 0,
            "missed": 0, "max_deliveries": 5,
        }
    ]  # fmt: skip


async def test_without_groups(start_bus: StartBus) -> None:
    """A bus whose storage has no groups says so in the welcome and from the first call on."""
    client = await (await start_bus()).client()
    assert client.welcome["capabilities"]["consumer_groups"] is False
    for operation in ("ensure", "state"):
        with pytest.raises(Rejected, match="the storage backend memory has no consumer groups") as refused:
            await client.command(f"op.groups.{operation}", PLACE)
        assert refused.value.code == "CAPABILITY_UNAVAILABLE"


ARGUMENTS: dict[str, dict[str, object]] = {
    "ensure": {},
    "read": {"consumer": "w"},
    "ack": {"epoch": EPOCH, "sequences": [1]},
    "nack": {"epoch": EPOCH, "consumer": "w", "sequence": 1},
    "extend": {"epoch": EPOCH, "consumer": "w", "sequences": [1]},
    "claim": {"epoch": EPOCH, "consumer": "w", "sequences": [1]},
    "pending": {},
    "state": {},
    "delete": {},
}


@pytest.mark.parametrize("operation", ARGUMENTS)
async def test_grants(start_bus: StartBus, operation: str) -> None:
    """Without the grant every operation is refused, whatever else the token allows in the room."""
    bus = await start_bus("storage.backend=sqlite")
    owner = await bus.client()
    await owner.command("op.groups.ensure", PLACE)
    others = "publish,subscribe,history,presence," + ("consume" if operation == "delete" else "manage")
    client = await bus.client("eve", grants=(f"orders:{others}", "other:consume,manage"))
    arguments = {**PLACE, **ARGUMENTS[operation]}
    needed = "manage" if operation == "delete" else "consume"
    with pytest.raises(Rejected, match=f"the token does not grant {needed} in room orders") as refused:
        await client.command(f"op.groups.{operation}", arguments)
    assert refused.value.code == "AUTHORIZATION_ERROR"
    granted = await bus.client("worker", grants=(f"orders:{needed}",))
    if operation == "nack":
        with pytest.raises(Rejected, match="does not hold that job"):
            await granted.command("op.groups.nack", arguments)
    else:
        await granted.command(f"op.groups.{operation}", arguments)


async def test_list_needs_the_grant(start_bus: StartBus) -> None:
    """Which groups a room has is told to those only who may consume in it."""
    client = await (await start_bus("storage.backend=sqlite")).client(grants=("orders:subscribe,manage",))
    with pytest.raises(Rejected, match="does not grant consume"):
        await client.command("op.groups.list", {"room": "orders"})


@pytest.mark.parametrize("operation", sorted(set(ARGUMENTS) - {"pending", "state"}))
async def test_groups_of_the_bus(start_bus: StartBus, operation: str) -> None:
    """Nobody takes jobs from the bus's own groups, whatever the token grants."""
    client = await (await start_bus("storage.backend=sqlite")).client(role="admin")
    arguments = {"room": "orders", "group": "arqonbus.projector", **ARGUMENTS[operation]}
    with pytest.raises(Rejected, match="are the bus's own") as refused:
        await client.command(f"op.groups.{operation}", arguments)
    assert refused.value.code == "AUTHORIZATION_ERROR"


async def test_tenants_are_apart(start_bus: StartBus) -> None:
    """A group of another tenant does not exist."""
    bus = await start_bus("storage.backend=sqlite")
    await (await bus.client()).command("op.groups.ensure", PLACE)
    with pytest.raises(Rejected, match="there is no such consumer group") as refused:
        await state(await bus.client(tenant="other"))
    assert refused.value.code == "NOT_FOUND"


@pytest.mark.parametrize(
    ("operation", "wrong", "argument"),
    [
        ("ensure", {"start": "middle"}, "start"),
        ("ensure", {"start": 0}, "start"),
        ("ensure", {"max_deliveries": "5"}, "max_deliveries"),
        ("ensure", {"group": "a:b"}, "group"),
        ("ensure", {"group": "g" * 120}, "group"),
        ("ensure", {"surprise": 1}, "surprise"),
        ("read", {"wait": 31}, "wait"),
        ("read", {"wait": True}, "wait"),
        ("read", {"limit": 0}, "limit"),
        ("read", {"limit": 501}, "limit"),
        ("read", {"lease": 0}, "lease"),
        ("read", {"consumer": ""}, "consumer"),
        ("ack", {"sequences": []}, "sequences"),
        ("ack", {"sequences": [1.5]}, "sequences"),
        ("ack", {"sequences": ["0x1"]}, "sequences"),
        ("ack", {"sequences": [2**53]}, "sequences"),
        ("nack", {"delay": -1}, "delay"),
        ("nack", {"reason": "r" * 501}, "reason"),
        ("pending", {"cursor": "here"}, "cursor"),
    ],
)
async def test_wrong_arguments(
    start_bus: StartBus, operation: str, wrong: dict[str, object], argument: str
) -> None:
    """A wrong argument is refused by its name, and nothing is done."""
    client = await (await start_bus("storage.backend=sqlite")).client()
    with pytest.raises(Rejected, match=argument) as refused:
        await client.command(f"op.groups.{operation}", {**PLACE, **ARGUMENTS[operation], **wrong})
    assert refused.value.code == "VALIDATION_ERROR"


# -- waiting


async def test_a_read_waits(bus: Bus, wire: str) -> None:
    """A read that waits is answered when something is published, and holds up nothing meanwhile."""
    client, publisher = await bus.client(wire=wire), await bus.client("pub")
    await client.command("op.groups.ensure", PLACE)
    waiting = asyncio.ensure_future(read(client, wait=30))
    for _ in range(5):
        await client.command("op.ping")
    assert not waiting.done()
    ack = await publisher.publish("orders", 1)
    given = await asyncio.wait_for(waiting, 5)
    assert [job["message"]["id"] for job in given["jobs"]] == [ack.id]


async def test_a_read_waits_for_what_comes_back(bus: Bus) -> None:
    """A read that waits is answered when a lease ends and when a delay is over."""
    client = await bus.client()
    await client.command("op.groups.ensure", PLACE)
    await publish(client, 2)
    given = await read(client, "a", lease=0.2)
    asked = {**PLACE, "epoch": given["epoch"], "consumer": "a", "sequence": 2}
    await client.command("op.groups.nack", {**asked, "delay": 0.1, "reason": "later"})
    [second] = (await asyncio.wait_for(read(client, "b", wait=30), 5))["jobs"]
    assert (second["message"]["sequence"], second["deliveries"], second["reason"]) == (2, 2, "later")
    [first] = (await asyncio.wait_for(read(client, "b", wait=30), 5))["jobs"]
    assert (first["message"]["sequence"], first["deliveries"], first["consumer"]) == (1, 2, "a")


async def test_a_wait_ends(bus: Bus) -> None:
    """A read for which nothing comes is answered with no jobs at its deadline."""
    client = await bus.client()
    await client.command("op.groups.ensure", PLACE)
    assert (await asyncio.wait_for(read(client, wait=0.05), 5))["jobs"] == []


async def test_too_many_waits(bus: Bus) -> None:
    """One connection can have a bounded number of reads that wait; they end with it."""
    client = await bus.client()
    await client.command("op.groups.ensure", PLACE)
    reads = [asyncio.ensure_future(read(client, f"w-{number}", wait=30)) for number in range(65)]
    with pytest.raises(Rejected, match="too many reads wait already"):
        await asyncio.wait_for(reads[-1], 5)
    await client.close()
    for outcome in await asyncio.gather(*reads[:-1], return_exceptions=True):
        assert isinstance(outcome, ClientError)
    await until(lambda: not bus.node.clients)
    other = await bus.client()
    await publish(other, 1)
    assert len((await read(other))["jobs"]) == 1


async def test_a_bus_stops_while_reads_wait(bus: Bus) -> None:
    """Reads that wait do not hold up the end of the bus."""
    client = await bus.client()
    await client.command("op.groups.ensure", PLACE)
    waiting = asyncio.ensure_future(read(client, wait=30))
    await client.command("op.ping")
    await asyncio.wait_for(bus.service.stop(), 5)
    with pytest.raises(ClientError):
        await asyncio.wait_for(waiting, 5)


async def test_a_renewed_token_without_the_grant(start_bus: StartBus) -> None:
    """A read that waits is refused when the token that was renewed meanwhile does not grant it any more."""
    bus = await start_bus("storage.backend=sqlite")
    client, publisher = await bus.client(grants=("orders:consume",)), await bus.client("pub")
    await client.command("op.groups.ensure", PLACE)
    waiting = asyncio.ensure_future(read(client, wait=30))
    await client.command("op.auth.refresh", {"token": bus.token(grants=("orders:subscribe",))})
    await publisher.publish("orders", 1)
    with pytest.raises(Rejected, match="does not grant consume"):
        await asyncio.wait_for(waiting, 5)


async def test_the_room_is_let_go(bus: Bus) -> None:
    """A wait that is over leaves no trace in the room."""
    client = await bus.client()
    await client.command("op.groups.ensure", PLACE)
    await read(client, wait=0.01)
    room = bus.node.hub.rooms[RoomKey("demo", "orders")]
    assert room.is_empty()
    assert room._waiting is None


# -- dead letters


async def test_poison(bus: Bus) -> None:
    """After its last try a message goes to the dead letters, once, with what is known about it."""
    client = await bus.client()
    dead = await client.subscribe("orders.dlq.billing")
    await client.command("op.groups.ensure", {**PLACE, "max_deliveries": 3})
    ack = await client.publish("orders", {"n": 1}, channel="eu", headers={"k": "v"})
    for number in (1, 2, 3):
        [job] = (await read(client, wait=5))["jobs"]
        assert job["deliveries"] == number
        asked = {**PLACE, "epoch": ack.epoch, "consumer": "w", "sequence": 1}
        answer = await client.command("op.groups.nack", {**asked, "reason": f"no {number}"})
        assert answer == {"deliveries": number}
    letter = await asyncio.wait_for(anext(dead), 5)
    assert letter.json() == {"n": 1}
    assert (letter.channel, letter.sender, letter.id != ack.id) == ("eu", client.welcome["client"], True)
    assert letter.headers == {
        "k": "v", "dlq.id": ack.id, "dlq.room": "orders", "dlq.group": "billing", "dlq.epoch": ack.epoch,
        "dlq.sequence": "1", "dlq.deliveries": "3", "dlq.reason": "no 3",
    }  # fmt: skip
    assert await is_done(client)
    history = await client.command("op.history.get", {"room": "orders.dlq.billing"})
    assert [message["id"] for message in history["messages"]] == [letter.id]


async def test_poison_that_kills(bus: Bus) -> None:
    """A message whose consumers never answer is a dead letter after as many leases."""
    client = await bus.client()
    await client.command("op.groups.ensure", {**PLACE, "max_deliveries": 2})
    await client.publish("orders", 1)
    for _ in range(2):
        assert len((await read(client, lease=0.1, wait=5))["jobs"]) == 1
    dead = await client.subscribe("orders.dlq.billing")
    waiting = asyncio.ensure_future(read(client, wait=1))
    letter = await asyncio.wait_for(anext(dead), 5)
    assert letter.headers["dlq.reason"] == "the lease of w ran out"
    assert letter.headers["dlq.deliveries"] == "2"
    assert (await waiting)["jobs"] == []
    assert await is_done(client)


async def test_dead_letter_is_not_doubled(start_bus: StartBus) -> None:
    """Burying that broke off between the letter and the ack is finished later without a second letter."""
    bus = await start_bus("storage.backend=sqlite", "storage.dedup_window=0.001s")
    client = await bus.client()
    await client.command("op.groups.ensure", {**PLACE, "max_deliveries": 1})
    await client.publish("orders", 1)
    epoch = (await read(client))["epoch"]
    groups, log = bus.node.groups, bus.node.event_log
    group, room = GroupKey(RoomKey("demo", "orders"), "billing"), RoomKey("demo", "orders.dlq.billing")
    [job] = (await groups.store.claim(group, epoch, UNDERTAKER, [1], 0, 1000)).jobs
    await groups._append(room, [_dead_letter(group, room.room, epoch, 1, job)])
    await publish(client, 600, room.room)
    assert (await read(client, wait=5))["jobs"] == []
    assert await is_done(client)
    page = await log.read(room, 0, 0, 1000)
    assert len(page.entries) == 601


# -- the SDK


async def test_worker(bus: Bus, wire: str) -> None:
    """A worker gets every message once and acks it at the end of its block."""
    client = await bus.client(wire=wire)
    await publish(client, 50)
    group = client.group("orders", "billing", concurrency=10)
    seen = []
    async for job in group:
        async with job:
            seen.append(job.message.json()["n"])
            assert (job.deliveries, job.message.room) == (1, "orders")
        if len(seen) == 50:
            group.stop()
    assert seen == list(range(50))
    assert await is_done(client)


async def test_worker_fails(bus: Bus) -> None:
    """A block that raises gives its job back with the error as reason; the iteration can go on."""
    client = await bus.client()
    await publish(client, 1)
    async with client.group("orders", "billing", retry_delay=0.05, wait=0.5) as group:
        with pytest.raises(ZeroDivisionError):
            async with await anext(group):
                _ = 1 / 0
        job = await asyncio.wait_for(anext(group), 5)
        assert (job.deliveries, job.reason) == (2, "ZeroDivisionError: division by zero")
        await job.ack()
        await job.ack()
        assert not await job.nack()
    assert await is_done(client)


async def test_worker_concurrency(bus: Bus) -> None:
    """`run` handles so many jobs at one time and no more, and stops when what it holds is finished."""
    client = await bus.client()
    await publish(client, 40)
    group = client.group("orders", "billing", concurrency=4, wait=0.2)
    running = most = done = 0
    full = asyncio.Event()

    async def handle(job: Job) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        if running == 4:
            full.set()
        await asyncio.wait_for(full.wait(), 5)
        await client.command("op.ping")
        running -= 1
        done += 1
        if done == 40:
            group.stop()

    await asyncio.wait_for(group.run(handle), 20)
    assert (most, done) == (4, 40)
    assert await is_done(client)


async def test_worker_keeps_its_lease(bus: Bus) -> None:
    """A job that takes longer than its lease is not handed to another worker meanwhile."""
    client, other = await bus.client(), await bus.client("other")
    await publish(client, 1)
    async with client.group("orders", "billing", lease=1.5, wait=0.1) as group, await anext(group) as job:
        assert (await asyncio.wait_for(read(other, "thief", wait=3.0), 10))["jobs"] == []
        assert not job.lost
    assert await is_done(client)


async def test_worker_gives_back_what_it_did_not_begin(bus: Bus) -> None:
    """A worker that is closed gives back at once what it had taken and not begun."""
    client = await bus.client()
    await publish(client, 3)
    async with client.group("orders", "billing", concurrency=3, wait=0.1) as group, await anext(group):
        pass
    given = await read(client)
    assert [(job["message"]["sequence"], job["deliveries"]) for job in given["jobs"]] == [(2, 2), (3, 2)]


async def test_worker_without_grant(start_bus: StartBus) -> None:
    """A worker that may not consume is told, by its iteration."""
    bus = await start_bus("storage.backend=sqlite")
    client = await bus.client(grants=("orders:subscribe",))
    with pytest.raises(Rejected, match="does not grant consume"):
        await anext(client.group("orders", "billing"))


# -- kills

_WORKER = """
import asyncio, sys
from arqonbus.client import Client

async def main():
    url, token, name = sys.argv[1:]
    async with Client(url, token) as client:
        async for job in client.group("orders", "billing", consumer=name, concurrency=5, lease=1.0):
            print(job.message.sequence, job.deliveries, flush=True)
            if job.message.sequence % 7 == 0 and job.deliveries == 1:
                await asyncio.Event().wait()  # holds it, and four more, until it is killed
            await job.ack()

asyncio.run(main())
"""


@pytest.fixture
def bus_process(tmp_path: Path) -> Iterator[BusProcess]:
    process = BusProcess(tmp_path / "bus", "storage.backend=sqlite", "limits.messages_per_second=0").start()
    yield process
    process.kill()


async def test_kill_9_of_a_worker(bus_process: BusProcess) -> None:
    """What a killed worker held is handed to another when its lease ends, and counted; nothing else is."""
    async with Client(bus_process.url, bus_process.token()) as client:
        await client.command("op.groups.ensure", PLACE)
        await publish(client, 30)
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WORKER, bus_process.url, bus_process.token("worker"), "doomed",
            stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert worker.stdout is not None
        begun: list[int] = []
        async with asyncio.timeout(20):
            while 7 not in begun:
                begun.append(int((await worker.stdout.readline()).split()[0]))
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
        held = {job["sequence"] for job in (await client.command("op.groups.pending", PLACE))["jobs"]}
        assert 7 in held
        deliveries: dict[int, int] = {}
        group = client.group("orders", "billing", consumer="heir", concurrency=10, wait=0.5)
        async with asyncio.timeout(20):
            async for job in group:
                async with job:
                    deliveries[job.message.sequence] = job.deliveries
                if len(deliveries) == 30 - len(set(begun) - held):
                    group.stop()
        assert {sequence for sequence, count in deliveries.items() if count == 2} == held
        assert set(deliveries) | set(begun) == set(range(1, 31))
        assert await is_done(client)


async def test_kill_9_of_the_bus(bus_process: BusProcess) -> None:
    """Workers live through kills of the bus: every message is done, and again only what was in hand."""
    total = 600
    done: Counter[int] = Counter()
    async with (
        Client(bus_process.url, bus_process.token("pub")) as publisher,
        Client(bus_process.url, bus_process.token("one"), wire="json") as one,
        Client(bus_process.url, bus_process.token("two")) as two,
    ):
        await publisher.command("op.groups.ensure", {**PLACE, "max_deliveries": 0})
        finished = asyncio.Event()

        async def handle(job: Job) -> None:
            done[job.message.sequence] += 1
            if len(done) == total:
                finished.set()

        groups = [
            client.group("orders", "billing", consumer=name, concurrency=8, lease=1.0, wait=1.0)
            for name, client in (("one", one), ("two", two))
        ]
        runs = [asyncio.ensure_future(group.run(handle)) for group in groups]

        async def publish_all() -> None:
            for begin in range(0, total, 20):
                await asyncio.gather(*(publisher.publish("orders", begin + n) for n in range(20)))

        publishing = asyncio.ensure_future(publish_all())
        for kill in (1, 2):
            seen = kill * total // 4
            await until(lambda seen=seen: len(done) >= seen, 30)  # type: ignore[misc]
            bus_process.kill()
            await asyncio.to_thread(bus_process.start)
        await asyncio.wait_for(publishing, 60)
        await asyncio.wait_for(finished.wait(), 60)
        await until(lambda: is_done(publisher), 30)
        for group in groups:
            group.stop()
        await asyncio.wait_for(asyncio.gather(*runs), 30)
        assert set(done) == set(range(1, total + 1))
        assert sum(count - 1 for count in done.values()) <= 2 * 16
        assert (await state(publisher))["missed"] == 0


@pytest.mark.servers
async def test_two_nodes(tmp_path: Path) -> None:
    """A worker on one node is woken by what is published on another, and workers on both share the jobs."""
    with running_server(tmp_path / "engine") as engine:
        overrides = ("storage.backend=valkey", f"datastores.valkey.url={engine.url}")
        nodes = [BusProcess(tmp_path / f"node-{number}", *overrides) for number in range(2)]
        try:
            for node in nodes:
                node.start()
            async with (
                Client(nodes[0].url, nodes[0].token()) as here,
                Client(nodes[1].url, nodes[1].token()) as there,
            ):
                await here.command("op.groups.ensure", PLACE)
                waiting = asyncio.ensure_future(read(here, wait=30, lease=60))
                await until(lambda: _waits(here))
                await there.publish("orders", 0)
                assert len((await asyncio.wait_for(waiting, 5))["jobs"]) == 1
                seen: Counter[int] = Counter()
                groups = [c.group("orders", "billing", concurrency=3, wait=0.5) for c in (here, there)]

                async def handle(job: Job) -> None:
                    seen[job.message.sequence] += 1
                    if len(seen) == 100:
                        for group in groups:
                            group.stop()

                runs = [asyncio.ensure_future(group.run(handle)) for group in groups]
                await publish(there, 100)
                await asyncio.wait_for(asyncio.gather(*runs), 20)
                assert seen == Counter(range(2, 102))
        finally:
            for node in nodes:
                node.kill()


async def _waits(client: Client) -> bool:
    """The read was sent before this command, so it waits when this one is answered."""
    return bool(await client.command("op.ping"))
