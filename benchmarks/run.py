"""Runs the comparison: each case on each server in turn, several rounds, and writes every run to JSON.

python -m benchmarks.run                    all cases, 5 rounds (about 40 minutes; --rounds 3 --seconds 2: 15)
python -m benchmarks.run --rounds 1 --seconds 2 --case fan-50 --server arqonbus --server nats-server
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import scenario, servers
from benchmarks.scenario import Shape

HERE = Path(__file__).parent
GENERATOR_CPU = "1"

CASES = [
    Shape("fan-50", rooms=1, members=50, window=64),
    Shape("fan-500", rooms=1, members=500, window=16),
    Shape("rooms-50x5-w4", rooms=50, members=5, window=4),
    Shape("rooms-50x5-w1", rooms=50, members=5, window=1),
    Shape("fan-10", rooms=1, members=10, window=64),
    Shape("one-to-one", rooms=1, members=1, window=512),
    Shape("paced-2000x10", rooms=1, members=10, rate=2000),
    Shape("idle-10000", rooms=100, members=100),
]
SERVERS = [
    "arqonbus",
    "nats-server",
    "arqonbus, no history",
    "arqonbus, sqlite",
    "mosquitto",
    "Node ws",
    "Socket.IO",
    "websockets",
    "Valkey (TCP)",
]


def build() -> Path:
    """The generator, compiled when its source is newer."""
    source, binary = HERE / "generator.c", HERE / ".build" / "generator"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        binary.parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", binary, source], check=True)
    return binary


def measure(server: str, shape: Shape, *, warm_up: float, seconds: float) -> dict[str, Any]:
    """One run: the generator's figures, and the server's CPU between its START and STOP."""
    generator = build()
    with servers.started(server) as running, tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "scenario"
        scenario.write(path, running.speech, shape, warm_up=warm_up, seconds=seconds)
        before = running.resident_bytes()
        process = subprocess.Popen(
            ["taskset", "-c", GENERATOR_CPU, generator, "127.0.0.1", str(running.port), path],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        cpu: dict[str, float] = {}
        figures: dict[str, Any] = {}
        resident = before
        for line in process.stdout:
            word = line.split()[0]
            if word in ("START", "STOP"):
                cpu[word] = running.cpu_seconds()
                resident = running.resident_bytes()
            elif line.startswith("{"):
                figures = json.loads(line)
        if process.wait() or not figures:
            raise RuntimeError(f"{shape.name} on {server}: the generator failed")
    used = cpu["STOP"] - cpu["START"]
    connections = shape.rooms * (shape.members + (1 if shape.window or shape.rate else 0))
    return {
        "server": server,
        "case": shape.name,
        **figures,
        "cpu_seconds": used,
        "cpu_us_per_delivery": used / figures["deliveries"] * 1e6 if figures["deliveries"] else None,
        "deliveries_per_second": figures["deliveries"] / figures["seconds"],
        "kib_per_connection": (resident - before) / connections / 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--case", action="append", choices=[shape.name for shape in CASES])
    parser.add_argument("--server", action="append", choices=SERVERS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fanout.json")
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    started = time.monotonic()
    for shape in CASES:
        if args.case and shape.name not in args.case:
            continue
        for round_number in range(args.rounds):
            for server in args.server or SERVERS:
                try:
                    run = measure(server, shape, warm_up=args.warm_up, seconds=args.seconds)
                except RuntimeError as failure:  # said and left out: one server's limit is not the others'
                    print(f"left out: {failure}", flush=True)
                    continue
                runs.append({"round": round_number, **run})
                cost = run["cpu_us_per_delivery"]
                print(
                    f"{time.monotonic() - started:6.0f} s  {shape.name:14} {server:22}"
                    f" {run['deliveries_per_second']:10.0f}/s  {cost if cost is None else round(cost, 3)} µs"
                    f"  p50 {run['p50_us']} p99 {run['p99_us']} µs  {run['kib_per_connection']:.1f} KiB/conn",
                    flush=True,
                )
    args.out.parent.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "kernel": platform.release(), "processors": 2}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    args.out.write_text(json.dumps({"when": when, "machine": machine, "runs": runs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
