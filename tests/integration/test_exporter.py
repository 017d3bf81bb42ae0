"""From Continuum's outbox to the bus: whatever state the bus is in, whoever is killed, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from arqonbus.client import Client
from arqonbus.continuum.events import ROOM, parse_event
from arqonbus.continuum.exporter import Exporter
from arqonbus.continuum.outbox import Cursor, Outbox, OutboxError, Place
from examples.continuum.continuum import Continuum
from tests.integration.waiting import until
from tests.servers.arqonbus import REPOSITORY
from tests.servers.bus import BusProcess
from tests.servers.processes import free_port

pytestmark = pytest.mark.xdist_group("exporter")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Continuum]:
    continuum = Continuum(tmp_path / "memory.db")
    continuum.create("demo")
    yield continuum
    continuum.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    process = BusProcess(tmp_path / "bus", "limits.messages_per_second=0", "projector.phase=emit_only")
    yield process
    process.kill()


@pytest.fixture
def exporter(tmp_path: Path, bus: BusProcess) -> Callable[[], Exporter]:
    """A new exporter of the memory to the bus."""

    def one() -> Exporter:
        path = tmp_path / "memory.db"
        return Exporter(
            Outbox(path),
            Cursor(path.with_name("cursor")),
            lambda: Client(bus.url, bus.token(), timeout=5),
            path.with_name("refused"),
        )

    return one


async def exported(bus: BusProcess) -> list[Any]:
    """The events in the bus, in order."""
    events: list[Any] = []
    async with Client(bus.url, bus.token()) as client:
        cursor = None
        while True:
            arguments = {"room": ROOM, "limit": 1000} | ({"cursor": cursor} if cursor else {})
            page = await client.command("op.history.replay", arguments)
            events += [message["payload"] for message in page["messages"]]
            cursor = page.get("cursor")
            if cursor is None:
                return events


def outbox(tmp_path: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(tmp_path / "memory.db")) as connection:
        rows = connection.execute("SELECT event FROM continuum_outbox ORDER BY position").fetchall()
    return [json.loads(event) for (event,) in rows]


async def test_what_happens_to_episodes_is_told_in_order(
    memory: Continuum, bus: BusProcess, exporter: Callable[[], Exporter], tmp_path: Path
) -> None:
    """Made, summarized and forgotten: three valid events with rising times, told once."""
    bus.start()
    for number in range(300):
        episode = memory.remember(f"agent-{number % 3}", f"body {number}", ("chat",))
        memory.summarize(episode, f"summary {number}")
        memory.forget(episode)
    done = await exporter().run(follow=False)
    assert (done.published, done.repeated, done.set_aside, done.position) == (900, 0, 0, 900)
    found = await exported(bus)
    assert found == outbox(tmp_path)
    events = [parse_event(json.dumps(each).encode(), "demo") for each in found]
    assert [event.type for event in events[:3]] == [
        "episode.created",
        "episode.summarized",
        "episode.deleted",
    ]
    times = [event.source_ts for event in events]
    assert all(one < other for one, other in pairwise(times))
    assert "body" not in json.dumps(found)
    assert (await exporter().run(follow=False)).published == 0


async def test_an_exporter_that_is_killed_repeats_and_loses_nothing(
    memory: Continuum, bus: BusProcess, exporter: Callable[[], Exporter], tmp_path: Path
) -> None:
    """The command, killed at random moments while events come; the bus holds each of them once, in order."""
    bus.start()
    dice = random.Random(11)
    token = tmp_path / "token"
    token.write_text(bus.token())
    command = [sys.executable, "-m", "arqonbus", "export", str(tmp_path / "memory.db"), "--url", bus.url]
    command += ["--token-file", str(token), "--cursor", str(tmp_path / "cursor"), "--json"]
    for _ in range(8):
        with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs meanwhile
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        ) as process:
            for number in range(400):
                memory.remember("agent", str(number))
            assert process.stdout is not None
            process.stdout.readline()  # it has told something
            await asyncio.sleep(dice.random() * 0.05)  # the moment of the kill is what is random here
            process.send_signal(signal.SIGKILL)
    await exporter().run(follow=False)
    assert await exported(bus) == outbox(tmp_path)
    assert len(outbox(tmp_path)) == 3200


async def test_what_the_bus_refuses_is_set_aside_and_holds_up_nobody(
    memory: Continuum, bus: BusProcess, exporter: Callable[[], Exporter], tmp_path: Path
) -> None:
    """Memory itself, and another tenant's name, are refused at the edge; the reason is kept with each."""
    bus.start()
    memory.remember("agent", "one")
    with contextlib.closing(sqlite3.connect(tmp_path / "memory.db")) as connection, connection:
        for change in ("'$.payload.raw_content', 'all of it'", "'$.tenant_id', 'other'"):
            connection.execute(
                "INSERT INTO continuum_outbox (event) "
                f"SELECT json_set(event, {change}) FROM continuum_outbox LIMIT 1"
            )
    memory.remember("agent", "two")
    done = await exporter().run(follow=False)
    assert (done.published, done.set_aside) == (2, 2)
    lines = [json.loads(line) for line in (tmp_path / "refused").read_text().splitlines()]
    assert [line["code"] for line in sorted(lines, key=lambda line: line["position"])] == [
        "POLICY_BLOCKED",
        "TENANT_MISMATCH",
    ]
    assert "raw_content" in lines[0]["reason"] + lines[1]["reason"]
    assert len(await exported(bus)) == 2


