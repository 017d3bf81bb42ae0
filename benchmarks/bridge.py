"""How many messages a second the bridge carries each way, on one node with the embedded engine.

    python -m benchmarks.bridge [--messages 20000]

One nats-server with JetStream on a file and one bus, both real and on loopback; nothing is pinned, so take
the figures as an order of magnitude and compare runs on one machine only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import nats
from nats.js import JetStreamContext

from arqonbus.client import Client
from tests.integration.waiting import until
from tests.servers.bus import BusProcess
from tests.servers.nats import running_nats

PAYLOAD = b"x" * 200
AT_ONCE = 500


async def _into_nats(jetstream: JetStreamContext, count: int) -> None:
    for start in range(0, count, AT_ONCE):
        futures = [
            await jetstream.publish_async("in.room", PAYLOAD)
            for _ in range(start, min(start + AT_ONCE, count))
        ]
        await asyncio.gather(*futures)


async def _inwards(bus: BusProcess, jetstream: JetStreamContext, count: int) -> float:
    """From the first message that the bus delivers to the last; all of them wait in the stream before."""
    async with Client(bus.url, bus.token()) as client:
        subscription = await client.subscribe("in.room")
        feeding = asyncio.create_task(_into_nats(jetstream, count))
        await anext(subscription)
        began = time.perf_counter()
        for _ in range(count - 1):
            await anext(subscription)
        took = time.perf_counter() - began
        await feeding
    return count / took


async def _outwards(bus: BusProcess, jetstream: JetStreamContext, count: int) -> float:
    async with Client(bus.url, bus.token()) as client:
        began = time.perf_counter()
        for start in range(0, count, AT_ONCE):
            await asyncio.gather(
                *(client.publish("out.room", PAYLOAD) for _ in range(start, min(start + AT_ONCE, count)))
            )

        async def are_there() -> bool:
            stored = await jetstream.stream_info("ARQONBUS", subjects_filter="out.>")
            return stored.state.subjects == {"out.room": count}

        await until(are_there, 120)
    return count / (time.perf_counter() - began)


async def _measure(count: int) -> None:
    mappings = [
        {"subject": "in.>", "room": "in.*", "tenant": "demo", "direction": "in"},
        {"subject": "out.>", "room": "out.*", "tenant": "demo", "direction": "out"},
    ]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        with running_nats(place / "nats", "-js", "-sd", str(place / "jetstream")) as server:
            bus = BusProcess(
                place / "bus",
                "storage.backend=sqlite",
                f"datastores.nats.url={server.url}",
                f"bridge.mappings={json.dumps(mappings)}",
                "bridge.create_stream=true",
                "limits.messages_per_second=0",
            ).start()
            try:
                client = await nats.connect(server.url)
                jetstream = client.jetstream()
                await until(lambda: _has_stream(jetstream))
                print(f"in   {await _inwards(bus, jetstream, count):9.0f} messages/s")
                print(
                    f"out  {await _outwards(bus, jetstream, count):9.0f} messages/s, acked publishes included"
                )
                await client.close()
            finally:
                bus.stop()


async def _has_stream(jetstream: JetStreamContext) -> bool:
    return "ARQONBUS" in [stream.config.name for stream in await jetstream.streams_info()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    asyncio.run(_measure(parser.parse_args().messages))


if __name__ == "__main__":
    main()
