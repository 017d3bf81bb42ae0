"""Starts one server, pinned to one processor, and reads what it cost from the operating system."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from arqonbus.config import load, with_dev_key
from arqonbus.shield.tokens import Claims, mint
from benchmarks import scenario
from benchmarks.scenario import Speech
from tests.servers.processes import free_port

HERE = Path(__file__).parent
SERVER_CPU = "0"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Running:
    """A server that answers on a loopback port."""

    pid: int
    port: int
    speech: Speech

    def cpu_seconds(self) -> float:
        """User and system time of the process since its start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _process(command: list[str], port: int, directory: str) -> Iterator[int]:
    with (Path(directory) / "log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", SERVER_CPU, *command], stdout=log, stderr=log, cwd=directory
        )
    try:
        _await_port(process, port, Path(directory) / "log")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended: {log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args} does not answer on port {port}")


@contextmanager
def arqonbus(directory: str, *overrides: str) -> Iterator[Running]:
    """The bus as it is served, with auth, validation, sequences and acks; only its rate limits are off."""
    port = free_port()
    settings = [
        f"state_dir={directory}",
        f"server.port={port}",
        f"telemetry.port={free_port()}",
        "server.max_connections=100000",
        "limits.messages_per_second=0",
        "limits.bytes_per_second=0",
        "limits.send_queue_bytes=16MiB",
        *overrides,
    ]
    flags = [flag for value in settings for flag in ("--set", value)]
    root = HERE.parent
    code = "import sys; from arqonbus.cli import main; sys.exit(main())"
    os.environ["ARQONBUS_PROFILES_DIR"] = str(root / "profiles")
    os.environ["PYTHONPATH"] = str(root)
    with _process([sys.executable, "-c", code, "serve", "--json", *flags], port, directory) as pid:
        resolved = with_dev_key(load("dev", root=root, environ={}, overrides=settings).settings)
        yield Running(pid, port, scenario.arqonbus(mint(resolved, Claims("bench", "bench", 3600))))


@contextmanager
def nats(directory: str) -> Iterator[Running]:
    port = free_port()
    (Path(directory) / "nats.conf").write_text(
        f'port: {free_port()}\nhost: "127.0.0.1"\nmax_pending: 268435456\nwrite_deadline: "30s"\n'
        f'websocket {{ host: "127.0.0.1", port: {port}, no_tls: true, compression: false }}\n'
    )
    with _process(["nats-server", "-c", "nats.conf"], port, directory) as pid:
        yield Running(pid, port, scenario.nats())


@contextmanager
def mosquitto(directory: str) -> Iterator[Running]:
    port = free_port()
    # Version 2.0.11 does not start with WebSocket listeners alone.
    (Path(directory) / "m.conf").write_text(
        f"listener {free_port()} 127.0.0.1\nlistener {port}\nprotocol websockets\nallow_anonymous true\n"
        "max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\nuser root\n"
    )
    with _process(
        [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", "m.conf"], port, directory
    ) as pid:
        yield Running(pid, port, scenario.mosquitto())


@contextmanager
def node_ws(directory: str) -> Iterator[Running]:
    port = free_port()
    with _process(["node", str(HERE / "peers" / "ws.js"), str(port)], port, directory) as pid:
        yield Running(pid, port, scenario.plain())


@contextmanager
def socketio(directory: str) -> Iterator[Running]:
    port = free_port()
    with _process(["node", str(HERE / "peers" / "socketio.js"), str(port)], port, directory) as pid:
        yield Running(pid, port, scenario.socketio())


@contextmanager
def websockets(directory: str) -> Iterator[Running]:
    port = free_port()
    script = str(HERE / "peers" / "websockets_broadcast.py")
    with _process([sys.executable, script, str(port)], port, directory) as pid:
        yield Running(pid, port, scenario.plain())


@contextmanager
def valkey(directory: str) -> Iterator[Running]:
    port = free_port()
    command = [
        "valkey-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    command += ["--client-output-buffer-limit", "pubsub 0 0 0"]
    with _process(command, port, directory) as pid:
        yield Running(pid, port, scenario.valkey())


@contextmanager
def started(name: str) -> Iterator[Running]:
    """The server of that name in a directory of its own."""
    history_off = 'rooms=[{"match": "*", "history": "off"}]'
    makers = {
        "arqonbus": lambda d: arqonbus(d, "storage.backend=memory"),
        "arqonbus, no history": lambda d: arqonbus(d, "storage.backend=memory", history_off),
        "arqonbus, sqlite": lambda d: arqonbus(d, "storage.backend=sqlite"),
        "nats-server": nats,
        "mosquitto": mosquitto,
        "Node ws": node_ws,
        "Socket.IO": socketio,
        "websockets": websockets,
        "Valkey (TCP)": valkey,
    }
    with tempfile.TemporaryDirectory() as directory, makers[name](directory) as running:
        yield running


__all__ = ["Running", "started"]
