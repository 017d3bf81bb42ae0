"""Durable acks: how many publishes a second are on disk before their publisher hears so, and how soon.

python -m benchmarks.durable_acks          all servers in turn, three rounds (about five minutes)

ArqonBus on Valkey and on SQLite, beside JetStream of nats-server 2.10 or later (sync_interval came with it),
each over WebSocket with the same generator. Nothing is pinned: server, engine and generator share the
machine.
Writes results/durable_acks.json and DURABLE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import MESSAGE, Envelope
from arqonbus.protocol.replies import now_us
from benchmarks import scenario
from benchmarks.run import build
from benchmarks.scenario import BINARY, RECORD, UPGRADED, Script, frame, handshake
from tests.servers.bus import BusProcess
from tests.servers.nats import NatsServer
from tests.servers.processes import free_port
from tests.servers.valkey import ValkeyServer

HERE = Path(__file__).parent
SIZE = 200  # bytes of payload

Publisher = Callable[[int], tuple[Script, bytes]]


class Case(NamedTuple):
    """Publishers, each in a room of its own, with this many publishes outstanding."""

    publishers: int
    window: int


CASES = (Case(1, 1), Case(4, 32), Case(8, 32), Case(16, 32))


class Running(NamedTuple):
    """A server that takes publishers on a loopback port."""

    port: int
    publisher: Publisher


def _own_record(number: int) -> bytes:
    """The record with two characters that no other publisher has."""
    digits = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return RECORD[:8] + bytes((digits[number // 32], digits[number % 32])) + RECORD[10:]


@contextmanager
def _bus(directory: Path, *overrides: str) -> Iterator[Running]:
    bus = BusProcess(
        directory / "bus",
        "storage.durability=durable",
        "limits.messages_per_second=0",
        "limits.bytes_per_second=0",
        *overrides,
    )
    bus.start()
    connect = handshake("/v1/ws", "arqonbus.v1.protobuf", bus.token("bench"))

    def publisher(number: int) -> tuple[Script, bytes]:
        envelope = Envelope(
            id=_own_record(number).decode(),
            kind=MESSAGE,
            room=f"room-{number}",
            name="bench",
            time_us=now_us(),
            payload=b"." * SIZE,
        )
        return Script(connect, UPGRADED, b"", b""), frame(wire_protobuf.frame_of([envelope]), BINARY)

    try:
        yield Running(bus.settings.server.port, publisher)
    finally:
        bus.kill()


@contextmanager
def on_valkey(directory: Path) -> Iterator[Running]:
    """appendfsync always, and WAITAOF before the ack."""
    server = ValkeyServer(directory / "valkey")
    server.start()
    try:
        with _bus(directory, "storage.backend=valkey", f"datastores.valkey.url={server.url}") as running:
            yield running
    finally:
        server.kill()


@contextmanager
def on_sqlite(directory: Path) -> Iterator[Running]:
    """synchronous=FULL: the commit is flushed before the ack."""
    with _bus(directory, "storage.backend=sqlite", f"storage.sqlite.path={directory}/log.sqlite") as running:
        yield running


@contextmanager
def jetstream(directory: Path, sync: str) -> Iterator[Running]:
    """A file stream; `sync` is its sync_interval."""
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "nats.conf").write_text(
        f'jetstream {{ store_dir: "{directory}/js"{f", sync_interval: {sync}" if sync else ""} }}\n'
        f'websocket {{ host: "127.0.0.1", port: {port}, no_tls: true, compression: false }}\n'
    )
    server = NatsServer(directory, "-c", str(directory / "nats.conf"))
    server.start()
    try:
        _create_stream(server.port)
        yield Running(port, _jetstream_publisher)
    finally:
        server.kill()


def _jetstream_publisher(number: int) -> tuple[Script, bytes]:
    inbox = f"_INBOX.{number}"
    hello = f'CONNECT {{"verbose":false,"pedantic":false}}\r\nSUB {inbox}.* 1\r\nPING\r\n'.encode()
    line = f"PUB bench.{number} {inbox}.".encode() + _own_record(number) + f" {SIZE}\r\n".encode()
    message = frame(line + b"." * SIZE + b"\r\n", BINARY)
    return Script(handshake("/"), UPGRADED, frame(hello, BINARY), b"PONG"), message


def _create_stream(port: int) -> None:
    """A stream of all subjects that begin with bench, bounded as the bus's rooms are."""
    wanted = {
        "name": "BENCH",
        "subjects": ["bench.>"],
        "storage": "file",
        "retention": "limits",
        "max_msgs_per_subject": 10_000,
        "discard": "old",
        "num_replicas": 1,
    }
    body = json.dumps(wanted).encode()
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(
            b'CONNECT {"verbose":false}\r\nSUB _INBOX.made 1\r\n'
            + f"PUB $JS.API.STREAM.CREATE.BENCH _INBOX.made {len(body)}\r\n".encode()
            + body
            + b"\r\n"
        )
        answer = b""
        while b"stream_create_response" not in answer or not answer.endswith(b"\r\n"):
            data = connection.recv(65536)
            if not data:
                raise RuntimeError(f"nats-server made no stream: {answer!r}")
            answer += data
    if b'"error"' in answer:
        raise RuntimeError(f"nats-server made no stream: {answer!r}")


