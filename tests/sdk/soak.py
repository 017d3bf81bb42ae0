"""Random faults under load with the Python SDK: nothing may be lost, repeated, out of order, or hang.

python -m tests.sdk.soak --minutes 5 [--seed 1]

A bus in a process of its own behind the faulty network; publishers, subscribers with buffers of several sizes
and policies, and a worker. Every few moments the network is cut, held, slowed or refused, or the bus is
paused or killed. At the end everybody has to catch up in time; the resident memory of the program is printed
at each fifth of the run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import signal
import tempfile
import time
from pathlib import Path

from arqonbus.client import Client, Job, Subscription
from tests.sdk.network import Network
from tests.servers.bus import BusProcess

ROOM = "soak"
SETTLE_SECONDS = 60.0
PACE = 0.005  # seconds between two publishes of one publisher
BUFFERS = ({}, {"max_messages": 50}, {"max_messages": 500, "max_bytes": 20_000})


class Soak:
    """One run."""

    def __init__(self, bus: BusProcess, network: Network, seed: int) -> None:
        self.acked: list[int] = []
        self.seen: list[list[int]] = [[] for _ in BUFFERS]
        self.done: dict[int, int] = {}
        self.faults: dict[str, int] = {}
        self.errors: list[str] = []
        self._bus = bus
        self._network = network
        self._random = random.Random(seed)
        self._numbers = iter(range(1 << 60))
        self._ending = asyncio.Event()

    def client(self, subject: str) -> Client:
        """A client behind the network, whose token function fails now and then."""

        async def token() -> str:
            if self._random.random() < 0.2:
                raise OSError("the auth service is away")
            return self._bus.token(subject)

        url = f"ws://127.0.0.1:{self._network.port}/v1/ws"
        return Client(url, token, timeout=60.0, on_error=lambda *_: None)

    async def run(self, minutes: float) -> None:
        """Load and faults for so long, then wait until everybody caught up."""
        until = time.monotonic() + minutes * 60
        async with (
            self.client("reader") as reader,
            self.client("writer") as writer,
            self.client("worker") as worker,
        ):
            subscriptions = [await reader.subscribe(ROOM, **options) for options in BUFFERS]  # type: ignore[arg-type]
            tasks = [asyncio.create_task(self._read(s, n)) for n, s in enumerate(subscriptions)]
            group = worker.group(ROOM, "soak", concurrency=20, lease=5.0, wait=1.0, max_deliveries=0)
            tasks.append(asyncio.create_task(group.run(self._handle)))
            writing = [asyncio.create_task(self._publish(writer)) for _ in range(4)]
            await self._break_things(until)
            self._ending.set()
            await asyncio.gather(*writing)
            await self._settle()
            group.stop()
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, asyncio.CancelledError):
                    self.errors.append(repr(outcome))
            self.reconnects = reader.reconnects + writer.reconnects + worker.reconnects

    async def _publish(self, client: Client) -> None:
        while not self._ending.is_set():
            number = next(self._numbers)
            await client.publish(ROOM, number)
            self.acked.append(number)
            await asyncio.sleep(PACE)

    async def _read(self, subscription: Subscription, reader: int) -> None:
        async for message in subscription:
            self.seen[reader].append(message.json())
            if self._random.random() < 0.002:
                await asyncio.sleep(self._random.random() * 2)

    async def _handle(self, job: Job) -> None:
        number = job.message.json()
        self.done[number] = self.done.get(number, 0) + 1

    async def _break_things(self, until: float) -> None:
        fifth = (until - time.monotonic()) / 5
        report = time.monotonic() + fifth
        while time.monotonic() < until:
            await asyncio.sleep(self._random.uniform(0.2, 3.0))
            fault = self._random.choice(("cut", "cut", "hold", "slow", "refuse", "pause", "kill"))
            self.faults[fault] = self.faults.get(fault, 0) + 1
            await self._break(fault)
            if time.monotonic() >= report:
                report += fifth
                used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                print(f"{len(self.acked)} acked, at most {used} MB", flush=True)  # noqa: T201

    async def _break(self, fault: str) -> None:
        network, wait = self._network, self._random.uniform(0.1, 2.0)
        if fault == "cut":
            network.cut()
        elif fault == "hold":
            network.hold()  # for ever: only the clients can tell
        elif fault == "slow":
            network.slow(0.05)
            await asyncio.sleep(wait)
            network.slow(0.0)
        elif fault == "refuse":
            await network.refuse()
            network.cut()
            await asyncio.sleep(wait)
            await network.accept()
        elif fault == "pause":
            self._bus.signal(signal.SIGSTOP)
            await asyncio.sleep(wait)
            self._bus.signal(signal.SIGCONT)
        else:
            self._bus.kill()
            await asyncio.to_thread(self._bus.start)

    async def _settle(self) -> None:
        """Wait until every acked message was seen and handled."""
        deadline = time.monotonic() + SETTLE_SECONDS
        wanted = set(self.acked)
        while time.monotonic() < deadline:
            if all(wanted <= set(seen) for seen in self.seen) and wanted <= set(self.done):
                return
            await asyncio.sleep(0.2)

    def verdict(self) -> list[str]:
        """What went wrong."""
        wrong = list(self.errors)
        wanted = set(self.acked)
        for reader, seen in enumerate(self.seen):
            lost, repeated = len(wanted - set(seen)), len(seen) - len(set(seen))
            if lost or repeated:
                wrong.append(f"reader {reader}: {lost} lost, {repeated} repeated")
            if seen != self.seen[0][: len(seen)]:
                wrong.append(f"reader {reader} saw another order than reader 0")
        if undone := wanted - set(self.done):
            wrong.append(f"the worker did not get {len(undone)} messages")
        return wrong


async def _soak(minutes: float, seed: int) -> list[str]:
    with tempfile.TemporaryDirectory() as directory:
        options = ("limits.messages_per_second=0", "limits.ping_interval=2", "storage.history.max_messages=0")
        bus = BusProcess(Path(directory) / "bus", "storage.backend=sqlite", *options).start()
        network = Network(bus.settings.server.port)
        await network.start()
        soak = Soak(bus, network, seed)
        try:
            await soak.run(minutes)
        finally:
            await network.stop()
            bus.kill()
    again = sum(count - 1 for count in soak.done.values())
    faults = ", ".join(f"{name} {count}" for name, count in sorted(soak.faults.items()))
    print(f"{len(soak.acked)} acked, {soak.reconnects} reconnects, {again} jobs handed out again")  # noqa: T201
    print(f"faults: {faults}")  # noqa: T201
    return soak.verdict()


def main() -> int:
    """Run, and print what went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    wrong = asyncio.run(_soak(given.minutes, given.seed))
    print("\n".join(wrong) or "nothing was lost, repeated, out of order, or stuck")  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
