"""The online checks against real servers, and against everything that is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arqonbus.config import Resolved, load
from arqonbus.preflight import online_subset
from arqonbus.preflight.model import Status
from arqonbus.preflight.probes.nats import ask_nats
from arqonbus.preflight.probes.postgres import ask_postgres
from arqonbus.preflight.probes.valkey import ask_valkey
from arqonbus.preflight.runner import Report
from arqonbus.storage.postgres import migrate
from tests.servers.certificates import Authority
from tests.servers.nats import running_nats
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.processes import free_port, wait_until
from tests.servers.valkey import ValkeyServer, running_cluster, running_server, tls_options
from tests.servers.valkey_sentinel import SERVICE, Sentinel, running_watched

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("preflight")]

ROOT = Path(__file__).parents[2]
PASSWORD = "Zq8mW2kT5vX1nR7pL4cY"
USERS = (ROOT / "images/valkey/users.acl").read_text()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """With the users of the image: the default one may do everything but has a password here."""
    with running_server(tmp_path_factory.mktemp("valkey"), "--maxmemory-policy", "noeviction") as server:
        arqonbus = USERS.splitlines()[1].replace("#PASSWORD_SHA256", f">{PASSWORD}").split()[2:]
        server.ask("ACL", "SETUSER", "arqonbus", *arqonbus)
        server.ask("ACL", "SETUSER", "looking", *arqonbus, "+info", "+config|get", "+acl|whoami")
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def certificates(authority: Authority, directory: Path) -> Iterator[tuple[str, tuple[Path, Path], Path, Any]]:
    """A good certificate, and each wrong kind: name, files, the authority that is trusted, the failure."""
    other = Authority(directory / "other")
    yield "good", authority.server("good"), authority.file, None
    yield "stranger", authority.server("stranger"), other.file, "certificate_untrusted"
    yield "name", authority.server("name", "127.0.0.9"), authority.file, "certificate_name"
    yield "old", authority.server("old", days=-1), authority.file, "certificate_expired"


def resolved(*overrides: str) -> Resolved:
    return load("dev", root=ROOT, environ={}, overrides=overrides)


def valkey_settings(
    port: int, *more: str, user: str = "looking", password: str = PASSWORD, scheme: str = "valkey"
) -> Any:
    return resolved(
        f"datastores.valkey.url={scheme}://127.0.0.1:{port}",
        f"datastores.valkey.user={user}",
        f"datastores.valkey.password={password}",
        *more,
    ).settings.datastores.valkey


def nats_settings(url: str, *more: str) -> Any:
    given = (f"datastores.nats.{each}" for each in (f"url={url}", *more))
    return resolved(*given).settings.datastores.nats


def postgres_settings(
    port: int, *more: str, password: str = PASSWORD, database: str = "postgres", mode: str = "disable"
) -> Any:
    return resolved(
        "datastores.postgres.host=127.0.0.1",
        f"datastores.postgres.port={port}",
        f"datastores.postgres.database={database}",
        "datastores.postgres.user=arqonbus",
        f"datastores.postgres.password={password}",
        f"datastores.postgres.sslmode={mode}",
        *more,
    ).settings.datastores.postgres


# -- servers that are none


@contextlib.asynccontextmanager
async def listener(answer: bytes | None) -> AsyncIterator[int]:
    """A port that says this to everybody: None is silence, nothing closes at once."""
    ended = asyncio.Event()
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        if answer is None:
            await ended.wait()
        else:
            if answer:
                await reader.read(65536)
                writer.write(answer)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):  # the other side may have gone first
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        ended.set()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(task for task in serving if task))


Ask = Callable[[int], Any]
ASKED: dict[str, Ask] = {
    "Valkey": lambda port: ask_valkey(valkey_settings(port), 1.0),
    "Postgres": lambda port: ask_postgres(postgres_settings(port), 1.0),
    "NATS": lambda port: ask_nats(nats_settings(f"nats://127.0.0.1:{port}"), 1.0),
}
HTTP = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"


ANSWERS: list[tuple[bytes | None, str, str]] = [
    (None, "silent", "accepts the connection but sends nothing"),
    (b"", "closed", "closes it at once"),
    (HTTP, "wrong_protocol", "an HTTP server answers there"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "wrong_protocol", "an SSH server answers there"),
]


@pytest.mark.parametrize(
    ("server", "answer", "kind", "words"),
    # NATS speaks first: to what waits for a request it is silence, as the next test says.
    [(server, *answer) for server in ASKED for answer in ANSWERS if server != "NATS" or not answer[0]],
)
async def test_what_is_not_the_server_is_named(
    server: str, answer: bytes | None, kind: str, words: str
) -> None:
    """A port on which something else listens, or nothing useful, is told apart within the deadline."""
    async with listener(answer) as port:
        said = await ASKED[server](port)
    assert said.failure.kind == kind, said.failure
    assert words in said.failure.text
    assert said.failure.text.startswith(f"{server} at 127.0.0.1:{port} ")
    assert all(said.failure.fix)
    assert said.failure.fix


async def test_a_server_that_waits_for_a_request_is_not_nats() -> None:
    """NATS speaks first; an HTTP server waits, which is silence."""
    async with listener(HTTP) as port:
        said = await ask_nats(nats_settings(f"nats://127.0.0.1:{port}"), 0.5)
    assert said.failure is not None
    assert said.failure.kind == "silent"


@pytest.mark.parametrize("server", ASKED)
async def test_a_port_without_a_listener_refuses(server: str) -> None:
    """Nothing listens there, and that is what is said."""
    said = await ASKED[server](free_port())
    assert said.failure.kind == "refused"
    assert "nothing listens on the port" in said.failure.text


@pytest.mark.parametrize("server", ASKED)
async def test_a_name_without_an_address_is_said_to_be_one(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is not known is told apart from one that is down."""
    url = "nats://nowhere.invalid:4222"
    settings = resolved(
        "datastores.valkey.url=valkey://nowhere.invalid", "datastores.postgres.host=nowhere.invalid"
    ).settings.datastores
    said: Any = {
        "Valkey": lambda: ask_valkey(settings.valkey, 5.0),
        "Postgres": lambda: ask_postgres(settings.postgres, 5.0),
        "NATS": lambda: ask_nats(nats_settings(url), 5.0),
    }[server]
    assert (await said()).failure.kind == "no_such_name"


