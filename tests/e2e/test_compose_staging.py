"""The promise of docker-compose.yml for staging and prod: the profile as it stands, with TLS, two nodes and a
load balancer; upgrades that nobody notices; nothing starts before preflight passed.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker import DockerClient

from arqonbus.cli import main
from arqonbus.client import Client
from arqonbus.protocol.ids import new_ulid
from tests.e2e.hardening import holds_no_privilege, is_hardened
from tests.e2e.stack import REPOSITORY, ComposeFailed, Stack
from tests.infra.load import under_load
from tests.integration.waiting import until
from tests.servers.processes import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600), pytest.mark.xdist_group("compose")]

NODES = ("bus-1", "bus-2")
LASTING = (
    *NODES,
    "alertmanager",
    "backup",
    "loadbalancer",
    "postgres",
    "projector-1",
    "projector-2",
    "prometheus",
    "valkey",
)
ONCE = ("certificates", "migrate", "preflight", "secrets")
HOWTO = REPOSITORY / "docs" / "howto" / "run-with-compose.md"


@pytest.fixture(scope="module")
def staging(engine: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Staging from nothing, watched."""
    running = Stack(engine, tmp_path_factory.mktemp("staging"), "staging", "observability")
    try:
        running.build()
        running.up()
        yield running
    finally:
        running.remove()


@pytest.fixture
def room() -> str:
    """A room that no other test uses."""
    return f"room-{new_ulid()}"


async def _exchange(stack: Stack, room: str) -> tuple[str, Any]:
    """Durability of an ack, and the payload that another client got."""
    token = await asyncio.to_thread(stack.token, "alice")
    tls = stack.tls()
    async with (
        Client(stack.url, token, tls=tls, timeout=30) as alice,
        Client(stack.url, token, tls=tls, timeout=30) as bob,
    ):
        subscription = await bob.subscribe(room)
        ack = await alice.publish(room, {"n": 1})
        async with asyncio.timeout(30):
            return ack.durability, (await anext(subscription)).json()


async def test_messages_flow_through_the_load_balancer(staging: Stack, room: str) -> None:
    """`up --wait` returned, so they do: verified by the authority of the deployment, acked when on disk."""
    assert await _exchange(staging, room) == ("durable", {"n": 1})


def test_who_does_not_know_the_authority_is_not_fooled(staging: Stack) -> None:
    """A client with the authorities of its system refuses the certificate; and it is for the public name."""
    name = staging.variables()["BUS_HOST"]

    def verified(context: ssl.SSLContext, name: str) -> None:
        with socket.create_connection(("127.0.0.1", staging.bus_port), timeout=5) as raw:
            context.wrap_socket(raw, server_hostname=name).close()

    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed certificate in certificate chain"):
        verified(ssl.create_default_context(), name)
    ours = ssl.create_default_context(cadata=staging.authority)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        verified(ours, "bus.example.org")
    verified(ours, name)


@pytest.mark.parametrize("service", [*LASTING, *ONCE])
def test_containers_are_hardened_as_declared(staging: Stack, service: str) -> None:
    """The engine itself says so: the file system, the capabilities, the user, the limits, the log."""
    is_hardened(staging.container(service))


@pytest.mark.parametrize("service", LASTING)
def test_processes_hold_no_privilege(staging: Stack, service: str) -> None:
    """Read from the kernel inside the container: no capability, no way to gain one, nothing to write to."""
    holds_no_privilege(staging.container(service))


def test_only_the_load_balancer_is_published(staging: Stack) -> None:
    """And what watches it, on the loopback. The stores are in the data network alone."""
    published = {
        (container.labels["com.docker.compose.service"], inside, outside["HostIp"])
        for container in staging.containers()
        for inside, hosts in container.ports.items()
        for outside in hosts or ()
    }
    assert published == {
        ("loadbalancer", "9100/tcp", "0.0.0.0"),
        ("prometheus", "9090/tcp", "127.0.0.1"),
        ("alertmanager", "9093/tcp", "127.0.0.1"),
    }
    inner = ("backup", "postgres", "projector-1", "projector-2", "valkey")
    networks = {name: set(staging.container(name).attrs["NetworkSettings"]["Networks"]) for name in inner}
    assert networks == {name: {f"{staging.project}_data"} for name in inner}


