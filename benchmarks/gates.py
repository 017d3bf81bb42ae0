"""Keep the bus fast: each hot path beside a reference implementation, in one run, in turn.

python -m benchmarks.gates [--rounds 5] [--json]

A gate compares what the bus does with the least that the libraries below it need for the same result.
Both run in turn, several times; the medians of their processor time are compared, so neither the machine
nor its load is in the ratio. Gates of the second kind count calls of functions, which are the same on
every machine. A limit is about one and a half times what was measured when it was set; the exit code is 1
if one is exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import websockets

from arqonbus.cli.table import print_table
from arqonbus.client import Client
from arqonbus.config import load, with_dev_key
from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from arqonbus.service.bus import BusService
from arqonbus.shield.tokens import Claims, mint
from arqonbus.storage.sqlite.log import SqliteLog
from benchmarks.replay import MESSAGES, fill, replay
from tests.servers.processes import free_port

ROOT = Path(__file__).resolve().parents[1]
FRAME = 100  # messages in a frame of the codec's gates
REPEATS = 200  # frames in a round
DELIVERED = 1000  # messages in a round of the delivery's gate
ROOM = "gate"
ROWS = "SELECT sequence, time_us, id, data FROM entries ORDER BY number, sequence"

# What is measured, and the highest value that passes.
LIMITS = {
    "codec ÷ protobuf alone": 3.3,
    "codec, calls per message": 12.0,
    "replay of 4 000 ÷ its SELECT": 5.0,
    "replay, calls per message": 11.0,
    "publish and deliver ÷ two bare websockets": 1.2,
    "static preflight ÷ import of its libraries": 2.4,
    "--help ÷ start of Python with argparse": 2.5,
}


@dataclass(frozen=True)
class Gate:
    """What was measured: a ratio, or a number of calls."""

    name: str
    value: float

    @property
    def limit(self) -> float:
        """The highest value that passes."""
        return LIMITS[self.name]

    @property
    def passed(self) -> bool:
        """Whether it is within the limit."""
        return self.value <= self.limit


async def ratio(
    ours: Callable[[], Awaitable[float]], theirs: Callable[[], Awaitable[float]], rounds: int
) -> float:
    """The median of our seconds over the median of theirs, in turn; the first round does not count."""
    pairs = [(await ours(), await theirs()) for _ in range(rounds + 1)][1:]
    return statistics.median(each[0] for each in pairs) / statistics.median(each[1] for each in pairs)


async def spent(work: Awaitable[object]) -> float:
    """Processor seconds of this process for some work."""
    began = time.process_time()
    await work
    return time.process_time() - began


@contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Count the functions that this thread calls, of Python and of C."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        yield lambda: count
    finally:
        sys.setprofile(None)


def messages() -> list[Envelope]:
    """Messages as a service sends them."""
    payload = json.dumps({"n": 1, "text": "x" * 200}).encode()
    fields = {"kind": MESSAGE, "room": ROOM, "content_type": JSON_CONTENT, "payload": payload}
    return [Envelope(id=new_ulid(), time_us=now_us(), **fields) for _ in range(FRAME)]


async def codec(rounds: int) -> AsyncIterator[Gate]:
    """Decode and encode a frame of the protobuf wire."""
    made = messages()
    frame, raw = wire_protobuf.frame_of(made), [each.SerializeToString() for each in made]

    def once() -> None:
        wire_protobuf.frame_of([envelope for envelope, _ in wire_protobuf.decode(frame)])

    async def ours() -> None:
        for _ in range(REPEATS):
            once()

    async def theirs() -> None:
        for _ in range(REPEATS):
            for each in raw:
                Envelope.FromString(each).SerializeToString()

    found = await ratio(lambda: spent(ours()), lambda: spent(theirs()), rounds)
    yield Gate("codec ÷ protobuf alone", found)
    with counted() as count:
        once()
        yield Gate("codec, calls per message", count() / FRAME)


async def replays(rounds: int) -> AsyncIterator[Gate]:
    """Replay a room of the embedded engine as `op.history.replay` does, up to the bytes of the answer."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "log.sqlite"
        log: Any = SqliteLog(file)
        await log.open(None)
        await fill(log)
        bare = sqlite3.connect(f"file:{file}?mode=ro", uri=True)

        async def theirs() -> None:
            for _ in range(10):
                bare.execute(ROWS).fetchall()

        found = await ratio(lambda: spent(replay(log, "protobuf")), lambda: spent(theirs()), 4 * rounds)
        yield Gate("replay of 4 000 ÷ its SELECT", 10 * found)
        with counted() as count:
            await replay(log, "protobuf")
            yield Gate("replay, calls per message", count() / MESSAGES)
        bare.close()
        await log.close()