# -- Valkey


async def test_valkey_tells_everything_to_a_user_that_may_look(valkey: ValkeyServer) -> None:
    """Version, who we are, eviction, the append-only file, and a write that came back."""
    said = await ask_valkey(valkey_settings(valkey.port), 3.0)
    assert said.failure is None
    assert said.user == "looking"
    assert said.refused == ()
    assert said.aof is True
    assert said.settings is not None
    assert said.settings["maxmemory-policy"] == "noeviction"
    assert said.info is not None
    assert int(said.info["used_memory"]) > 0
    assert (said.probe_problem, said.role, said.cluster, said.encrypted) == ("", "master", False, False)
    assert said.probe_ms is not None
    assert int(said.version.partition(".")[0]) >= 7
    assert said.anonymous is True


async def test_valkey_with_the_bus_s_own_user(valkey: ValkeyServer) -> None:
    """The user of the image may do the bus's work; what it may not look at is named."""
    said = await ask_valkey(valkey_settings(valkey.port, user="arqonbus"), 3.0)
    assert said.failure is None
    assert said.user == "arqonbus"
    assert set(said.refused) <= {"INFO", "CONFIG GET"}
    assert said.aof is True
    assert said.probe_problem == ""


async def test_valkey_refuses_a_wrong_password(valkey: ValkeyServer) -> None:
    """The user is named, the password is not."""
    said = await ask_valkey(valkey_settings(valkey.port, password="wrong-password-1"), 3.0)
    assert said.failure is not None
    assert said.failure.kind == "wrong_password"
    assert "refuses the user looking" in said.failure.text
    assert "wrong-password-1" not in repr(said)


async def test_valkey_over_tls(tmp_path: Path, authority: Authority) -> None:
    """A certificate that we can verify passes; another authority, name or age is named for what it is."""
    for name, (cert, key), ca, kind in certificates(authority, tmp_path):
        port = free_port()
        options = tls_options(port, cert, key, authority.file)
        with running_server(tmp_path / name, *options) as server:
            ca_file = f"datastores.valkey.tls.ca_file={ca}"
            store = valkey_settings(port, ca_file, user="default", password=PASSWORD, scheme="valkeys")
            server.ask("CONFIG", "SET", "requirepass", PASSWORD)
            said = await ask_valkey(store, 3.0)
            assert (said.failure.kind if said.failure else None) == kind, said
            if kind is None:
                assert said.encrypted is True
                plain = await ask_valkey(valkey_settings(port), 3.0)
                assert plain.failure is not None
                assert plain.failure.kind == "wants_tls"
                wrong = await ask_valkey(valkey_settings(server.port, ca_file, scheme="valkeys"), 3.0)
                assert wrong.failure is not None
                assert wrong.failure.kind in ("no_tls", "closed")


