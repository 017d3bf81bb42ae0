"""Private Valkey servers: one alone, or three primaries as a cluster, with the append-only file on.

One with replicas and sentinels is in valkey_sentinel.py.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import hiredis

from tests.servers.processes import Process, binary, free_port, wait_until

SLOTS = 16384


class ValkeyServer:
    """One server. It keeps its port and its files over a restart.

    `host` is where it listens; `prefix` comes before its command, such as what enters a network namespace.
    """

    def __init__(
        self, directory: Path, *options: str, host: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.options = options
        self.host = host
        self.prefix = prefix
        self.port = free_port()
        self.log = directory / "server.log"
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"valkey://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start it, and return when it answers."""
        arguments = [
            *self.prefix, binary("valkey-server", "valkey-server"),
            "--bind", self.host, "--port", str(self.port), "--protected-mode", "no",
            "--dir", str(self.directory), "--save", "", "--appendonly", "yes",
            "--appendfsync", "always", "--daemonize", "no", *self.options,
        ]  # fmt: skip
        self._process = Process(arguments, self.log)
        process = self._process

        def answers() -> bool:
            if not process.running:
                raise RuntimeError(self.log.read_text()[-2000:])
            with contextlib.suppress(OSError, hiredis.ReplyError):
                return self.ask("PING") == b"PONG"
            return False

        wait_until(answers, f"valkey-server on port {self.port}")

    def kill(self) -> None:
        """SIGKILL: what was not written is lost."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """SIGTERM: it ends in order."""
        assert self._process is not None
        self._process.signal(signal.SIGTERM)
        wait_until(lambda: not self.running, f"the end of the server on port {self.port}")

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and answers nobody."""
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT, if it was not killed meanwhile."""
        if self.running and self._process is not None:
            self._process.signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it, and start it again from its files."""
        self.kill()
        self.start()

    def ask(self, *command: str | int | bytes) -> object:
        """One command over a connection of its own. Raises OSError, or ReplyError as the server gives it."""
        reader = hiredis.Reader(notEnoughData=self)
        with socket.create_connection((self.host, self.port), 5) as connection:
            connection.sendall(hiredis.pack_command(command))
            while (reply := reader.gets()) is self:
                data = connection.recv(65536)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply


def tls_options(port: int, certificate: Path, key: Path, authority: Path) -> Sequence[str]:
    """What lets a server speak TLS on this port, beside its other one. It asks clients for no certificate."""
    return (
        "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(authority), "--tls-auth-clients", "no",
    )  # fmt: skip


class ValkeyCluster:
    """Three primaries that share the slots in three ranges; `replicas` follow each of them."""

    def __init__(self, directory: Path, replicas: int = 0) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        self.servers: Sequence[ValkeyServer] = [
            ValkeyServer(directory / str(number), *options) for number in range(3)
        ]
        self.replicas: Sequence[ValkeyServer] = [
            ValkeyServer(directory / f"replica-{number}", *options) for number in range(3 * replicas)
        ]

    @property
    def everyone(self) -> Sequence[ValkeyServer]:
        """Primaries and replicas."""
        return [*self.servers, *self.replicas]

    @property
    def urls(self) -> list[str]:
        """Where its servers listen."""
        return [server.url for server in self.servers]

    def start(self) -> None:
        """Start the servers and join them; returns when each of them says that the cluster is whole."""
        for server in self.everyone:
            server.start()
        share = SLOTS // len(self.servers) + 1
        for number, server in enumerate(self.servers):
            last = min(share * (number + 1), SLOTS) - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", share * number, last)
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.everyone[1:]:
            server.ask("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        wait_until(self.is_whole, "the cluster to become whole")
        for number, replica in enumerate(self.replicas):
            replica.ask("CLUSTER", "REPLICATE", self.node_id(self.servers[number % len(self.servers)]))
        wait_until(self.is_replicated, "the replicas of the cluster")

    def is_whole(self) -> bool:
        """Whether every server sees all of them, and all slots served."""
        known = b"cluster_known_nodes:%d\r" % len(self.everyone)
        infos = [bytes(server.ask("CLUSTER", "INFO")) for server in self.everyone]  # type: ignore[arg-type]
        return all(b"cluster_state:ok" in info and known in info for info in infos)

    def is_replicated(self) -> bool:
        """Whether each server that was started as a replica, or became one, is in step with its primary."""
        infos = [bytes(server.ask("INFO", "replication")) for server in self.everyone]  # type: ignore[arg-type]
        followers = [info for info in infos if b"role:slave" in info]
        return len(followers) == len(self.replicas) and all(b"link_status:up" in info for info in followers)

    def kill(self) -> None:
        """SIGKILL all of them."""
        for server in self.everyone:
            server.kill()

    def node_id(self, server: ValkeyServer) -> bytes:
        """The name of a server in the cluster."""
        return bytes(server.ask("CLUSTER", "MYID"))  # type: ignore[arg-type]

    def move_slot(self, slot: int, source: ValkeyServer, target: ValkeyServer) -> None:
        """Move one slot with its keys, as an operator's resharding does."""
        source_id, target_id = self.node_id(source), self.node_id(target)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            assert isinstance(keys, list)
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for server in (target, source):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        for server in set(self.everyone) - {target, source}:
            # The others learn it by gossip too; a replica refuses to be told.
            with contextlib.suppress(hiredis.ReplyError, OSError):
                server.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def owner(self, slot: int) -> ValkeyServer:
        """Who serves a slot, by the first server's map."""
        asked = next(server for server in self.everyone if server.running)
        ranges = asked.ask("CLUSTER", "SLOTS")
        assert isinstance(ranges, list)
        for begin, end, primary, *_ in ranges:
            if begin <= slot <= end:
                return next(server for server in self.everyone if server.port == primary[1])
        raise LookupError(f"slot {slot} is served by nobody")


@contextlib.contextmanager
def running_server(directory: Path, *options: str) -> Iterator[ValkeyServer]:
    """A server for the time of a with block."""
    server = ValkeyServer(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def running_cluster(directory: Path, replicas: int = 0) -> Iterator[ValkeyCluster]:
    """A cluster for the time of a with block."""
    cluster = ValkeyCluster(directory, replicas)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
