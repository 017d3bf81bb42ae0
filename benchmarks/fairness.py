"""What one client can do to the others: a victim's acks while another tenant attacks, and without it.

python -m benchmarks.fairness [--seconds 5] [--only NAME] [--transport picows] [--json]

A bus in one process, with the limits of the prod profile; the attacker in a second one, with a valid token
and grants for its own tenant; the victim here, of another tenant, publishes 100 times a second and waits
for each ack. Passed: p99 under attack within 10 ms + 3 × the quiet p99 of the same run, and resident memory
of the bus not more than 64 MiB above what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arqonbus.cli.table import print_table
from arqonbus.config import Settings, load, with_dev_key
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from arqonbus.shield.grants import parse_grant
from arqonbus.shield.tokens import Claims, mint
from tests.integration.raw import BINARY, CONTINUATION, PING, TEXT, Raw, masked
from tests.servers.arqonbus import ArqonBusProcess
from tests.servers.processes import free_port

ROOT = Path(__file__).resolve().parents[1]
RATE = 100.0  # publishes of the victim in a second
MEMORY_BYTES = 64 * 2**20
PROTOBUF, JSON = "arqonbus.v1.protobuf", "arqonbus.v1.json"
FRAME = 2_000_000  # bytes of the largest frames, a little below the limit
LIMITS = (
    "limits.messages_per_second=1000",
    "limits.messages_burst=2000",
    "limits.bytes_per_second=8MiB",
    "policy.mode=monitor",
    "policy.secrets=redact",
    'policy.rooms=["judged"]',
)


# -- attacks: what one frame, or one burst of frames, is


def message(room: str = "attack", **fields: Any) -> Envelope:
    return Envelope(id=new_ulid(), kind=MESSAGE, room=room, time_us=now_us(), **fields)


def command(name: str, **arguments: Any) -> Envelope:
    payload = json.dumps(arguments).encode()
    return Envelope(id=new_ulid(), kind=COMMAND, name=name, time_us=now_us(), payload=payload)


def in_protobuf(*envelopes: Envelope, behind: bytes = b"") -> bytes:
    """One frame; `behind`: bytes at the end of each envelope."""
    raws = [each.SerializeToString() + behind for each in envelopes]
    return masked(BINARY, b"".join(wire_protobuf.length_prefix(len(raw)) + raw for raw in raws))


def json_with(text: str) -> bytes:
    head = (
        f'{{"kind":"MESSAGE","id":"{new_ulid()}","room":"attack","time":"{wire_json.format_time(now_us())}"'
    )
    return masked(TEXT, f'{head},"payload":{text}}}'.encode())


def fragments(payload: bytes, count: int) -> bytes:
    return masked(BINARY, payload, fin=False) + masked(CONTINUATION, payload, fin=False) * count


def repeated(unit: bytes, size: int = FRAME) -> bytes:
    return unit * (size // len(unit))


def clocks() -> bytes:
    """Entries of a clock, more than a clock may have."""
    entries = (b"\x8a\x01\x0a\x0a\x06%06d\x10\x01" % n for n in range(FRAME // 13))
    return b"".join(entries)


PAGE: dict[str, Any] = {"room": "full", "limit": 500}


@dataclass(frozen=True)
class Attack:
    """`burst` makes what is sent, over and over; `reads`: whether answers are read."""

    subprotocol: str
    burst: Callable[[], bytes]
    reads: bool = True
    fills: bool = False  # a room with 7 000 messages of 1 kB first


ATTACKS: dict[str, Attack] = {
    "tiny fragments": Attack(PROTOBUF, lambda: fragments(b"x", 40_000)),
    "empty fragments": Attack(PROTOBUF, lambda: fragments(b"", 40_000)),
    "ping flood": Attack(PROTOBUF, lambda: masked(PING, b"") * 20_000),
    "bracket JSON": Attack(JSON, lambda: json_with("[" + "[]," * (1_000_000 // 3) + "0]")),
    "object JSON": Attack(JSON, lambda: json_with("[" + '{"":{}},' * (1_000_000 // 8) + "0]")),
    "larger than allowed JSON": Attack(JSON, lambda: json_with("[" + "[]," * (FRAME // 3) + "0]")),
    "unknown fields": Attack(PROTOBUF, lambda: in_protobuf(message(), behind=repeated(b"\xa0\x06\x01"))),
    "empty groups": Attack(PROTOBUF, lambda: in_protobuf(message(), behind=repeated(b"\xa3\x06\xa4\x06"))),
    "clock maps": Attack(PROTOBUF, lambda: in_protobuf(message(), behind=clocks())),
    "repeated headers": Attack(PROTOBUF, lambda: in_protobuf(message(), behind=repeated(b"\x72\x00"))),
    "policy text": Attack(
        PROTOBUF,
        lambda: in_protobuf(
            message(
                "judged",
                content_type="text/plain",
                payload=b" ".join(os.urandom(15).hex().encode() for _ in range(4000)),
            )
        ),
    ),
    "recovery unread": Attack(
        PROTOBUF,
        lambda: b"".join(
            in_protobuf(
                command("op.rooms.join", room="full", since={"epoch": EPOCH[0], "sequence": 0}),
                command("op.rooms.leave", room="full"),
            )
            for _ in range(50)
        ),
        reads=False,
        fills=True,
    ),
    "history paging": Attack(
        JSON,
        lambda: b"".join(
            masked(TEXT, wire_json.encode(command("op.history.get", **PAGE))) for _ in range(20)
        ),
        fills=True,
    ),
    "room creation": Attack(
        PROTOBUF, lambda: in_protobuf(*(message(f"room-{new_ulid()}") for _ in range(1000)))
    ),
    "id flood": Attack(PROTOBUF, lambda: in_protobuf(*(message() for _ in range(4000)))),
    "smallest envelopes": Attack(PROTOBUF, lambda: in_protobuf(Envelope(id="x")) * 4000),
    "JSON lines": Attack(JSON, lambda: masked(TEXT, b"\n".join([b'{"id":"x"}'] * 4000))),
    "deep commands": Attack(
        PROTOBUF,
        lambda: in_protobuf(
            *(
                Envelope(
                    id=new_ulid(), kind=COMMAND, name="op.ping", time_us=now_us(), payload=b'{"a":' * 10_000
                )
                for _ in range(20)
            )
        ),
    ),
    "unknown commands": Attack(
        PROTOBUF, lambda: in_protobuf(*(command("op.rooms.joint" + "x" * 200) for _ in range(200)))
    ),
}
EPOCH = [""]  # of the room `full`


# -- the attacker, in its own process


async def attack(name: str, port: int, token: str, seconds: float) -> None:
    """Send bursts until the time is over; connect again when the bus has had enough."""
    chosen, sent = ATTACKS[name], 0
    if chosen.fills:
        await fill(port, token)
    print("ready", flush=True)
    sys.stdin.readline()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            sent += await once(chosen, port, token, ends)
    print(sent, flush=True)


async def once(chosen: Attack, port: int, token: str, ends: float) -> int:
    """Bytes sent until the bus has closed the connection or the time is over."""
    connection = socket.socket()
    connection.setblocking(False)
    if not chosen.reads:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    raw = Raw(*await asyncio.open_connection(sock=connection, limit=2**14))
    sent = 0
    try:
        if (await raw.upgrade(token, chosen.subprotocol)).status != 101:
            await asyncio.sleep(0.1)
            return 0
        reading = asyncio.create_task(drain(raw)) if chosen.reads else None
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ends - time.monotonic()):
                while reading is None or not reading.done():
                    burst = chosen.burst()
                    raw.send(burst)
                    await raw.writer.drain()
                    sent += len(burst)
                    await asyncio.sleep(0 if chosen.reads else 0.02)
    finally:
        raw.writer.transport.abort()
    return sent


async def drain(raw: Raw) -> None:
    while await raw.reader.read(65536):
        pass


async def fill(port: int, token: str) -> None:
    raw = await Raw.open(port)
    assert (await raw.upgrade(token, PROTOBUF)).status == 101
    await raw.envelopes()
    for _ in range(70):
        raw.send(in_protobuf(*(message("full", payload=b"x" * 1000) for _ in range(100))))
        acks = 0
        while acks < 100:
            for answer in await raw.envelopes():
                acks += 1
                EPOCH[0] = answer.epoch or EPOCH[0]
        await asyncio.sleep(0.1)
    await raw.close()


# -- the victim, and the bus


@dataclass(frozen=True)
class Result:
    """Milliseconds of the victim's acks, and MiB of the bus."""

    attack: str
    quiet_p99: float
    p50: float
    p99: float
    longest: float
    grown: float
    sent: float

    @property
    def passed(self) -> bool:
        return self.p99 <= 10 + 3 * self.quiet_p99 and self.grown * 2**20 <= MEMORY_BYTES