async def test_valkey_without_an_append_only_file(tmp_path: Path) -> None:
    """It is seen with and without the right to look."""
    with running_server(tmp_path, "--appendonly", "no") as server:
        rules = USERS.splitlines()[1].replace("#PASSWORD_SHA256", f">{PASSWORD}").split()[2:]
        server.ask("ACL", "SETUSER", "arqonbus", *rules)
        said = await ask_valkey(valkey_settings(server.port, user="arqonbus"), 3.0)
    assert said.failure is None
    assert said.aof is False


# -- Postgres


async def test_postgres_tells_everything(postgres: PostgresServer) -> None:
    """Before and after the migrations."""
    with postgres.database() as name:
        store = postgres_settings(postgres.port, password=postgres.password, database=name)
        said = await ask_postgres(store, 3.0)
        assert said.failure is None
        assert said.pending == tuple(map(str, migrate.own_steps()))
        await migrate.apply(store)
        said = await ask_postgres(store, 3.0)
        assert (said.pending, said.refused, said.probe_problem) == ((), "", "")
        assert said.settings["fsync"] == "off"
        assert (said.encoding, said.role, said.superuser, said.recovering) == (
            "UTF8",
            "arqonbus",
            True,
            False,
        )
        assert abs(said.clock_ahead) < 1
        assert said.version >= 150000
        postgres.ask("UPDATE arqonbus_ledger.migrations SET checksum = 'other'", name)
        assert "other contents" in (await ask_postgres(store, 3.0)).refused


async def test_postgres_refuses_a_wrong_password_and_an_unknown_database(postgres: PostgresServer) -> None:
    """Each is said; the password is not."""
    said = await ask_postgres(postgres_settings(postgres.port, password="wrong-password-1"), 3.0)
    assert said.failure is not None
    assert said.failure.kind == "wrong_password"
    assert "wrong-password-1" not in repr(said)
    store = postgres_settings(postgres.port, password=postgres.password, database="nowhere")
    said = await ask_postgres(store, 3.0)
    assert said.failure is not None
    assert said.failure.kind == "no_database"
    store = postgres_settings(postgres.port, password=postgres.password, mode="verify-full")
    said = await ask_postgres(store, 3.0)
    assert said.failure is not None
    assert said.failure.kind == "no_tls"


async def test_postgres_over_tls(tmp_path: Path, authority: Authority) -> None:
    """Each wrong certificate is named for what it is."""
    with running_postgres() as server:
        for name, files, ca, kind in certificates(authority, tmp_path):
            server.encrypt(*files)
            store = postgres_settings(
                server.port,
                f"datastores.postgres.ca_file={ca}",
                password=server.password,
                mode="verify-full",
            )
            said = await ask_postgres(store, 3.0)
            assert (said.failure.kind if said.failure else None) == kind, name
            assert said.encrypted is (kind is None)


async def test_every_primary_of_a_cluster_is_asked(tmp_path: Path) -> None:
    """One that is set up otherwise, and one that is dead, are found wherever one begins."""
    with running_cluster(tmp_path) as cluster:
        first, second, third = cluster.servers
        for server in cluster.servers:
            server.ask("ACL", "SETUSER", "looking", "on", "~*", "&*", "+@all", f">{PASSWORD}")
        store = valkey_settings(first.port, "datastores.valkey.cluster=true")
        said = await ask_valkey(store, 3.0)
        assert said.failure is None
        assert sum(each.last - each.first + 1 for each in said.ranges) == 16384
        ports = {f"Valkey at 127.0.0.1:{each.port}" for each in (second, third)}
        assert {node.where for node in said.nodes} == ports
        assert [(node.failure, node.probe_problem) for node in said.nodes] == [(None, "")] * 2
        second.ask("CONFIG", "SET", "appendfsync", "everysec")
        third.kill()
        report = await online_subset(
            resolved(
                f"datastores.valkey.url=valkey://127.0.0.1:{first.port}",
                "datastores.valkey.user=looking",
                f"datastores.valkey.password={PASSWORD}",
                "datastores.valkey.cluster=true",
            )
        )
    texts = [seen.text for r in report.results if r.check.id == "ARQ-VAL-019" for seen in r.seen]
    assert len(texts) == 2, texts
    assert f"127.0.0.1:{second.port} differs in appendfsync: everysec, elsewhere always" in " ".join(texts)
    assert f"127.0.0.1:{third.port} is unreachable: connection refused" in " ".join(texts)