@pytest.mark.parametrize(
    ("service", "own", "others"),
    [
        ("bus-1", ("tls/server.key", "jwt_secret"), ()),
        (
            "valkey",
            ("tls/valkey.key", "valkey_password"),
            ("tls/server.key", "tls/postgres.key", "jwt_secret"),
        ),
        (
            "postgres",
            ("tls/postgres.key", "postgres_password"),
            ("tls/server.key", "tls/valkey.key", "jwt_secret"),
        ),
        ("loadbalancer", (), ("tls/server.key", "jwt_secret")),
    ],
)
def test_a_server_reads_its_own_keys_only(
    staging: Stack, service: str, own: tuple[str, ...], others: tuple[str, ...]
) -> None:
    """And nobody that of the authority, which is not even mounted."""

    def reads(name: str) -> bool:
        place = "/etc/arqonbus" if "/" in name else "/run/secrets"
        return bool(staging.container(service).exec_run(["test", "-r", f"{place}/{name}"]).exit_code == 0)

    assert [name for name in own if not reads(name)] == []
    assert [name for name in others if reads(name)] == []
    mounted = {mount["Destination"] for mount in staging.container(service).attrs["Mounts"]}
    assert "/var/lib/arqonbus-authority" not in mounted


def test_the_stores_speak_tls_only(staging: Stack) -> None:
    """Under the names of the profile, and with a password."""
    address = staging.variables()["POSTGRES_HOST"]
    plain = f"host={address} user=arqonbus dbname=arqonbus sslmode=disable connect_timeout=3"
    code, said = staging.container("backup").exec_run(
        ["sh", "-c", f"PGPASSWORD=$(cat /run/secrets/postgres_password) psql '{plain}' -c 'SELECT 1'"]
    )
    assert code == 2
    assert b"no encryption" in said
    valkey = ["valkey-cli", "-h", staging.variables()["VALKEY_HOST"]]
    assert b"Connection reset" in staging.container("backup").exec_run([*valkey, "PING"]).output
    secure = ["--tls", "--cacert", "/etc/arqonbus/tls/ca.pem", "PING"]
    assert b"NOAUTH" in staging.container("backup").exec_run([*valkey, *secure]).output


def test_preflight_passed_without_a_waiver(staging: Stack) -> None:
    """All of it, on the profile that stands in the repository, with a backup that was restored."""
    preflight = staging.container("preflight")
    said = preflight.logs().decode()
    assert preflight.attrs["State"]["ExitCode"] == 0
    assert "✓ BAK backups: 7 of 7 passed" in said
    assert "waived" not in said
    # Names that belong to nobody; the clock of the machine under the containers, and how fast it is.
    warnings = set(re.findall(r"^ +! (ARQ-\S+)", said, re.M))
    assert warnings <= {"ARQ-NET-013", "ARQ-HST-003", "ARQ-PGS-011", "ARQ-VAL-010"}


def test_nothing_starts_when_preflight_does_not_pass(staging: Stack) -> None:
    """Neither the services that wait for it, nor a node that is started by itself."""
    public = ["run", "--rm", "--no-deps", "-e", "ARQONBUS_TELEMETRY_HOST=0.0.0.0"]
    with pytest.raises(ComposeFailed, match=r"ARQ-NET-009 telemetry listens on 0\.0\.0\.0"):
        staging.compose("refusal", *public, "preflight")
    with pytest.raises(ComposeFailed, match="the bus did not start: preflight did not pass"):
        staging.compose("refusal", *public, "bus-1")


def test_an_environment_that_is_not_named_is_a_sentence(staging: Stack) -> None:
    """Staging with the variables of dev ends before anything is made."""
    with pytest.raises(ComposeFailed, match="say which it is: docker compose --env-file profiles/staging"):
        staging.compose("refusal", "run", "--rm", "--no-deps", "certificates", env_file=".env")


def test_secrets_and_certificates_are_made_once(staging: Stack) -> None:
    """A later start finds them and leaves them alone."""
    for service, words, count in (("secrets", "is there", 4), ("certificates", ".pem holds", 3)):
        container = staging.container(service)
        container.start()
        wait_until(lambda name=service: staging.container(name).status == "exited", f"{service} to look")
        assert container.logs(tail=count).decode().count(words) == count


