"""The scenes of the runbooks that need servers: the fault is made for real before anything is typed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from arqonbus.client import Client, ClientError, Rejected
from arqonbus.config import load
from arqonbus.continuum.events import ROOM, encode_event
from arqonbus.protocol.envelope import JSON_CONTENT
from arqonbus.shield.grants import parse_grant
from arqonbus.shield.tokens import Claims, mint
from tests.runbooks.host import Service
from tests.runbooks.stack import TENANT, Stack, stack
from tests.servers.arqonbus import REPOSITORY
from tests.servers.certificates import Authority
from tests.servers.episodes import event
from tests.servers.issuer import Issuer
from tests.servers.postgres import PostgresServer
from tests.servers.processes import wait_until
from tests.servers.valkey import ValkeyServer

RETENTION = 'rooms=[{"match": "continuum.episode.*", "history": {"max_messages": 0, "max_age": 2}}]'

Scene = Callable[[Path, PostgresServer], AbstractContextManager[Stack]]


@contextmanager
def damaged_projection(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """A backup of last night, and since then somebody wrote into the tables by hand; staging is empty."""
    with stack(root, postgres) as one, postgres.database() as staging:
        one.profile("staging", staging)
        one.remember(40)
        one.memory.poison()
        one.exporter.launch()
        one.projector.start()
        one.projected(41)
        (letter,) = one.sql("SELECT id FROM arqonbus.dead_letters").split()
        one.run("dlq", "discard", letter, "--reason", "a test", "--tenant", TENANT, "--profile", "prod")
        one.run("backup", "--profile", "prod")
        one.remember(5)
        one.projected(46)
        one.sql("SET session_replication_role = replica; UPDATE arqonbus.episodes SET content_ref = 'other'")
        one.sql("SET session_replication_role = replica; UPDATE arqonbus.audit SET actor = 'mallory'")
        one.sql("UPDATE arqonbus.books SET arrived = arrived + 3")
        yield one


@contextmanager
def projecting(
    root: Path, postgres: PostgresServer, *options: str, valkey: ValkeyServer | None = None
) -> Iterator[Stack]:
    """All is well: three episodes were projected, the exporter follows."""
    with stack(root, postgres, *options, valkey=valkey) as one:
        one.remember(3)
        one.exporter.launch()
        one.projector.start()
        one.projected(3)
        yield one


@contextmanager
def stalled(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """PostgreSQL is down, and events go on coming."""
    with projecting(root, postgres) as one:
        postgres.stop()
        one.remember(5)
        one.reaches("arqonbus_projection_store_up", lambda value: value == 0)
        yield one


@contextmanager
def lagging(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """A report holds a lock for seconds, over and over."""
    with projecting(root, postgres) as one:
        one.producing()
        holding = "BEGIN; LOCK TABLE arqonbus.books IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(6); COMMIT;"
        with subprocess.Popen(
            ["psql", "-XAtq"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**one.environ, "PGAPPNAME": "nightly-report"}, text=True,
        ) as report:  # fmt: skip
            assert report.stdin is not None
            report.stdin.write(f"{holding}\n" * 100)
            report.stdin.flush()
            try:
                one.reaches("arqonbus_projection_lag_seconds_count", lambda value: one.late(value) > 0)
                yield one
            finally:
                report.kill()
                with contextlib.suppress(BrokenPipeError):
                    report.stdin.close()


@contextmanager
def missed(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """The projector was down for longer than the log keeps events."""
    with projecting(root, postgres, RETENTION) as one:
        one.projector.stop()
        one.remember(50)
        wait_until(lambda: one.told() == 53, "the events in the log")
        ended = time.monotonic() + 2.5
        wait_until(lambda: time.monotonic() > ended, "their end")
        one.remember(1)
        wait_until(lambda: one.told() == 54, "one more event in the log")
        one.projector.start()
        one.reaches("arqonbus_projection_missed_total", lambda value: value > 0)
        yield one


@contextmanager
def unbalanced(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """Somebody changed the books by hand after the last backup."""
    with projecting(root, postgres) as one:
        one.run("backup", "--profile", "prod")
        one.remember(4)
        one.projected(7)
        one.projector.stop()
        one.sql("UPDATE arqonbus.books SET arrived = arrived + 3")
        one.projector.start()
        one.reaches("arqonbus_projection_books_difference", lambda value: value == 3)
        yield one


@contextmanager
def repeating(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """A job tells the whole outbox again and again."""
    with projecting(root, postgres) as one:
        one.remember(20)
        one.projected(23)
        one.producing()
        (root / "nightly").write_text(one.token("nightly-export"))
        words = [
            "export",
            "memory.db",
            "--cursor",
            "other",
            "--once",
            "--from-begin",
            "--token-file",
            "nightly",
        ]
        one.job("nightly-export", lambda: one.run(*words))
        one.reaches('arqonbus_projection_records_total{status="duplicate"}', lambda value: value > 40)
        yield one


@contextmanager
def letters(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """Two records that are no events came from a producer, and wait."""
    with projecting(root, postgres) as one:
        one.memory.poison()
        one.memory.poison()
        one.projected(5)
        one.projector.stop()
        one.projector.start()
        one.reaches('arqonbus_projection_rows{kind="dead_letters"}', lambda value: value == 2)
        yield one


@contextmanager
def letters_that_grow(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """One agent sends what is no event, and does not stop; the others go on."""
    with projecting(root, postgres) as one:
        one.producing()
        one.producing(good=False)
        one.reaches('arqonbus_projection_records_total{status="dead_lettered"}', lambda value: value > 2)
        yield one


@contextmanager
def replays_that_fail(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """A script replays a dead letter as it arrived, over and over."""
    with projecting(root, postgres) as one:
        one.memory.poison()
        one.projected(4)
        (letter,) = one.sql("SELECT id FROM arqonbus.dead_letters").split()
        one.job("replay-script", lambda: asyncio.run(_replayed(one, letter)))
        port = one.bus.settings.telemetry.port
        refused = (
            'arqonbus_commands_total{code="VALIDATION_ERROR",operation="op.continuum.projector.dlq.replay"}'
        )
        one.reaches(refused, lambda value: value > 2, port)
        yield one


async def _replayed(one: Stack, letter: str) -> None:
    async with Client(one.bus.url, one.token("replay-script")) as client:
        with contextlib.suppress(Rejected):
            await client.command("op.continuum.projector.dlq.replay", {"id": letter})


@contextmanager
def killed(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """The process of the bus was killed."""
    with stack(root, postgres) as one:
        one.bus.kill()
        yield one


@contextmanager
def refusing(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """A service publishes where it may not, over and over."""
    with stack(root, postgres) as one:
        grants = [parse_grant("reports:publish")]
        token = mint(one.bus.settings, Claims(TENANT, "reporter", 3600, "service", grants=grants))
        one.job("reporter", lambda: asyncio.run(_invoiced(one, token)))
        name = 'arqonbus_rejects_total{code="AUTHORIZATION_ERROR"}'
        one.reaches(name, lambda value: value > 2, one.bus.settings.telemetry.port)
        yield one


async def _invoiced(one: Stack, token: str) -> str:
    """Publish an invoice; what a service would write into its log if that fails, also with half a token."""
    try:
        async with Client(one.bus.url, token) as client:
            await client.publish("invoices", b"{}")
    except ClientError as error:
        return f"{error}\n"
    return ""


@contextmanager
def slow_reader(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """A client subscribed and reads no more: it hangs. A tenth of the worst case is 0.5 MiB here."""
    with stack(root, postgres, "server.max_connections=5", "limits.ping_timeout=300") as one:
        port = one.bus.settings.telemetry.port
        dashboard = one.client("dashboard", "subscribe", "prices")
        one.reaches("arqonbus_rooms", lambda value: value == 1, port)
        assert dashboard.process is not None
        dashboard.process.signal(signal.SIGSTOP)
        asyncio.run(_flooded(one, port))
        yield one


async def _flooded(one: Stack, port: int) -> None:
    async with Client(one.bus.url, one.token("prices")) as client:
        while one.metric("arqonbus_send_queue_bytes", port) < 600_000:
            await client.publish("prices", b"x" * 50_000)


@contextmanager
def slow_log(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """Somebody's script keeps Valkey busy for half a second, over and over."""
    with projecting(root, postgres) as one:
        one.producing()
        one.job("statistics", lambda: one.valkey.ask("EVAL", "for i = 1, 6e7 do end return 1", 0), 0.1)
        port, name = one.bus.settings.telemetry.port, "arqonbus_storage_append_seconds"
        one.reaches(
            f"{name}_count", lambda value: value > one.metric(f'{name}_bucket{{le="0.25"}}', port) >= 0, port
        )
        yield one