# -- NATS


async def test_nats_greets_and_asks_who_we_are(tmp_path: Path) -> None:
    """With the right password, a wrong one, and none."""
    with running_nats(tmp_path, "--user", "bus", "--pass", PASSWORD) as server:
        for given in (
            nats_settings(server.url, "user=bus", f"password={PASSWORD}"),
            nats_settings(f"nats://bus:{PASSWORD}@127.0.0.1:{server.port}"),
        ):
            good = await ask_nats(given, 3.0)
            assert good.failure is None
        wrong = await ask_nats(nats_settings(server.url, "user=bus", "password=wrong-password-1"), 3.0)
        none = await ask_nats(nats_settings(server.url), 3.0)
    assert (good.auth_required, good.encrypted, good.max_payload) == (True, False, 1_048_576)
    assert good.version.startswith("2.")
    assert wrong.failure is not None
    assert wrong.failure.kind == "wrong_password"
    assert "wrong-password-1" not in repr(wrong)
    assert none.failure is not None
    assert none.failure.kind == "no_password"


async def test_nats_takes_a_token(tmp_path: Path) -> None:
    """A password without a user is a token."""
    with running_nats(tmp_path, "--auth", PASSWORD) as server:
        assert (await ask_nats(nats_settings(server.url, f"password={PASSWORD}"), 3.0)).failure is None
        wrong = await ask_nats(nats_settings(server.url, "password=wrong-password-1"), 3.0)
    assert wrong.failure is not None
    assert wrong.failure.kind == "wrong_password"


async def test_nats_over_tls(tmp_path: Path, authority: Authority) -> None:
    """Each wrong certificate is named for what it is; a server without TLS as well."""
    for name, (cert, key), ca, kind in certificates(authority, tmp_path):
        options = ("--tls", "--tlscert", str(cert), "--tlskey", str(key))
        with running_nats(tmp_path / name, *options) as server:
            store = nats_settings(f"tls://127.0.0.1:{server.port}", f"tls.ca_file={ca}")
            said = await ask_nats(store, 3.0)
            assert (said.failure.kind if said.failure else None) == kind, name
            assert said.encrypted is (kind is None)
    with running_nats(tmp_path / "plain") as server:
        said = await ask_nats(nats_settings(f"tls://127.0.0.1:{server.port}"), 3.0)
        assert said.failure is not None
        assert said.failure.kind == "no_tls"


# -- all together


def ends(report: Report) -> dict[str, str]:
    return {result.check.id: result.outcome.status.value for result in report.results}


async def test_healthy_servers_pass(valkey: ValkeyServer, postgres: PostgresServer, tmp_path: Path) -> None:
    """The online subset of healthy servers finds what is there."""
    with postgres.database() as name, running_nats(tmp_path) as nats:
        profile = resolved(
            f"datastores.valkey.url=valkey://127.0.0.1:{valkey.port}",
            "datastores.valkey.user=looking",
            f"datastores.valkey.password={PASSWORD}",
            f"datastores.postgres.url=postgresql://arqonbus@127.0.0.1:{postgres.port}/{name}",
            f"datastores.postgres.password={postgres.password}",
            "datastores.postgres.sslmode=disable",
            f"datastores.nats.url={nats.url}",
        )
        await migrate.apply(profile.settings.datastores.postgres)
        report = await online_subset(profile)
    seen = ends(report)
    assert {seen[f"ARQ-{family}-001"] for family in ("VAL", "PGS", "NAT")} == {"passed"}
    assert seen["ARQ-VAL-009"] == seen["ARQ-PGS-010"] == seen["ARQ-PGS-005"] == "passed"
    assert Status.ERRORED.value not in seen.values()
    firsts = [r for r in report.results if r.check.id in ("ARQ-VAL-001", "ARQ-PGS-001", "ARQ-NAT-001")]
    assert all(result.outcome.latency_ms for result in firsts)