@asynccontextmanager
async def publishing() -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A bus, a publisher and a reader: publish, acknowledge and deliver a round of messages."""
    with tempfile.TemporaryDirectory() as state:
        chosen = ("storage.backend=memory", "limits.messages_per_second=0", f"state_dir={state}")
        ports = (f"server.port={free_port()}", f"telemetry.port={free_port()}")
        settings = with_dev_key(load("dev", root=ROOT, environ={}, overrides=[*chosen, *ports]).settings)
        service = BusService(settings)
        await service.start()
        token = mint(settings, Claims("demo", "gate", 600, role="admin"))
        try:
            async with Client(service.url, token) as publisher, Client(service.url, token) as reader:
                room = await reader.subscribe(ROOM)

                async def work() -> None:
                    await publisher.publish_many(ROOM, [b"x" * 200] * DELIVERED)
                    for _ in range(DELIVERED):
                        await anext(room)

                yield work
        finally:
            await service.stop()


@asynccontextmanager
async def echoing() -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Two bare websockets: a message to a server, an answer, and the same message to somebody else."""
    readers: list[websockets.ServerConnection] = []

    async def serve(connection: websockets.ServerConnection) -> None:
        if connection.request is not None and connection.request.path == "/reader":
            readers.append(connection)
            await connection.wait_closed()
            return
        async for message in connection:
            await connection.send(b"ok")
            await readers[0].send(message)

    async with websockets.serve(serve, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with (
            websockets.connect(f"{url}/reader", compression=None) as reader,
            websockets.connect(url, compression=None) as publisher,
        ):

            async def publish() -> None:
                for _ in range(DELIVERED):
                    await publisher.send(b"x" * 200)

            async def work() -> None:
                sending = asyncio.create_task(publish())
                for _ in range(DELIVERED):
                    await publisher.recv()
                    await reader.recv()
                await sending

            yield work


async def delivery(rounds: int) -> AsyncIterator[Gate]:
    """From a program to a program over two sockets, both ends and the server in this process."""
    async with publishing() as ours, echoing() as theirs:
        found = await ratio(lambda: spent(ours()), lambda: spent(theirs()), rounds)
    yield Gate("publish and deliver ÷ two bare websockets", found)


async def command(*words: str) -> float:
    """Processor seconds of a process. Its verdict does not matter; that it was killed or misused does."""
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
    _, status, usage = await asyncio.to_thread(os.wait4, process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    process.returncode = 0
    return usage.ru_utime + usage.ru_stime


async def commands(rounds: int) -> AsyncIterator[Gate]:
    """What a person waits for at the command line."""
    preflight = ("-m", "arqonbus", "preflight", "--phase", "static", "--profile", "dev")
    libraries = ("-c", "import asyncio, cryptography.x509, dynaconf, pydantic_settings, yaml")
    found = await ratio(lambda: command(*preflight), lambda: command(*libraries), rounds)
    yield Gate("static preflight ÷ import of its libraries", found)
    found = await ratio(
        lambda: command("-m", "arqonbus", "--help"), lambda: command("-c", "import argparse"), 2 * rounds
    )
    yield Gate("--help ÷ start of Python with argparse", found)


async def run(rounds: int) -> list[Gate]:
    """All gates, in the order of LIMITS."""
    return [gate for kind in (codec, replays, delivery, commands) async for gate in kind(rounds)]


def main() -> int:
    """Print what each gate measured. The exit code is 1 if one is exceeded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--json", action="store_true", help="write JSON")
    args = parser.parse_args()
    gates = asyncio.run(run(args.rounds))
    if args.json:
        print(json.dumps([asdict(gate) | {"limit": gate.limit, "passed": gate.passed} for gate in gates]))
    else:
        words = {True: "ok", False: "exceeded"}
        rows = [(gate.name, round(gate.value, 2), gate.limit, words[gate.passed]) for gate in gates]
        print_table(("GATE", "MEASURED", "LIMIT", ""), rows)
    return 0 if all(gate.passed for gate in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
