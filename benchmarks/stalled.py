"""What readers that stopped reading cost those that read: p99 of 990 with 10 stalled ones, and without them.

python -m benchmarks.stalled [--rounds 7] [--seconds 4] [--out benchmarks/results/stalled.json]

A thousand readers of one room, one publisher with a steady rate; in every second run ten of the readers join
and never read. A stalled one that the bus sends away comes back and stalls again. Rounds alternate.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks import scenario, servers
from benchmarks.run import GENERATOR_CPU, build
from benchmarks.scenario import Script, Shape

HERE = Path(__file__).parent
READERS, STALLED = 1000, 10
RATE = 25.0  # messages per second, of 1 KiB, to every reader
BUDGET = "256KiB"  # of what may wait for one client


class Stalled(threading.Thread):
    """A reader that joins and reads no more, over and over until it is stopped."""

    def __init__(self, port: int, script: Script) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._script = script
        self._ended = threading.Event()
        self.joined = threading.Event()
        self.times = 0

    def run(self) -> None:
        while not self._ended.is_set():
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(5)
                connection.connect(("127.0.0.1", self._port))
                connection.sendall(self._script.connect)
                _await(connection, self._script.first)
                connection.sendall(self._script.init)
                _await(connection, self._script.second)
                self.times += 1
                self.joined.set()
                while not self._ended.wait(0.2) and not _is_dropped(connection):
                    pass

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _await(connection: socket.socket, text: bytes) -> None:
    seen = b""
    while text not in seen:
        got = connection.recv(512)
        if not got:
            raise ConnectionError("the bus closed the connection of a stalled reader before it had joined")
        seen = (seen + got)[-2048:]


def _is_dropped(connection: socket.socket) -> bool:
    """Whether the other end gave up: a reset shows although nothing is read."""
    return (
        bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        or connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\x01"
    )  # established


def measure(stalled: int, seconds: float) -> dict[str, Any]:
    """One run. Times are microseconds, sizes bytes."""
    shape = Shape("stalled", rooms=1, members=READERS - stalled, rate=RATE, size=1024)
    with (
        tempfile.TemporaryDirectory() as directory,
        servers.arqonbus(directory, f"limits.send_queue_bytes={BUDGET}", "storage.backend=memory") as running,
    ):
        path = Path(directory) / "scenario"
        scenario.write(path, running.speech, shape, warm_up=2, seconds=seconds)
        idle = [Stalled(running.port, running.speech.member("r0")) for _ in range(stalled)]
        for one in idle:
            one.start()
        for one in idle:
            one.joined.wait(10)
        command = ["taskset", "-c", GENERATOR_CPU, build(), "127.0.0.1", str(running.port), path]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        resident = running.resident_bytes()
        for one in idle:
            one.stop()
    figures = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return {**figures, "stalled": stalled, "resident": resident, "stalls": sum(one.times for one in idle)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "stalled.json")
    args = parser.parse_args()
    runs = []
    for number in range(args.rounds):
        for stalled in (0, STALLED) if number % 2 else (STALLED, 0):
            run = measure(stalled, args.seconds)
            runs.append(run)
            print(
                f"{stalled:3} stalled   p50 {run['p50_us']:7} µs   p99 {run['p99_us']:7} µs   "
                f"{run['resident'] / 2**20:6.1f} MiB   {run['stalls']} joins of stalled readers",
                flush=True,
            )
    with_, without = ([r["p99_us"] for r in runs if bool(r["stalled"]) is which] for which in (True, False))
    ratio = statistics.median(with_) / statistics.median(without)
    print(f"p99 with ÷ without, medians of {args.rounds} rounds: {ratio:.3f}")
    args.out.write_text(json.dumps({"ratio": ratio, "runs": runs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