def test_the_tools_know_the_environment(staging: Stack) -> None:
    """Its profile, its backups, its stores."""
    listed = staging.compose("tools", "run", "--rm", "tools", "arqonbus", "backup", "--list").split()

    def kept(file: str) -> Any:
        return json.loads(
            staging.container("backup").exec_run(["cat", f"/var/backups/arqonbus/{file}"]).output
        )

    drill = kept("drill.json")
    assert drill["passed"]
    assert drill["backup"] in listed
    assert {"postgres.dump", "valkey.rdb"} <= set(kept(f"{drill['backup']}/manifest.json")["files"])
    status = staging.compose("tools", "run", "--rm", "tools", "arqonbus", "migrate", "verify")
    assert status == "The database has the schema of this version.\n"


def test_nothing_differs_from_the_profile(staging: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that compares hosts."""
    parts = {"bus-1": "bus", "bus-2": "bus", "valkey": "valkey", "postgres": "postgres"}
    hosts = [f"{part}=docker://{staging.container(name).name}" for name, part in parts.items()]
    code = main(["drift", "--profile", "staging", "--hosts", ",".join(hosts), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (code, said["differences"]) == (0, [])
    assert [each["compared"] for each in said["hosts"]] == [1, 1, 2, 4]


def _prometheus(stack: Stack, path: str) -> Any:
    with urllib.request.urlopen(
        f"http://127.0.0.1:{stack.prometheus_port}/api/v1/{path}", timeout=5
    ) as answer:
        return json.load(answer)["data"]


def test_prometheus_sees_every_node_and_knows_the_rules(staging: Stack) -> None:
    """Those of the repository; and it has an Alertmanager to tell."""

    def up() -> dict[str, str]:
        targets = _prometheus(staging, "targets?state=active")["activeTargets"]
        return {each["labels"]["instance"]: each["health"] for each in targets}

    wanted = ("bus-1.edge:9101", "bus-2.edge:9101", "projector-1.data:9102", "projector-2.data:9102")
    wait_until(lambda: up() == dict.fromkeys(wanted, "up"), "Prometheus to see every node")
    known = {rule["name"] for group in _prometheus(staging, "rules")["groups"] for rule in group["rules"]}
    rules = yaml.safe_load((REPOSITORY / "observability/prometheus/rules.yml").read_text())
    assert known == {rule["alert"] for rule in rules["groups"][0]["rules"]}
    [told] = _prometheus(staging, "alertmanagers")["activeAlertmanagers"]
    assert told["url"] == "http://alertmanager:9093/api/v2/alerts"


async def test_a_killed_node_loses_nothing_that_was_acked(staging: Stack, room: str) -> None:
    """Its clients go on at the other one; the engine starts it again."""
    async with under_load(staging, room) as books:
        await asyncio.sleep(1)
        await asyncio.to_thread(staging.kill_bus, NODES[0])
        await until(lambda: asyncio.to_thread(staging.is_healthy, NODES[0]), 60)
        await asyncio.to_thread(_wait_for_both, staging)
        await until(lambda: len(books.acked) > 100, 60)
    assert len(books.acked) > 100
    assert (books.lost(), books.repeated()) == ([], [])
    assert books.reconnects > 0


def _wait_for_both(stack: Stack) -> None:
    state = ["arqonbus-balance", "state"]
    both = [f"{node} 2 0" for node in NODES]
    wait_until(
        lambda: stack.container("loadbalancer").exec_run(state).output.decode().splitlines() == both,
        "both nodes to be in service",
    )


def _documented(section: str) -> str:
    """The commands of a section of the guide."""
    [commands] = re.findall(rf"^## {section}\n[^#]*?^```sh\n(.*?)^```$", HOWTO.read_text(), re.M | re.S)
    return str(commands)


def _type(stack: Stack, step: str, commands: str) -> str:
    """As an operator who said which environment is meant."""
    environ = {"COMPOSE_ENV_FILES": "profiles/staging/compose.env"}
    return stack.run(step, ["bash", "-eu", "-o", "pipefail", "-c", commands], environ)


async def test_nobody_notices_an_upgrade(staging: Stack, room: str) -> None:
    """As documented: nobody is refused, nothing that was acked is lost, and everything runs the new image."""
    commands = _documented("Upgrade")
    image = staging.tag("bus", "next")
    commands = commands.replace("arqonbus:next", image)
    assert image in commands
    async with under_load(staging, room) as books:
        await asyncio.sleep(1)
        await asyncio.to_thread(_type, staging, "upgrade", commands)
    assert (books.refusals, books.lost(), books.repeated()) == ([], [], [])
    assert books.connections > 20
    assert books.reconnects > 0
    for service in (*NODES, "projector-1", "projector-2"):
        assert staging.container(service).attrs["Config"]["Image"] == image


async def test_down_and_up_keeps_messages_and_trust(staging: Stack, room: str) -> None:
    """Volumes outlive containers: a token and an authority of before count, and the room goes on."""
    token, tls = staging.token("alice"), staging.tls()
    async with Client(staging.url, token, tls=tls, timeout=30) as alice:
        for n in range(10):
            await alice.publish(room, {"n": n})
    await asyncio.to_thread(staging.down)
    assert staging.containers() == []
    await asyncio.to_thread(staging.up, "second up")
    async with Client(staging.url, token, tls=tls, timeout=30) as alice:
        assert (await alice.publish(room, {"n": 10})).sequence == 11


async def test_a_backup_brings_everything_back(staging: Stack, room: str) -> None:
    """As documented: what was acked before it is there, what came later is not, and no epoch goes on."""
    token, tls = await asyncio.to_thread(staging.token, "alice"), staging.tls()
    backup = "docker compose run --rm tools arqonbus backup --valkey-user backup --valkey-credential"
    async with Client(staging.url, token, tls=tls, timeout=30) as alice:
        for n in range(5):
            epoch = (await alice.publish(room, {"n": n})).epoch
        await asyncio.to_thread(_type, staging, "backup", f"{backup} valkey_backup_password")
        await alice.publish(room, {"n": 5})
    refused = "echo x | docker compose run --rm -T --no-deps --entrypoint restore-snapshot valkey"
    with pytest.raises(ComposeFailed, match="stop it first: docker compose stop valkey"):
        await asyncio.to_thread(_type, staging, "refusal", refused)
    await asyncio.to_thread(_type, staging, "restore", _documented("Backups"))
    async with Client(staging.url, token, tls=tls, timeout=30) as alice:
        history = await alice.command("op.history.get", {"room": room, "limit": 100})
        ack = await alice.publish(room, {"n": 6})
    assert [message["payload"] for message in reversed(history["messages"])] == [{"n": n} for n in range(5)]
    assert ack.durability == "durable"
    assert ack.epoch != epoch


def test_prod_is_staging_under_other_names(engine: DockerClient, tmp_path: Path) -> None:
    """Compose is told the same of both, whatever is started beside them."""
    stack = Stack(engine, tmp_path / "clone")
    told = []
    for environment in ("staging", "prod"):
        file = f"profiles/{environment}/compose.env"
        command = ["docker", "compose", "--env-file", file, "--profile", "*", "config", "--format", "json"]
        text = stack.run("config", command).replace(str(stack.directory), "HERE")
        for variable, name in re.findall(r"^([A-Z]+_HOST)=(.+)$", (REPOSITORY / file).read_text(), re.M):
            text = text.replace(name, variable)
        services = json.loads(text)["services"]
        told.append({name: service | {"profiles": ()} for name, service in services.items()})
    assert told[0].keys() >= {*LASTING, *ONCE, "tools"}
    assert json.dumps(told[0]).replace("staging", "prod") == json.dumps(told[1])


async def test_prod_comes_up_from_nothing(engine: DockerClient, tmp_path: Path, room: str) -> None:
    """And takes messages."""
    prod = Stack(engine, tmp_path / "prod", "prod")
    try:
        await asyncio.to_thread(prod.build)
        await asyncio.to_thread(prod.up)
        assert await _exchange(prod, room) == ("durable", {"n": 1})
    finally:
        await asyncio.to_thread(prod.remove)
