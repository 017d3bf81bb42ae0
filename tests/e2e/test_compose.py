"""The promise of docker-compose.yml: one command from a fresh clone to messages that flow and are kept."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from arqonbus.cli import main
from arqonbus.client import Client, Message, Subscription
from arqonbus.protocol.ids import new_ulid
from tests.e2e.hardening import holds_no_privilege, is_hardened
from tests.e2e.stack import Stack
from tests.integration.waiting import until
from tests.servers.processes import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600), pytest.mark.xdist_group("compose")]

LASTING = ("bus", "postgres", "projector", "valkey")
ONCE = ("migrate", "secrets")


@asynccontextmanager
async def connected(
    stack: Stack, subject: str, tenant: str = "demo", *, role: str = "user"
) -> AsyncIterator[Client]:
    token = await asyncio.to_thread(stack.mint, subject, "--tenant", tenant, "--role", role)
    async with Client(stack.url, token, timeout=30) as client:
        yield client


async def take(subscription: Subscription, count: int) -> list[Message]:
    async with asyncio.timeout(30):
        return [await anext(subscription) for _ in range(count)]


@pytest.fixture
def room() -> str:
    """A room that no other test uses."""
    return f"room-{new_ulid()}"


async def held(client: Client, room: str) -> list[object]:
    """The payloads that the room holds."""
    result = await client.command("op.history.get", {"room": room, "limit": 100})
    return [message["payload"] for message in result["messages"]]


def ready(stack: Stack) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.telemetry_port}/readyz", timeout=5) as response:
        body: dict[str, object] = json.load(response)
    return body


async def test_messages_flow_as_soon_as_up_returns(stack: Stack, room: str) -> None:
    """`up --wait` returned, so a publish from the host reaches a subscriber on the host, and was stored."""
    assert stack.container("bus").status == "running"
    async with connected(stack, "alice") as alice, connected(stack, "bob") as bob:
        subscription = await bob.subscribe(room)
        ack = await alice.publish(room, {"n": 1})
        [message] = await take(subscription, 1)
    assert message.json() == {"n": 1}
    assert (message.sequence, ack.durability) == (1, "hot")
    body = ready(stack)
    assert body["ready"] is True
    assert body["storage"]["backend"] == "valkey"  # type: ignore[index]


async def test_the_bus_may_do_in_valkey_what_its_operations_need(stack: Stack, room: str) -> None:
    """Rooms, presence, history and direct messages work with the few rights of the bus's user."""
    async with connected(stack, "alice", role="admin") as alice, connected(stack, "bob") as bob:
        await alice.command("op.rooms.create", {"room": room})
        subscription = await bob.subscribe(room)
        await alice.publish(room, {"n": 1})
        await take(subscription, 1)
        present = await alice.command("op.rooms.presence", {"room": room})
        assert len(present["clients"]) == 1
        assert (await alice.command("op.rooms.info", {"room": room}))["last"] == 1
        assert room in (await alice.command("op.rooms.list"))["rooms"]
        assert await held(alice, room) == [{"n": 1}]
        replayed = await alice.command("op.history.replay", {"room": room, "from": "2000-01-01T00:00:00Z"})
        assert len(replayed["messages"]) == 1
        assert (await alice.send(bob.welcome["client"], {"n": 2})).id
        await bob.close()
        await alice.command("op.rooms.delete", {"room": room})
        assert room not in (await alice.command("op.rooms.list"))["rooms"]
    assert b"NOPERM" not in stack.container("bus").logs()


async def test_tenants_do_not_meet(stack: Stack, room: str) -> None:
    """The same room name in two tenants is two rooms, in containers as elsewhere."""
    async with connected(stack, "alice") as alice, connected(stack, "eve", "other") as eve:
        theirs = await eve.subscribe(room)
        await alice.publish(room, {"n": 1})
        await eve.publish(room, {"n": 2})
        [message] = await take(theirs, 1)
    assert message.json() == {"n": 2}


def test_the_second_build_is_a_cache_hit(stack: Stack) -> None:
    """Nothing is downloaded or compiled again when nothing changed."""
    assert stack.built["second build"] == stack.built["build"]


