"""A small deployment: Valkey, PostgreSQL, a bus, a projector, and a Continuum that tells of its episodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import yaml

from arqonbus.shield.tokens import Claims, mint
from arqonbus.storage.postgres import migrate
from examples.continuum.continuum import Continuum
from tests.runbooks.host import Service, host
from tests.servers.arqonbus import REPOSITORY, ArqonBusProcess
from tests.servers.bus import BusProcess
from tests.servers.postgres import ROLE, PostgresServer
from tests.servers.processes import Process, wait_until
from tests.servers.projector import ProjectorProcess, stores
from tests.servers.valkey import ValkeyServer, running_server

TENANT = "acme"
OPTIONS = ("limits.messages_per_second=0", "storage.dedup_window=0.1")


class ClientProcess:
    """One of our commands that talks to the bus until it is ended, as a service of somebody's."""

    def __init__(self, root: Path, name: str, url: str, *words: str) -> None:
        self.log = root / "log" / f"{name}.log"
        self._command = [
            "env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "arqonbus", *words,
            "--url", url, "--token-file", str(root / "token"), "--json",
        ]  # fmt: skip
        self.process: Process | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.running

    def launch(self) -> None:
        """Start it."""
        self.process = Process(self._command, self.log)

    def stop(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()


class Job:
    """Something that is done over and over until it is stopped, as a script of somebody's would."""

    def __init__(self, log: Path, work: Callable[[], object], pause: float = 0.2) -> None:
        self.log, self._work, self._pause = log, work, pause
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        log.touch()

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._thread is not None

    def launch(self) -> None:
        """Start it."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._repeat)
        self._thread.start()

    def _repeat(self) -> None:
        while not self._ending.wait(self._pause):
            said = self._work()
            with self.log.open("a") as log:
                log.write(f"{said or ''}")

    def stop(self) -> None:
        """End it, after what it is doing."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def service(process: ArqonBusProcess | ClientProcess | Job) -> Service:
    """One of our processes behind systemctl."""
    return Service(process.launch, process.stop, lambda: process.running, process.log)


class Stack:
    """The deployment in which a runbook is worked through. Only the stores and the bus run at first."""

    def __init__(
        self,
        root: Path,
        postgres: PostgresServer,
        database: str,
        valkey: ValkeyServer,
        options: Sequence[str],
    ) -> None:
        self.root, self.postgres, self.database, self.valkey = root, postgres, database, valkey
        secret = secrets.token_urlsafe(32)
        given = (*OPTIONS, f"auth.jwt.secret={secret}", *options)
        self.bus = BusProcess(root / "log", *stores(valkey, postgres, database), *given)
        self.projector = ProjectorProcess(root / "log/projector.log", valkey, postgres, database)
        self.exporter = ClientProcess(root, "export", self.bus.url, "export", str(root / "memory.db"))
        self.memory = Continuum(root / "memory.db")
        self.memory.create(TENANT)
        self.environ: dict[str, str] = {}
        self.services = self._services()
        self._added: list[Job | ClientProcess] = []
        (root / "profiles").mkdir()
        shutil.copy(REPOSITORY / "profiles/base.yaml", root / "profiles")
        self.profile("prod", database)
        (root / "token").write_text(self.token("continuum"))
        (root / "secrets").mkdir(0o700)
        for name, value in (("postgres_password", postgres.password), ("jwt_secret", secret)):
            (root / "secrets" / name).write_text(value)
            (root / "secrets" / name).chmod(0o600)

    def token(self, subject: str) -> str:
        """A token of an operator or a service of the tenant."""
        return mint(self.bus.settings, Claims(TENANT, subject, 3600, role="admin"))

    def profile(self, name: str, database: str) -> None:
        """Write the profile that the operator names."""
        place = self.root / "profiles" / name / "profile.yaml"
        place.parent.mkdir()
        store = {
            "host": "127.0.0.1", "port": self.postgres.port, "database": database, "user": ROLE,
            "password": {"from": "credential", "name": "postgres_password"}, "sslmode": "disable",
        }  # fmt: skip
        datastores = {"valkey": {"url": self.valkey.url}, "postgres": store}
        told = {
            "environment": name,
            "storage": {"backend": "valkey"},
            "datastores": datastores,
            "auth": {"jwt": {"secret": {"from": "credential", "name": "jwt_secret"}}},
            "backup": {"directory": str(self.root / "backups")},
        }
        place.write_text(yaml.safe_dump(told))

    def job(self, name: str, work: Callable[[], object], pause: float = 0.2) -> Job:
        """One more service, which is running."""
        added = Job(self.root / "log" / f"{name}.log", work, pause)
        self._add(name, added)
        return added

    def client(self, name: str, *words: str) -> ClientProcess:
        """One more service that is a command of ours, and is running."""
        added = ClientProcess(self.root, name, self.bus.url, *words)
        self._add(name, added)
        return added

    def _add(self, name: str, added: Job | ClientProcess) -> None:
        self._added.append(added)
        self.services[name] = service(added)
        added.launch()

    def _services(self) -> dict[str, Service]:
        """What systemctl knows."""
        return {
            "arqonbus@1": service(self.bus),
            "arqonbus-projector": service(self.projector),
            "continuum-export": service(self.exporter),
            "valkey-server": Service(
                self.valkey.start, self.valkey.kill, lambda: self.valkey.running, self.valkey.log
            ),
            "postgresql": Service(
                self.postgres.start, self.postgres.stop, lambda: self.postgres.running, self.postgres.log
            ),
        }  # fmt: skip

    def end_jobs(self) -> None:
        """Stop what the scene added."""
        for each in self._added:
            each.stop()

    # -- what scenes are made of

    def run(self, *words: str) -> str:
        """A command of the bus, typed before the scene begins."""
        done = subprocess.run(
            [self.root / "bin/arqonbus", *words], cwd=self.root, env=self.environ, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sql(self, statement: str) -> str:
        """Done by somebody with every right."""
        return self.postgres.ask(statement, self.database)

    def producing(self, good: bool = True) -> None:
        """Agents go on: an episode now and then, or what is none."""

        def make() -> None:
            memory = Continuum(self.root / "memory.db")
            memory.remember("agent-1", "body") if good else memory.poison()
            memory.close()

        self.job("agents" if good else "agent-2", make)

    def remember(self, count: int, agent: str = "agent-1") -> list[str]:
        """New episodes in Continuum; they stand in its outbox."""
        return [self.memory.remember(agent, f"body {number}", ("chat",)) for number in range(count)]

    def metric(self, name: str, port: int | None = None) -> float:
        """A figure of the projector, or of another process; -1 where it is not there."""
        with contextlib.suppress(httpx.HTTPError):
            text = httpx.get(f"http://127.0.0.1:{port or self.projector.port}/metrics", timeout=5).text
            for line in text.splitlines():
                if line.startswith(f"{name} "):
                    return float(line.rpartition(" ")[2])
        return -1.0

    def reaches(self, name: str, holds: Callable[[float], bool], port: int | None = None) -> None:
        """Returns when a figure is so."""
        wait_until(lambda: holds(self.metric(name, port)), name, 30)

    def late(self, of: float) -> float:
        """How many of so many events were projected more than five seconds after they came."""
        return of - self.metric('arqonbus_projection_lag_seconds_bucket{le="5.0"}')

    def told(self) -> int:
        """Up to which event of its outbox Continuum has told."""
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads((self.root / "memory.db.cursor").read_text())["position"])
        return 0

    def projected(self, count: int) -> None:
        """Returns when so many records are in the books."""
        wait_until(
            lambda: int(self.sql("SELECT coalesce(sum(arrived), 0) FROM arqonbus.books")) >= count,
            f"{count} records in the books",
        )


@contextmanager
def stack(
    root: Path, postgres: PostgresServer, *options: str, valkey: ValkeyServer | None = None
) -> Iterator[Stack]:
    """A deployment for the time of a with block, with the bus up; on a Valkey of its own if none is given."""
    with ExitStack() as ending:
        database = ending.enter_context(postgres.database())
        asyncio.run(migrate.apply(postgres.settings(database).datastores.postgres))
        valkey = valkey or ending.enter_context(running_server(root / "valkey"))
        one = Stack(root, postgres, database, valkey, options)
        ending.callback(one.memory.close)
        for end in (one.bus.kill, one.projector.kill, one.exporter.stop):
            ending.callback(end)
        ending.callback(one.end_jobs)
        ending.callback(lambda: postgres.running or postgres.start())
        one.bus.start()
        one.environ = ending.enter_context(host(root, one.services))
        one.environ |= {
            "PROJECTOR": f"http://127.0.0.1:{one.projector.port}",
            "BUS": one.bus.health,
            "BUS_PORT": str(one.bus.settings.server.port),
            "VALKEY": f"redis://127.0.0.1:{valkey.port}",
            "DATA": str(valkey.directory),
            "BACKUPS": str(root / "backups"),
            "CREDENTIALS_DIRECTORY": str(root / "secrets"),
            "ARQONBUS_URL": one.bus.url,
            "ARQONBUS_TOKEN": one.token("operator"),
        }
        one.environ |= {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(postgres.port),
            "PGUSER": ROLE,
            "PGPASSWORD": postgres.password,
            "PGDATABASE": database,
        }
        yield one


__all__ = ["TENANT", "Stack", "stack"]
