"""What a local write of Continuum costs while its outbox is exported, whatever state the bus is in.

    python -m benchmarks.outbox [--writes 4000]

Each write is a transaction of its own, as in examples/continuum; the exporter is another process. Prints p50
and p99 in microseconds, and the ratio to the same writes without any exporter, taken in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.continuum.continuum import Continuum
from tests.servers.bus import BusProcess
from tests.servers.processes import free_port

ROUNDS = 5
STATES = ("no exporter", "bus up", "bus hangs", "bus refuses", "bus dead")


@contextmanager
def exporting(state: str, memory: Path, bus: BusProcess) -> Iterator[None]:
    """The exporter at work, and the bus in that state."""
    if state == "no exporter":
        yield
        return
    token = memory.with_name("token")
    token.write_text(bus.token() if state != "bus refuses" else "none")
    url = bus.url if state != "bus dead" else f"ws://127.0.0.1:{free_port()}/v1/ws"
    command = [
        sys.executable,
        "-m",
        "arqonbus",
        "export",
        str(memory),
        "--url",
        url,
        "--token-file",
        str(token),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": "."}
    ) as exporter:
        time.sleep(1.5)  # it has caught up, or has met what it meets
        if state == "bus hangs":
            bus.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            bus.signal(signal.SIGCONT)
            exporter.kill()


def writes(continuum: Continuum, count: int) -> list[float]:
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        continuum.remember("agent", f"body {number}", ("chat",))
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--writes", type=int, default=4000)
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {state: [] for state in STATES}
    with tempfile.TemporaryDirectory(prefix="arqonbus-bench-") as directory:
        memory = Path(directory) / "memory.db"
        continuum = Continuum(memory)
        continuum.create("demo")
        bus = BusProcess(Path(directory) / "bus", "limits.messages_per_second=0").start()
        writes(continuum, 500)
        for _ in range(ROUNDS):
            for state in STATES:
                with exporting(state, memory, bus):
                    taken = sorted(writes(continuum, args.writes))
                found[state].append((taken[len(taken) // 2], taken[int(len(taken) * 0.99)]))
        bus.kill()
    result = {
        state: {
            "p50_us": round(statistics.median(p50 for p50, _ in rounds) * 1e6),
            "p99_us": round(statistics.median(p99 for _, p99 in rounds) * 1e6),
        }
        for state, rounds in found.items()
    }
    alone = result["no exporter"]["p99_us"]
    for figures in result.values():
        figures["p99_ratio"] = round(figures["p99_us"] / alone, 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
