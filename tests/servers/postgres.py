"""A private Postgres, the newest that is installed: a cluster of its own, with passwords as in production.

Postgres refuses to run as root; then the cluster belongs to an unprivileged user of the system.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

from arqonbus.config import Settings, load
from tests.servers.processes import free_port, wait_until

OLDEST = 15
ROLE = "arqonbus"


class PostgresServer:
    """One cluster. It keeps its port and its files over a restart."""

    def __init__(self, *options: str) -> None:
        """`options` go after our own, so that they hold."""
        self._options = options
        self._binaries = _binaries()
        self.port = free_port()
        self.password = secrets.token_urlsafe(16)
        self._owner = _unprivileged()
        # Not below pytest's directories: those are closed to other users.
        self._directory = Path(mkdtemp(prefix="arqonbus-postgres-", dir="/tmp"))
        self.log = self._directory / "server.log"
        self._child: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the cluster, and start it."""
        password = self._directory / "password"
        password.write_text(self.password, "ascii")
        if self._owner is not None:
            for path in (self._directory, password):
                os.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        self._run(
            "initdb", "--pgdata", str(self._directory / "data"), "--username", ROLE, "--auth",
            "scram-sha-256", "--pwfile", str(password), "--encoding", "UTF8", "--locale", "C", "--no-sync",
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        command = [
            str(self._binaries / "postgres"), "-D", str(self._directory / "data"), "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._directory}",
            "-c", "fsync=off", "-c", "max_connections=40", *self._options,
        ]  # fmt: skip
        with self.log.open("ab") as output:
            before = output.tell()
            child = self._child = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **self._as_owner()
            )

        def ready() -> bool:
            if child.poll() is not None:
                raise RuntimeError(self.log.read_text()[-2000:])
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return b"ready to accept connections" in self.log.read_bytes()[before:]
            return False

        wait_until(ready, f"postgres on port {self.port}")

    def encrypt(self, certificate: Path, key: Path) -> None:
        """Speak TLS with these files from now on; connections that exist stay as they are."""
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            target = self._directory / "data" / name
            target.write_bytes(source.read_bytes())
            target.chmod(0o600)
            if self._owner is not None:
                os.chown(target, self._owner.pw_uid, self._owner.pw_gid)
        self.ask("ALTER SYSTEM SET ssl = on")
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def stop(self) -> None:
        """End it at once; its child processes end with it."""
        if self._child is not None and self.running:
            self._child.send_signal(signal.SIGQUIT)
            self._child.wait(10)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the postmaster. Killed, it takes its children along; stopped, it admits nobody."""
        assert self._child is not None
        self._child.send_signal(number)

    def remove(self) -> None:
        """Stop it, and remove its files."""
        self.stop()
        shutil.rmtree(self._directory)

    def ask(self, statement: str, database: str = "postgres") -> str:
        """One statement's result as psql prints it. Raises CalledProcessError."""
        return self._run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, self._dsn(database))

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """A copy of a database, by default an empty one, for the time of a with block."""
        name = f"test_{secrets.token_hex(4)}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            self.ask(f"DROP DATABASE {name} WITH (FORCE)")

    def settings(self, database: str, *overrides: str) -> Settings:
        """The dev profile with this server as its durable store."""
        given = {
            "url": f"postgresql://127.0.0.1:{self.port}/{database}",
            "user": ROLE,
            "password": self.password,
            "sslmode": "disable",
        }
        ours = [f"datastores.postgres.{name}={value}" for name, value in given.items()]
        root = Path(__file__).parents[2]
        return load("dev", root=root, environ={}, overrides=[*ours, *overrides]).settings

    def _dsn(self, database: str) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def _run(self, name: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._binaries / name, *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "PGPASSWORD": self.password, "LC_ALL": "C"},
            **self._as_owner(),
        )
        return done.stdout.strip()

    def _as_owner(self) -> dict[str, object]:
        options: dict[str, object] = {"cwd": self._directory}
        if self._owner is not None:
            options |= {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}
        return options


def _binaries() -> Path:
    """Where the newest Postgres of this machine has its programs."""
    found = {
        int(path.parents[1].name): path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
        if path.parents[1].name.isdigit()
    }
    if not found or max(found) < OLDEST:
        raise RuntimeError(
            f"no PostgreSQL of version {OLDEST} or newer is installed; "
            "run: scripts/install-test-servers postgresql"
        )
    return found[max(found)]


def _unprivileged() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@contextlib.contextmanager
def running_postgres(*options: str) -> Iterator[PostgresServer]:
    """A server for the time of a with block."""
    server = PostgresServer(*options)
    try:
        server.create()
        yield server
    finally:
        server.remove()


__all__ = ["PostgresServer", "running_postgres"]