async def acks(port: int, token: str, until: Callable[[], bool]) -> list[float]:
    """Milliseconds from each publish, at its time, to its ack; those that are late count from their time."""
    raw = await Raw.open(port)
    assert (await raw.upgrade(token, PROTOBUF)).status == 101
    await raw.envelopes()
    found: list[float] = []
    due = time.perf_counter()
    while not until():
        raw.send(in_protobuf(message("calm", payload=b"x" * 100)))
        async with asyncio.timeout(60):
            frame = await raw.frame(60)
        assert frame.opcode == BINARY
        found.append((time.perf_counter() - due) * 1000)
        due = max(due + 1 / RATE, time.perf_counter() - 0.001)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await raw.close()
    return found


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def after(seconds: float) -> Callable[[], bool]:
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() > ends


class Bench(ArqonBusProcess):
    """The bus under attack."""

    command = ("serve",)

    def __init__(self, directory: Path, transport: str) -> None:
        overrides = (
            f"state_dir={directory / 'state'}",
            f"server.port={free_port()}",
            f"telemetry.port={free_port()}",
            f"server.transport={transport}",
            "storage.backend=memory",
            *LIMITS,
        )
        super().__init__(directory / "bus.log", *overrides)
        loaded = load("dev", root=ROOT, environ={}, overrides=list(overrides))
        self.settings: Settings = with_dev_key(loaded.settings)

    def token(self, tenant: str) -> str:
        return mint(self.settings, Claims(tenant, tenant, 600, "human", "user", [parse_grant("*:*")]))

    def memory(self) -> float:
        """MiB that are resident."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) / 256


async def measure(name: str, transport: str, seconds: float) -> Result:
    with tempfile.TemporaryDirectory() as directory:
        bus = Bench(Path(directory), transport)
        bus.launch()
        port = bus.settings.server.port
        attacker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.fairness", "--attack", name, "--port", str(port),
            "--seconds", str(seconds), "--token", bus.token("attacker"),
            stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        try:
            assert attacker.stdout is not None
            assert attacker.stdin is not None
            assert (await attacker.stdout.readline()).strip() == b"ready"
            quiet = await acks(port, bus.token("victim"), after(min(seconds, 3)))
            before = bus.memory()
            attacker.stdin.write(b"go\n")
            ending = asyncio.create_task(attacker.stdout.readline())
            highest = asyncio.create_task(watch(bus, before))
            found = await acks(port, bus.token("victim"), ending.done)
            sent = int((await ending) or 0)
            highest.cancel()
            grown = PEAK[0] - before
        finally:
            with contextlib.suppress(ProcessLookupError):
                attacker.kill()
            await attacker.wait()
            bus.kill()
    p50, p99 = percentile(found, 0.5), percentile(found, 0.99)
    return Result(name, percentile(quiet, 0.99), p50, p99, max(found), grown, sent / 2**20)


PEAK = [0.0]


async def watch(bus: Bench, before: float) -> None:
    PEAK[0] = before
    while True:
        PEAK[0] = max(PEAK[0], bus.memory())
        await asyncio.sleep(0.05)


async def run(names: list[str], transport: str, seconds: float, as_json: bool) -> int:
    results = []
    for name in names:
        results.append(await measure(name, transport, seconds))
        print(asdict(results[-1]) if as_json else results[-1], file=sys.stderr)
    if as_json:
        print(json.dumps([asdict(each) | {"passed": each.passed} for each in results], indent=1))
    else:
        heads = ("attack", "quiet p99", "p50", "p99", "max ms", "MiB more", "MiB sent", "passed")
        print_table(
            heads,
            [
                (each.attack, *(f"{v:.1f}" for v in list(asdict(each).values())[1:]), str(each.passed))
                for each in results
            ],
        )
    return int(not all(each.passed for each in results))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", action="append", choices=ATTACKS)
    parser.add_argument("--transport", choices=("picows", "websockets"), default="picows")
    parser.add_argument("--json", action="store_true")
    for internal in ("--attack", "--token"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        asyncio.run(attack(given.attack, given.port, given.token, given.seconds))
        return 0
    work: Awaitable[int] = run(given.only or list(ATTACKS), given.transport, given.seconds, given.json)
    return asyncio.run(work)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
