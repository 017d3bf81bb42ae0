"""A Valkey primary with replicas, and sentinels that watch them and elect another when it is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import hiredis

from tests.servers.processes import Process, binary, wait_until
from tests.servers.valkey import ValkeyServer

SERVICE = "arqonbus"


class Sentinel(ValkeyServer):
    """One sentinel. It speaks the protocol of a Valkey server, and keeps what it knows in its own file."""

    def __init__(self, directory: Path, primary: ValkeyServer, *lines: str) -> None:
        super().__init__(directory)
        self._primary = primary
        self._lines = lines

    def start(self) -> None:
        """Start it, and return when it answers."""
        file = self.directory / "sentinel.conf"
        if not file.exists():
            file.write_text("\n".join(self._settings()) + "\n", "ascii")
        command = [binary("valkey-sentinel", "valkey-sentinel"), str(file)]
        process = self._process = Process(command, self.log)

        def answers() -> bool:
            if not process.running:
                raise RuntimeError(self.log.read_text()[-2000:])
            try:
                return self.ask("PING") == b"PONG"
            except hiredis.ReplyError as refusal:  # it wants a password, so it listens
                return "NOAUTH" in str(refusal)
            except OSError:
                return False

        wait_until(answers, f"valkey-sentinel on port {self.port}")

    def knows_of_two_dead(self) -> bool:
        """Whether it sees two of the other sentinels dead."""
        others = self.ask("SENTINEL", "SENTINELS", SERVICE)
        assert isinstance(others, list)
        flags = [dict(zip(other[::2], other[1::2], strict=True))[b"flags"] for other in others]
        return sum(b"s_down" in flag for flag in flags) == 2

    def _settings(self) -> Sequence[str]:
        return (
            f"port {self.port}",
            f"bind {self.host}",
            "protected-mode no",
            f"dir {self.directory}",
            f"sentinel monitor {SERVICE} {self._primary.host} {self._primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 700",
            f"sentinel failover-timeout {SERVICE} 4000",
            f"sentinel parallel-syncs {SERVICE} 2",
            *self._lines,
        )


class WatchedValkey:
    """A primary with two replicas and three sentinels. Each keeps its port and its files over a restart."""

    def __init__(self, directory: Path) -> None:
        # A primary that was cut off stops taking writes that no replica has.
        options = ("--repl-diskless-sync-delay", "0", "--repl-timeout", "10")
        self.servers: Sequence[ValkeyServer] = [
            ValkeyServer(directory / str(number), *options) for number in range(3)
        ]
        for server in self.servers[1:]:
            server.options = (*options, "--replicaof", f"{self.servers[0].host} {self.servers[0].port}")
        self.sentinels: Sequence[Sentinel] = [
            Sentinel(directory / f"sentinel-{number}", self.servers[0]) for number in range(3)
        ]

    @property
    def nodes(self) -> list[str]:
        """The sentinels as a profile names them."""
        return [f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels]

    def start(self) -> None:
        """Start all of them; returns when the replicas are in step and the sentinels know each other."""
        for server in (*self.servers, *self.sentinels):
            server.start()
        wait_until(self.is_whole, "the replicas, and the sentinels to know them and each other", 60.0)

    def is_whole(self) -> bool:
        """Whether two replicas are in step with the one primary, and every sentinel knows them all."""
        with contextlib.suppress(OSError, hiredis.ReplyError, LookupError):
            primary = self.primary()
            for server in self.servers:
                info = bytes(server.ask("INFO", "replication"))  # type: ignore[arg-type]
                if server is primary:
                    if b"role:master" not in info or b"connected_slaves:2" not in info:
                        return False
                elif b"role:slave" not in info or b"link_status:up" not in info:
                    return False
            return all(self._knows(sentinel, primary) for sentinel in self.sentinels)
        return False

    @staticmethod
    def _knows(sentinel: Sentinel, primary: ValkeyServer) -> bool:
        answer = sentinel.ask("SENTINEL", "MASTER", SERVICE)
        assert isinstance(answer, list)
        facts = dict(zip(answer[::2], answer[1::2], strict=True))
        return (
            facts[b"flags"] == b"master"
            and int(facts[b"port"]) == primary.port
            and int(facts[b"num-slaves"]) == 2
            and int(facts[b"num-other-sentinels"]) == 2
        )

    def primary(self) -> ValkeyServer:
        """Who it is, as the first sentinel that runs says. Raises LookupError, OSError."""
        for sentinel in self.sentinels:
            if sentinel.running:
                answer = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                assert isinstance(answer, list)
                return next(server for server in self.servers if server.port == int(answer[1]))
        raise LookupError("no sentinel runs")

    def wait_for_another(self, than: ValkeyServer) -> ValkeyServer:
        """The new primary, once the sentinels agree on one and it takes writes."""

        def agreed() -> bool:
            with contextlib.suppress(OSError, hiredis.ReplyError):
                primary = self.primary()
                return primary is not than and primary.ask("ROLE")[0] == b"master"  # type: ignore[index]
            return False

        wait_until(agreed, "the sentinels to elect another primary", 30.0)
        return self.primary()

    def kill(self) -> None:
        """SIGKILL all of them."""
        for server in (*self.sentinels, *self.servers):
            server.kill()


@contextlib.contextmanager
def running_watched(directory: Path) -> Iterator[WatchedValkey]:
    """A primary, its replicas and sentinels for the time of a with block."""
    watched = WatchedValkey(directory)
    try:
        watched.start()
        yield watched
    finally:
        watched.kill()


__all__ = ["SERVICE", "Sentinel", "WatchedValkey", "running_watched"]
