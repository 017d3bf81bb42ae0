"""Cost of a delivery and of a connection on this machine, measured for seconds on a separate bus.

The bus holds its rooms in memory, so that what is measured is the bus and not an engine; its CPU and its
memory are those that the kernel tells. The load comes from this process, and is not counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from arqonbus.client import Client, ClientError
from arqonbus.config import Settings, load, with_dev_key
from arqonbus.config.capacity import DOCUMENTED, MICRO, Figures
from arqonbus.measure.load import LoadPlan, LoadRun, Measured
from arqonbus.shield.tokens import Claims, mint

IDLE = 400
AT_ONCE = 50
MEMBERS = 50
START_SECONDS = 30
TICKS = os.sysconf("SC_CLK_TCK")


class CalibrationFailed(Exception):
    """A bus that could not be measured; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Process:
    """The bus that is measured."""

    pid: int
    settings: Settings
    url: str

    def cpu_seconds(self) -> float:
        """User and system time since its start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def connect(self) -> Client:
        return Client(self.url, mint(self.settings, Claims("calibration", "calibration", 3600)), timeout=30)


def calibrate(seconds: float, on_progress: Callable[[float, Measured], None]) -> Figures:
    """The figures of this machine. Raises CalibrationFailed."""
    if not Path("/proc/self/statm").exists():
        raise CalibrationFailed("this system does not tell what a process uses; calibrate on Linux")
    try:
        with tempfile.TemporaryDirectory(prefix="arqonbus-calibration-") as directory, _bus(directory) as bus:
            return asyncio.run(_measure(bus, seconds, on_progress))
    except (OSError, ClientError) as error:
        raise CalibrationFailed(f"the bus of the calibration could not be used: {error}") from error


@contextmanager
def _bus(directory: str) -> Iterator[Process]:
    port, telemetry = _free_ports()
    settings = [
        f"state_dir={directory}",
        "storage.backend=memory",
        "storage.durability=memory",
        f"server.port={port}",
        f"telemetry.port={telemetry}",
        "limits.messages_per_second=0",
        "limits.bytes_per_second=0",
    ]
    program = "import sys; from arqonbus.cli import main; sys.exit(main())"
    options = [option for each in settings for option in ("--set", each)]
    log = Path(directory) / "log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ARQONBUS_")}
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", program, "serve", "--profile", "dev", *options],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environ,
        )
    try:
        _await(process, port, log)
        resolved = load("dev", environ={}, overrides=settings)
        yield Process(process.pid, with_dev_key(resolved.settings), f"ws://127.0.0.1:{port}/v1/ws")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    said = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
    raise CalibrationFailed(
        f"the bus of the calibration did not start: {' '.join(said) or 'no reason given'}"
    )


def _free_ports() -> tuple[int, int]:
    """Two that differ: both are held while they are asked for."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


async def _measure(bus: Process, seconds: float, on_progress: Callable[[float, Measured], None]) -> Figures:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus.connect())
        memory, cpu = bus.resident_bytes(), bus.cpu_seconds()
        for _ in range(0, IDLE, AT_ONCE):
            clients = [bus.connect() for _ in range(AT_ONCE)]
            await asyncio.gather(*(stack.enter_async_context(client) for client in clients))
        connection = (bus.resident_bytes() - memory) / IDLE
        connect_us = (bus.cpu_seconds() - cpu) / IDLE * MICRO
    plan = LoadPlan("calibration", 4, MEMBERS, 200, 4, 0, seconds)
    before = bus.cpu_seconds()
    measured = await LoadRun(plan, bus.connect).run(on_progress)
    if measured.delivered == 0:
        raise CalibrationFailed("nothing was delivered")
    connecting = (plan.publishers + plan.subscribers) * connect_us
    used = (bus.cpu_seconds() - before) * MICRO - connecting
    return replace(
        DOCUMENTED,
        connection_bytes=round(connection),
        connect_us=connect_us,
        delivery_us=used / measured.delivered,
        source="measured",
    )


__all__ = ["CalibrationFailed", "calibrate"]