async def test_dead_servers_cost_one_deadline_together() -> None:
    """Three silent ports are asked at once; what depends on an answer is skipped because of it."""
    busy: Counter[int] = Counter()
    at_one_time = 0

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_one_time
        port = writer.get_extra_info("sockname")[1]
        busy[port] += 1
        at_one_time = max(at_one_time, len(+busy))
        with contextlib.suppress(OSError):
            await reader.read()  # until the other side goes
        busy[port] -= 1
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        servers = [await asyncio.start_server(keep_silent, "127.0.0.1", 0) for _ in range(3)]
        one, two, three = (server.sockets[0].getsockname()[1] for server in servers)
        for server in servers:
            await stack.enter_async_context(server)
        profile = resolved(
            f"datastores.valkey.url=valkey://127.0.0.1:{one}",
            f"datastores.postgres.url=postgresql://arqonbus@127.0.0.1:{two}/arqonbus",
            f"datastores.nats.url=nats://127.0.0.1:{three}",
        )
        report = await online_subset(profile)
    assert at_one_time == 3
    assert [result.check.id for result in report.failures] == ["ARQ-VAL-001", "ARQ-PGS-001", "ARQ-NAT-001"]
    others = {r.outcome.because.split()[0] for r in report.results if not r.check.id.endswith("-001")}
    assert others == {"ARQ-VAL-001", "ARQ-PGS-001", "ARQ-NAT-001", "no"}  # "no sentinels are configured"


def watched_by(nodes: list[str], service: str = SERVICE, password: str = "") -> Resolved:
    return resolved(
        f"datastores.valkey.sentinel.service={service}",
        f"datastores.valkey.sentinel.nodes={json.dumps(nodes)}",
        *([f"datastores.valkey.sentinel.password={password}"] if password else []),
    )


def failed_checks(report: Report) -> dict[str, str]:
    return {
        result.check.id: "; ".join(seen.text for seen in result.seen)
        for result in report.results
        if result.outcome.status is Status.FAILED
    }


async def test_sentinels_are_asked(tmp_path: Path) -> None:
    """The primary is asked through them; a dead one, a lost quorum and an unknown name are named."""
    with running_watched(tmp_path) as watched:
        said = await ask_valkey(watched_by(watched.nodes).settings.datastores.valkey, 5.0)
        assert said.failure is None
        assert said.where == f"Valkey at 127.0.0.1:{watched.servers[0].port}"
        assert [(s.failure, s.quorum_problem, s.replicas) for s in said.sentinels] == [(None, "", 2)] * 3
        report = await online_subset(watched_by(watched.nodes, "other"))
        failed = failed_checks(report)
        assert "watches no primary named other" in failed["ARQ-VAL-001"]
        assert failed["ARQ-VAL-020"].count("watches no primary named other") == 3
        for sentinel in watched.sentinels[1:]:
            sentinel.kill()
        alone = watched_by(watched.nodes[:1])
        await asyncio.to_thread(
            wait_until, watched.sentinels[0].knows_of_two_dead, "two sentinels to be seen dead"
        )
        assert "NOQUORUM" in failed_checks(await online_subset(alone))["ARQ-VAL-021"]
        failed = failed_checks(await online_subset(watched_by(watched.nodes)))
        assert failed["ARQ-VAL-020"].count("the sentinel at") == 2
        assert "ARQ-VAL-001" not in failed


async def test_password_of_the_sentinels(tmp_path: Path) -> None:
    """No password and a wrong one are told apart, and neither is shown."""
    with running_server(tmp_path / "valkey") as server:
        sentinel = Sentinel(tmp_path / "sentinel", server, f"requirepass {PASSWORD}")
        try:
            sentinel.start()
            nodes = [f"127.0.0.1:{sentinel.port}"]
            for password, kind in (
                ("", "no_password"),
                ("not-the-password", "wrong_password"),
                (PASSWORD, None),
            ):
                store = watched_by(nodes, password=password).settings.datastores.valkey
                (said,) = (await ask_valkey(store, 3.0)).sentinels
                assert (said.failure.kind if said.failure else None) == kind
                assert "not-the-password" not in repr(said)
        finally:
            sentinel.kill()