@pytest.mark.parametrize("service", [*LASTING, *ONCE])
def test_containers_are_hardened_as_declared(stack: Stack, service: str) -> None:
    """The engine itself says so: the file system, the capabilities, the user, the limits, the log."""
    is_hardened(stack.container(service))


@pytest.mark.parametrize("service", LASTING)
def test_processes_hold_no_privilege(stack: Stack, service: str) -> None:
    """Read from the kernel inside the container: no capability, no way to gain one, nothing to write to."""
    holds_no_privilege(stack.container(service))


def test_only_the_bus_is_published_and_only_on_loopback(stack: Stack) -> None:
    """The stores can be reached from the data network alone, and that one leads nowhere else."""
    published = {
        container.labels["com.docker.compose.service"]: sorted(
            (inside, outside["HostIp"], int(outside["HostPort"]))
            for inside, hosts in container.ports.items()
            for outside in hosts or ()
        )
        for container in stack.containers()
        if container.status == "running"
    }
    assert published == {
        "bus": [
            ("9100/tcp", "127.0.0.1", stack.bus_port),
            ("9101/tcp", "127.0.0.1", stack.telemetry_port),
        ],
        "postgres": [],
        "projector": [],
        "valkey": [],
    }
    networks = {
        service: {name.removeprefix(f"{stack.project}_") for name in
                  stack.container(service).attrs["NetworkSettings"]["Networks"]}
        for service in LASTING
    }  # fmt: skip
    assert networks == {
        "bus": {"edge", "data"},
        "postgres": {"data"},
        "projector": {"data"},
        "valkey": {"data"},
    }
    assert stack.engine.networks.get(f"{stack.project}_data").attrs["Internal"] is True


def test_each_store_sees_its_own_password_only(stack: Stack) -> None:
    """And nobody gets in without one."""
    secret = "/run/secrets/datastores.{}.password"
    for own, other in (("valkey", "postgres"), ("postgres", "valkey")):
        container = stack.container(own)
        assert container.exec_run(["test", "-r", secret.format(own)]).exit_code == 0
        assert container.exec_run(["test", "-r", secret.format(other)]).exit_code == 1
    _, said = stack.container("valkey").exec_run(["valkey-cli", "PING"])
    assert b"NOAUTH" in said
    address = stack.container("postgres").attrs["NetworkSettings"]["Networks"][f"{stack.project}_data"]
    for role in ("arqonbus", "postgres"):
        code, said = stack.container("postgres").exec_run(
            [
                "psql",
                "--no-password",
                "-h",
                address["IPAddress"],
                "-U",
                role,
                "-d",
                "arqonbus",
                "-c",
                "SELECT 1",
            ]
        )
        assert code == 2
        assert b"no password supplied" in said or b"rejects connection" in said


def test_the_stores_keep_what_they_are_given(stack: Stack) -> None:
    """Checksums and SCRAM in Postgres; the append-only file and no eviction in Valkey."""
    query = "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN "
    names = "('data_checksums', 'fsync', 'password_encryption')"
    code, said = stack.container("postgres").exec_run(
        ["psql", "-XAtq", "-U", "postgres", "-d", "arqonbus", "-c", query + names]
    )
    assert (code, said.decode().strip()) == (0, "on on scram-sha-256")
    _, roles = stack.container("postgres").exec_run(
        ["psql", "-XAtq", "-U", "postgres", "-c", "SELECT rolname FROM pg_roles WHERE rolsuper"]
    )
    assert roles.decode().split() == ["postgres"]
    _, configuration = stack.container("valkey").exec_run(["cat", "/etc/valkey/valkey.conf"])
    assert {b"appendonly yes", b"maxmemory-policy noeviction"} <= set(configuration.splitlines())


def test_no_secret_is_in_what_the_engine_tells(stack: Stack) -> None:
    """Passwords are in files: not in the environment, the arguments or the logs of any container."""
    passwords = [
        stack.container("bus").exec_run(["cat", f"/run/secrets/datastores.{store}.password"]).output
        for store in ("valkey", "postgres")
    ]
    assert all(len(password) > 30 for password in passwords)
    for container in stack.containers():
        told = json.dumps(container.attrs).encode() + container.logs()
        assert not [password for password in passwords if password in told]