async def test_poison_reaches_the_bus(
    memory: Continuum, bus: BusProcess, exporter: Callable[[], Exporter]
) -> None:
    """What is merely no event is the projector's to bury, where it can be seen and replayed."""
    bus.start()
    memory.remember("agent", "one")
    memory.poison()
    assert (await exporter().run(follow=False)).published == 2
    assert (await exported(bus))[1]["schema_version"] == "1"


@pytest.mark.timeout(120)
async def test_local_writes_do_not_feel_the_bus(
    memory: Continuum, bus: BusProcess, exporter: Callable[[], Exporter]
) -> None:
    """Up, stopped in the middle of a word, refusing, dead: each write is done, and all is told later."""
    following = exporter()
    running = asyncio.create_task(following.run())
    written = 0

    async def write(count: int) -> None:
        nonlocal written
        for _ in range(count):
            began = time.perf_counter()
            memory.remember("agent", "body")
            written += 1
            assert time.perf_counter() - began < 5  # SQLite's own patience: it never had to wait for a lock
            await asyncio.sleep(0)

    await write(200)  # dead: it never ran
    bus.start()
    await until(lambda: following.done.published > 0, seconds=30)
    await write(200)
    bus.signal(signal.SIGSTOP)
    await write(200)
    bus.signal(signal.SIGCONT)
    bus.kill()
    await write(200)
    bus.start()
    await until(lambda: following.done.position == written, seconds=60)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert following.done.set_aside == 0
    assert len(await exported(bus)) == written


async def test_another_outbox_in_its_place_is_noticed(memory: Continuum, tmp_path: Path) -> None:
    """A cursor of one outbox is not applied to another, which would skip its first events."""
    first = memory.remember("agent", "one")
    assert first
    path = tmp_path / "memory.db"
    record = Outbox(path).after(0, 1)[0]
    Outbox(path).check(Place(1, record.id))
    with pytest.raises(OutboxError, match="is not the one that was exported"):
        Outbox(path).check(Place(1, "01ARZ3NDEKTSV4RRFFQ69G5FAV"))
    with pytest.raises(OutboxError, match="is not the one that was exported"):
        Outbox(path).check(Place(7, record.id))


def test_what_is_no_outbox_gets_a_sentence(tmp_path: Path) -> None:
    """A missing file, a file that is none, one without the table, and a damaged cursor."""
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at as one" * 20)
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE other (a)").connection.close()
    for name, sentence in (("absent", "no outbox at"), ("text", "no table"), ("empty.db", "no table")):
        with pytest.raises(OutboxError, match=sentence):
            Outbox(tmp_path / name)
    (tmp_path / "cursor").write_text("{")
    with pytest.raises(OutboxError, match="is damaged"):
        Cursor(tmp_path / "cursor").read()


def test_the_reader_of_an_outbox_cannot_write(memory: Continuum, tmp_path: Path) -> None:
    """Whatever the exporter does, Continuum's file stays as it is."""
    reader = Outbox(tmp_path / "memory.db")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM continuum_outbox")


def test_no_port_is_needed_to_wait(memory: Continuum, tmp_path: Path) -> None:
    """The command begins while there is no bus, and ends when it is told to."""
    memory.remember("agent", "one")
    token = tmp_path / "token"
    token.write_text("none")
    url = f"ws://127.0.0.1:{free_port()}/v1/ws"
    export = [sys.executable, "-m", "arqonbus", "export", str(tmp_path / "memory.db"), "--url", url]
    command = ["env", "--default-signal=INT", *export, "--token-file", str(token)]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "the bus does not take events" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
