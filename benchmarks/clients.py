"""Cost of the Python SDK, beside nats.py and redis-py: messages a second, and per second of CPU.

python -m benchmarks.clients [--messages 20000]

Bus (embedded, memory engine), nats-server and valkey-server run on loopback, one at a time. Each step runs in
a process of its own, and its CPU time is that of this process alone. Steps: publish and await each ack; many
unacked at once; one call for many; receive. Not all of them mean the same: `nats core` has no acks, `nats
jetstream` acks from a stream in memory, redis-py's PUBLISH is answered and stores nothing, the bus's acks
carry a sequence and the message is stored in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nats
import redis.asyncio

from arqonbus.client import Client
from tests.servers.bus import REPOSITORY, BusProcess
from tests.servers.nats import running_nats
from tests.servers.valkey import running_server

PAYLOAD = b"x" * 200
IN_FLIGHT = 250
CHUNK = 1000
PLACE = "bench"

Step = Callable[[int], Awaitable[None]]
Started = Callable[[], None]


async def _together(count: int, publish: Callable[[], Awaitable[Any]]) -> None:
    """`IN_FLIGHT` tasks that publish one after the other."""

    async def some(share: int) -> None:
        for _ in range(share):
            await publish()

    await asyncio.gather(*(some(count // IN_FLIGHT) for _ in range(IN_FLIGHT)))


async def _arqonbus(url: str, token: str, step: str, count: int, started: Started) -> None:
    async with Client(url, token) as client:
        if step == "receive":
            subscription = await client.subscribe(PLACE)
            started()
            for _ in range(count):
                await anext(subscription)
            return
        await client.publish(PLACE, PAYLOAD)
        started()
        if step == "one by one":
            for _ in range(count):
                await client.publish(PLACE, PAYLOAD)
        elif step == "in flight":
            await _together(count, lambda: client.publish(PLACE, PAYLOAD))
        else:
            for _ in range(count // CHUNK):
                await client.publish_many(PLACE, [PAYLOAD] * CHUNK)


async def _nats_core(url: str, _: str, step: str, count: int, started: Started) -> None:
    client = await nats.connect(url)
    if step == "receive":
        subscription = await client.subscribe(PLACE, pending_msgs_limit=0, pending_bytes_limit=0)
        await client.flush()
        started()
        seen = 0
        async for _message in subscription.messages:
            seen += 1
            if seen == count:
                break
    else:
        started()
        for number in range(count):
            await client.publish(PLACE, PAYLOAD)
            if number % CHUNK == 0:
                await client.flush()
        await client.flush()
    await client.close()


async def _nats_jetstream(url: str, _: str, step: str, count: int, started: Started) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name="BENCH", subjects=[PLACE], storage="memory", max_msgs=10_000)
    started()
    if step == "one by one":
        for _number in range(count):
            await stream.publish(PLACE, PAYLOAD)
    else:
        await _together(count, lambda: stream.publish(PLACE, PAYLOAD))
    await client.close()


async def _redis(url: str, _: str, step: str, count: int, started: Started) -> None:
    client = redis.asyncio.Redis.from_url(url)
    if step == "receive":
        subscriber = client.pubsub()
        await subscriber.subscribe(PLACE)
        await subscriber.get_message(timeout=5)
        started()
        seen = 0
        async for message in subscriber.listen():
            seen += message["type"] == "message"
            if seen == count:
                break
        await subscriber.aclose()
    else:
        await client.publish(PLACE, PAYLOAD)
        started()
        if step == "one by one":
            for _number in range(count):
                await client.publish(PLACE, PAYLOAD)
        else:
            for _number in range(count // CHUNK):
                pipeline = client.pipeline(transaction=False)
                for _each in range(CHUNK):
                    pipeline.publish(PLACE, PAYLOAD)
                await pipeline.execute()
    await client.aclose()


CLIENTS = {"arqonbus": _arqonbus, "nats core": _nats_core, "nats jetstream": _nats_jetstream, "redis": _redis}
STEPS: Sequence[tuple[str, str, Sequence[str]]] = (
    # server, client, steps
    ("arqonbus", "arqonbus", ("one by one", "in flight", "one call", "receive")),
    ("nats", "nats jetstream", ("one by one", "in flight")),
    ("nats", "nats core", ("one call", "receive")),
    ("redis", "redis", ("one by one", "one call", "receive")),
)
SOURCES = {"arqonbus": "one call", "nats core": "one call", "redis": "one call"}  # what feeds a receiver


@contextmanager
def _server(name: str) -> Iterator[tuple[str, str]]:
    """Where it is, and a token if it wants one."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if name == "arqonbus":
            limits = ("limits.messages_per_second=0", "limits.bytes_per_second=0")
            bus = BusProcess(directory / "bus", "storage.backend=memory", *limits).start()
            stack.callback(bus.kill)
            yield bus.url, bus.token()
        elif name == "nats":
            options = ("-js", "-sd", str(directory / "js"))
            yield stack.enter_context(running_nats(directory / "server", *options)).url, ""
        else:
            server = stack.enter_context(running_server(directory / "server"))
            yield server.url.replace("valkey://", "redis://"), ""


def _child(client: str, step: str, url: str, token: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "benchmarks.clients", "--step", client, step, url, token, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def _measure(client: str, step: str, url: str, token: str, count: int) -> dict[str, float]:
    child = _child(client, step, url, token, count)
    assert child.stdout is not None
    if step == "receive":
        assert child.stdout.readline() == "started\n"
        feeder = _child(client, SOURCES[client], url, token, count)
        feeder.communicate()
    said, _ = child.communicate(timeout=300)
    measured: dict[str, float] = json.loads(said.splitlines()[-1])
    return measured


def _run_step(client: str, step: str, url: str, token: str, count: int) -> None:
    """In the child: the step, and what it took."""
    began = [0.0, 0.0]

    def started() -> None:
        began[:] = time.perf_counter(), time.process_time()
        print("started", flush=True)

    asyncio.run(CLIENTS[client](url, token, step, count, started))
    took, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    print(json.dumps({"a_second": count / took, "a_cpu_second": count / cpu}))


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=20_000, help="a multiple of 10 000; default: 20000")
    parser.add_argument("--step", nargs=5)
    given = parser.parse_args()
    if given.step:
        client, step, url, token, count = given.step
        _run_step(client, step, url, token, int(count))
        return
    print(f"{'CLIENT':16}{'STEP':14}{'A SECOND':>12}{'A CPU SECOND':>14}")
    for server, client, steps in STEPS:
        with _server(server) as (url, token):
            for step in steps:
                count = given.messages // (10 if step == "one by one" else 1) // CHUNK * CHUNK
                measured = _measure(client, step, url, token, count)
                print(
                    f"{client:16}{step:14}{measured['a_second']:12,.0f}{measured['a_cpu_second']:14,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