SERVERS: dict[str, Callable[[Path], Any]] = {
    "arqonbus, Valkey appendfsync always": on_valkey,
    "arqonbus, SQLite synchronous=FULL": on_sqlite,
    "JetStream, sync_interval: always": lambda directory: jetstream(directory, "always"),
    "JetStream, default (flushed every 2 min)": lambda directory: jetstream(directory, ""),
}


def measure(server: str, case: Case, *, warm_up: float, seconds: float) -> dict[str, Any]:
    """One run, on a directory of its own on the disk."""
    with tempfile.TemporaryDirectory(prefix="arqonbus-durable-", dir="/var/tmp") as name:
        directory = Path(name)
        with SERVERS[server](directory / "server") as running:
            path = directory / "scenario"
            publishers = [running.publisher(number) for number in range(case.publishers)]
            scenario.write_acked(path, publishers, case.window, warm_up=warm_up, seconds=seconds)
            done = subprocess.run(
                [build(), "127.0.0.1", str(running.port), path], capture_output=True, text=True, timeout=120
            )
    if done.returncode:
        raise RuntimeError(f"{server}, {case}: {done.stderr}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return {
        "server": server,
        **case._asdict(),
        "acks_per_second": figures["deliveries"] / figures["seconds"],
        "p50_ms": figures["p50_us"] / 1000,
        "p99_ms": figures["p99_us"] / 1000,
    }


def _flush_ms(directory: Path) -> float:
    """What one flush costs here, the floor under every figure: median of 200 of 4 KiB."""
    times = []
    with tempfile.NamedTemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(200):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return median(times)


def report(runs: list[dict[str, Any]], flush_ms: float, rounds: int, when: str) -> str:
    """DURABLE.md."""
    lines = [
        "# Durable acks",
        "",
        f"`python -m benchmarks.durable_acks`, {when}, {os.cpu_count()} shared processors, Python "
        f"{platform.python_version()}, {SIZE} B payloads, protobuf over WebSocket. "
        f"Median of {rounds} interleaved rounds (least to most). One flush of 4 KiB takes {flush_ms:.2f} ms.",
        "",
        "| publishers × outstanding | server | acks/s | p50 ms | p99 ms | against JetStream always |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for case in CASES:
        found = {name: [r for r in runs if r["server"] == name and _case(r) == case] for name in SERVERS}
        peer = found["JetStream, sync_interval: always"]
        base = median(r["acks_per_second"] for r in peer) if peer else 0.0
        for name, mine in found.items():
            if not mine:
                continue
            rates = sorted(r["acks_per_second"] for r in mine)
            cells = [
                f"{case.publishers} × {case.window}",
                name,
                f"{median(rates):,.0f} ({rates[0]:,.0f}-{rates[-1]:,.0f})",
                f"{median(r['p50_ms'] for r in mine):.2f}",
                f"{median(r['p99_ms'] for r in mine):.2f}",
                f"{median(rates) / base:.1f}" if base else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "The bus checks grants, validates, recognises repeated ids and numbers each room; JetStream is used",
        "without message ids, so it recognises no repeats. Its default acks what the operating system has",
        "not flushed: it stands here as a bound, not as a peer.",
        "",
    ]
    return "\n".join(lines)


def _case(run: dict[str, Any]) -> Case:
    return Case(run["publishers"], run["window"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--server", action="append", choices=SERVERS)
    parser.add_argument("--case", action="append", help="publishers x outstanding, such as 8x32")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "durable_acks.json")
    parser.add_argument("--report", type=Path, default=HERE / "DURABLE.md")
    args = parser.parse_args()
    cases = [case for case in CASES if not args.case or f"{case.publishers}x{case.window}" in args.case]
    flush_ms = _flush_ms(Path("/var/tmp"))
    runs: list[dict[str, Any]] = []
    for case in cases:
        for number in range(args.rounds):
            for server in args.server or SERVERS:
                run = measure(server, case, warm_up=args.warm_up, seconds=args.seconds)
                runs.append({"round": number, **run})
                print(
                    f"{case.publishers:3} x {case.window:<4} {server:42} {run['acks_per_second']:9,.0f}/s"
                    f"   p50 {run['p50_ms']:7.2f}   p99 {run['p99_ms']:7.2f} ms",
                    flush=True,
                )
    when = datetime.now(UTC).isoformat(timespec="seconds")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"when": when, "flush_ms": flush_ms, "runs": runs}, indent=1) + "\n")
    args.report.write_text(report(runs, flush_ms, args.rounds, when[:10]), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