async def test_a_restart_of_the_bus_keeps_messages(stack: Stack, room: str) -> None:
    """What was acked before is read afterwards, and the connection comes back by itself."""
    async with connected(stack, "alice") as alice:
        for n in range(10):
            await alice.publish(room, {"n": n})
        await asyncio.to_thread(stack.container("bus").restart, timeout=30)
        ack = await alice.publish(room, {"n": 10})
        assert ack.sequence == 11
        assert len(await held(alice, room)) == 11


async def test_down_and_up_keeps_messages_passwords_and_tokens(stack: Stack, room: str) -> None:
    """Volumes outlive containers: also what functions wrote in Valkey, which its ACL could have dropped."""
    token = stack.mint("alice", "--tenant", "demo")
    async with Client(stack.url, token, timeout=30) as alice:
        for n in range(10):
            await alice.publish(room, {"n": n})
    await asyncio.to_thread(stack.down)
    assert stack.containers() == []
    await asyncio.to_thread(stack.up, "second up")
    async with Client(stack.url, token, timeout=30) as alice:
        assert (await alice.publish(room, {"n": 10})).sequence == 11
        assert len(await held(alice, room)) == 11


async def test_clients_resume_after_the_bus_was_killed(stack: Stack, room: str) -> None:
    """After kill -9 the bus is started again, and a subscriber gets every message once and in order."""
    async with connected(stack, "alice") as alice, connected(stack, "bob") as bob:
        subscription = await bob.subscribe(room)
        await alice.publish(room, {"n": 0})
        await take(subscription, 1)
        await asyncio.to_thread(stack.kill_bus)
        for n in range(1, 6):
            await alice.publish(room, {"n": n})
        messages = await take(subscription, 5)
    assert [message.sequence for message in messages] == [2, 3, 4, 5, 6]
    await until(lambda: asyncio.to_thread(stack.is_healthy, "bus"), 30)


def test_a_password_that_the_database_does_not_know_is_a_sentence(stack: Stack) -> None:
    """Whoever lost the secrets and kept the data reads what to do in the log of `migrate`."""
    bus = stack.container("bus")
    code, said = bus.exec_run(
        ["arqonbus", "migrate", "status", "--set", "datastores.postgres.password=another"]
    )
    assert code == 1
    assert (
        b"refuses the password of the role arqonbus. If the database was created with another password"
        in said
    )


def test_the_database_is_at_the_schema_of_this_version(stack: Stack) -> None:
    """`migrate` ran before the bus."""
    assert stack.container("migrate").attrs["State"]["ExitCode"] == 0
    code, said = stack.container("bus").exec_run(["arqonbus", "migrate", "verify"])
    assert (code, said) == (0, b"The database has the schema of this version.\n")


def test_secrets_are_made_once(stack: Stack) -> None:
    """A second run finds them and leaves them alone."""
    container = stack.container("secrets")
    container.start()
    wait_until(lambda: stack.container("secrets").status == "exited", "the secrets to be looked at")
    last = container.logs(tail=4).decode()
    assert last.count("is there") == 4


def test_a_drift_in_a_container_is_named(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that compares hosts: nothing at first, then what PostgreSQL was told, then nothing."""
    names = {part: stack.container(part).name for part in ("bus", "valkey", "postgres")}
    hosts = ",".join(f"{part}=docker://{name}" for part, name in names.items())
    compare = ["drift", "--profile", "dev", "--hosts", hosts, "--json"]
    assert main(compare) == 0, capsys.readouterr().out
    assert [each["compared"] for each in json.loads(capsys.readouterr().out)["hosts"]] == [1, 2, 4]
    psql = ["psql", "-U", "postgres", "-c", "ALTER SYSTEM SET synchronous_commit = off"]
    assert stack.container("postgres").exec_run(psql).exit_code == 0
    assert main(compare) == 1
    [found] = json.loads(capsys.readouterr().out)["differences"]
    assert (found["check"], found["host"]) == ("ARQ-DRF-040", names["postgres"])
    assert found["found"].startswith("synchronous_commit by ")
    subprocess.run(found["mend"], shell=True, check=True, capture_output=True, timeout=30)
    assert main(compare) == 0