@contextmanager
def paused(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """The bus is not given the processor for half a second, over and over."""
    with stack(root, postgres) as one:

        def pause() -> None:
            one.bus.signal(signal.SIGSTOP)
            time.sleep(0.5)
            one.bus.signal(signal.SIGCONT)

        one.job("backup-of-the-host", pause, 0.3)
        port, name = one.bus.settings.telemetry.port, "arqonbus_loop_lag_seconds"
        one.reaches(
            f"{name}_count", lambda value: value > one.metric(f'{name}_bucket{{le="0.1"}}', port) + 2, port
        )
        yield one


@contextmanager
def without_engine(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """Valkey was killed, and the profile lets the bus go on."""
    with stack(root, postgres, "storage.mode=degraded") as one:
        one.valkey.kill()
        asyncio.run(_taken(one))
        one.reaches("arqonbus_degraded", lambda value: value == 1, one.bus.settings.telemetry.port)
        yield one


async def _taken(one: Stack) -> None:
    async with Client(one.bus.url, one.token("sensor"), timeout=30) as client:
        await client.publish("readings", b"{}")


@contextmanager
def without_issuer(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """The issuer of tokens was down when the bus started, and still is."""
    authority = Authority(root / "ca")
    issuer = Issuer(*authority.server("issuer"))
    issuer.stop()
    log = root / "issuer.log"
    log.touch()
    options = (
        'auth.jwt.algorithms=["HS256","ES256"]',
        f"auth.jwt.jwks_url={issuer.url}",
        f"auth.jwt.jwks_ca_file={authority.file}",
    )
    try:
        with stack(root, postgres, *options) as one:
            one.services["issuer"] = Service(issuer.start, issuer.stop, lambda: issuer.running, log)
            one.environ |= {"ISSUER": issuer.url, "ISSUER_CA": str(authority.file)}
            yield one
    finally:
        issuer.stop()


@contextmanager
def turned_away(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """A service was left with a token of a secret that is no longer good, and tries without a pause."""
    with stack(root, postgres) as one:
        other = load("dev", root=REPOSITORY, environ={}, overrides=[f"auth.jwt.secret={'x' * 43}"]).settings
        file = root / "billing.token"
        file.write_text(mint(other, Claims(TENANT, "billing", 3600, "service")))
        one.job("billing", lambda: asyncio.run(_invoiced(one, file.read_text().strip())), 0.1)
        name = 'arqonbus_connections_refused_total{code="UNAUTHENTICATED"}'
        one.reaches(name, lambda value: value > 2, one.bus.settings.telemetry.port)
        yield one


@contextmanager
def behind(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """The clock of one service is an hour behind, and that of another one was ahead."""
    with projecting(root, postgres) as one:
        spoken_of, ahead = one.remember(2)
        one.projected(5)
        asyncio.run(_summarized(one, ahead, timedelta(hours=1)))
        one.producing()
        one.job("summaries", lambda: asyncio.run(_summarized(one, spoken_of, timedelta(hours=-1))))
        one.reaches('arqonbus_projection_records_total{status="stale"}', lambda value: value > 2)
        yield one


async def _summarized(one: Stack, episode: str, ahead: timedelta) -> None:
    said = event(
        TENANT,
        "agent-1",
        episode,
        type="episode.summarized",
        source_ts=datetime.now(UTC) + ahead,
        summary="s",
    )
    async with Client(one.bus.url, one.token("summaries")) as client:
        await client.publish(ROOM, encode_event(said), content_type=JSON_CONTENT)


@contextmanager
def mixed_letters(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """Records of a defective producer, of somebody's test, and sound ones that PostgreSQL refused."""
    with projecting(root, postgres) as one:
        one.memory.poison()
        one.memory.poison()
        one.projected(5)
        rule = "ADD CONSTRAINT references_are_short CHECK (length(content_ref) < 5) NOT VALID"
        one.sql(f"ALTER TABLE arqonbus.episodes {rule}")
        one.remember(3)
        asyncio.run(_tried(one))
        one.projected(9)
        yield one


async def _tried(one: Stack) -> None:
    async with Client(one.bus.url, one.token("importer")) as client:
        draft = encode_event(event(TENANT, "importer", type="episode.draft"))
        await client.publish(ROOM, draft, content_type=JSON_CONTENT)


@contextmanager
def undrilled(root: Path, postgres: PostgresServer) -> Iterator[Stack]:
    """Nobody ever restored a backup, and the newest one was damaged on its disk."""
    with projecting(root, postgres) as one:
        one.run("backup", "--profile", "prod")
        first = time.time() // 1
        one.remember(5)
        one.projected(8)
        wait_until(lambda: time.time() // 1 > first, "the next second, which the next backup is named after")
        one.run("backup", "--profile", "prod")
        (newest,) = one.run("backup", "--list", "--profile", "prod").split()[-1:]
        dump = root / "backups" / newest / "postgres.dump"
        damaged = bytearray(dump.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        dump.write_bytes(damaged)
        yield one


SCENES: Mapping[str, Scene] = {
    "projector-migration-backup-restore": damaged_projection,
    "ArqonbusProjectionStalled": stalled,
    "ArqonbusProjectionLag": lagging,
    "ArqonbusProjectionMissed": missed,
    "ArqonbusProjectionBooks": unbalanced,
    "ArqonbusProjectionLate": repeating,
    "ArqonbusDeadLetters": letters,
    "ArqonbusDeadLettersGrowing": letters_that_grow,
    "ArqonbusReplaysFail": replays_that_fail,
    "ArqonbusNotReady": killed,
    "ArqonbusRejectsRising": refusing,
    "ArqonbusAuthFailures": turned_away,
    "ArqonbusSendQueueHigh": slow_reader,
    "ArqonbusAppendSlow": slow_log,
    "ArqonbusLoopLag": paused,
    "ArqonbusDegraded": without_engine,
    "ArqonbusKeysOld": without_issuer,
    "stale-or-duplicate-storm": behind,
    "dead-letter-triage-and-replay": mixed_letters,
    "restore-drill": undrilled,
}

__all__ = ["SCENES", "Scene", "projecting"]
