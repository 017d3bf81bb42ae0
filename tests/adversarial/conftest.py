"""A bus as in production, for those who mean it harm: the prod profile, which passed its own preflight.

TLS towards clients and stores, strict and durable; Valkey and Postgres with the rights that they give in
production. The process lives through all tests. After every one it has to answer as before, and at the end
its memory has to be where it was, within a bound.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from arqonbus.client import Client
from arqonbus.config import Settings, load
from arqonbus.shield.grants import parse_grant
from arqonbus.shield.tokens import Claims, mint
from arqonbus.storage.postgres import migrate
from tests.integration.raw import Raw
from tests.servers.arqonbus import REPOSITORY, ArqonBusProcess
from tests.servers.certificates import Authority
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.processes import free_port
from tests.servers.valkey import running_server, tls_options

SECRET = "Zk3v9QpL7xT2mWc8RyB5nHs4JdF6gKuA1eXo0iVtNb"  # also the canary of what must never be said
SECRETS = {
    "jwt_secret": SECRET,
    "valkey_password": f"{SECRET}-valkey",
    "postgres_password": f"{SECRET}-postgres",
}
MEMORY_BYTES = 128 * 2**20  # that all tests may leave behind; half of it waits to be swept
HANDSHAKE_SECONDS = 2.0
PUBLIC_HOST = "bus.example.org"
ROLE, DATABASE = "bus", "arqonbus"  # in Postgres
VALKEY_USER = (REPOSITORY / "images/valkey/users.acl").read_text("utf-8").splitlines()[1]

# What no test process can have. Everything else that preflight asks for, this bus has.
WAIVED = {
    "ARQ-STO-007": "the stores of a test run on the machine of the bus",
    "ARQ-BAK-003": "what is stored is nothing that anybody restores",
    "ARQ-BAK-004": "there is no backup whose restore could be tried",
}
# What its tests look for. No other room is judged.
JUDGED = [
    {"name": "letters", "pattern": "(a+)+b", "action": "block", "rooms": ["judged.*"]},
    {"name": "choices", "pattern": "(x|xx|xxx)*y", "action": "redact", "rooms": ["judged.*"]},
    {"name": "ends", "pattern": r"^(\d+\s?)+$", "action": "block", "rooms": ["judged.*"]},
]


class ProdBus(ArqonBusProcess):
    """`arqonbus serve` under the prod profile, with waivers for what no test process can have."""

    def __init__(self, directory: Path, authority: Authority, *overrides: str) -> None:
        secrets = directory / "secrets"
        secrets.mkdir(mode=0o700, parents=True)
        for name, text in SECRETS.items():
            (secrets / name).write_text(text)
            (secrets / name).chmod(0o600)
        (directory / "backups").mkdir(mode=0o750)
        profile = _profile(directory)
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_pem = self.rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (directory / "issuer.pem").write_bytes(self.public_pem)
        keys = json.dumps([{"file": str(directory / "issuer.pem"), "key_id": "issuer-1"}])
        certificate, key = authority.server("bus", host=PUBLIC_HOST)
        super().__init__(
            directory / "bus.log",
            f"state_dir={directory / 'state'}",
            f"backup.directory={directory / 'backups'}",
            "server.host=127.0.0.1",
            f"server.port={free_port()}",
            f"telemetry.port={free_port()}",
            "server.max_connections=500",
            "server.drain_seconds=1",
            f"server.handshake_timeout={HANDSHAKE_SECONDS}",
            f"server.tls.cert_file={certificate}",
            f"server.tls.key_file={key}",
            f"server.tls.client_ca_file={authority.file}",
            f"auth.jwt.public_keys={keys}",
            'auth.jwt.algorithms=["HS256","RS256"]',
            "limits.failed_logins_per_minute=100000",  # every other attack is a token that is refused
            "limits.identity.messages_per_second=1000",
            "limits.identity.bytes_per_second=2MiB",
            "policy.mode=enforce",
            "policy.secrets=block",
            'policy.rooms=["judged.*"]',
            f"policy.rules={json.dumps(JUDGED)}",
            *overrides,
        )
        self.command = ("serve", "--profile", str(profile), "--secrets-dir", str(secrets))
        self.settings: Settings = load(
            str(profile), root=REPOSITORY, environ={}, overrides=self.overrides, secrets_dir=secrets
        ).settings
        self.port = self.settings.server.port
        self.url = f"wss://127.0.0.1:{self.port}/v1/ws"
        self.health = f"http://127.0.0.1:{self.settings.telemetry.port}"
        self.tls = ssl.create_default_context(cafile=authority.file)

    def token(
        self,
        subject: str = "mallory",
        tenant: str = "red",
        *,
        role: str = "user",
        kind: str = "human",
        grants: tuple[str, ...] = ("*:*",),
    ) -> str:
        given = [parse_grant(text) for text in grants]
        return mint(self.settings, Claims(tenant, subject, 600, kind, role, given))  # type: ignore[arg-type]

    def client(self, subject: str = "mallory", tenant: str = "red", **options: Any) -> Client:
        """A client of the SDK, not yet connected."""
        return Client(self.url, self.token(subject, tenant, **options), tls=self.tls, timeout=10)

    async def raw(self) -> Raw:
        """A connection that says what it is told to."""
        raw = Raw(*await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, limit=2**20))
        Raw.opened.append(raw)
        return raw

    async def joined(self, subprotocol: str = "arqonbus.v1.protobuf", **options: Any) -> Raw:
        """An upgraded connection, welcome read."""
        raw = await self.raw()
        assert (await raw.upgrade(self.token(**options), subprotocol)).status == 101
        await raw.envelopes()
        return raw

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """An endpoint of the telemetry port."""
        with urllib.request.urlopen(self.health + path, timeout=10) as answer:
            return answer.status, json.loads(answer.read())

    def memory(self) -> int:
        """Resident bytes of the process."""
        assert self._process is not None
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; a line that is no JSON object fails here."""
        found = [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]
        assert all(isinstance(line, dict) for line in found)
        return found


def _profile(directory: Path) -> Path:
    """The prod profile as it is shipped, and waivers beside it."""
    below = directory / "profiles" / "prod"
    below.mkdir(parents=True)
    shutil.copy(REPOSITORY / "profiles/base.yaml", below.parent)
    shutil.copy(REPOSITORY / "profiles/prod/profile.yaml", below)
    ends = datetime.now(UTC).date() + timedelta(days=30)
    waivers = [
        {"id": id, "reason": reason, "owner": "tests", "expires": str(ends)} for id, reason in WAIVED.items()
    ]
    (below / "waivers.yaml").write_text(json.dumps(waivers, indent=0))
    return below / "profile.yaml"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "tls")


@pytest.fixture(scope="session")
def postgres(authority: Authority) -> Iterator[PostgresServer]:
    """With TLS and with fsync, and with a role for the bus that is no superuser."""
    with running_postgres("-c", "fsync=on") as server:
        server.encrypt(*authority.server("postgres"))
        server.ask(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{SECRETS['postgres_password']}'")
        for role in ("arqonbus_writer", "arqonbus_reader"):
            server.ask(f"CREATE ROLE {role} NOLOGIN; GRANT {role} TO {ROLE}")
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    """The URL of one with TLS, with the user of our image and nobody else."""
    port = free_port()
    options = tls_options(port, *authority.server("valkey"), authority.file)
    with running_server(tmp_path_factory.mktemp("valkey"), *options) as server:
        rules = VALKEY_USER.replace("#PASSWORD_SHA256", f">{SECRETS['valkey_password']}").split()[2:]
        server.ask("ACL", "SETUSER", "arqonbus", "on", *rules)
        server.ask("ACL", "SETUSER", "default", "off")
        yield f"valkeys://127.0.0.1:{port}"


@pytest.fixture(scope="session", params=["picows", "websockets"])
def prod(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
    valkey: str,
    postgres: PostgresServer,
) -> Iterator[ProdBus]:
    """The bus, on each of the two server adapters."""
    postgres.ask(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    bus = ProdBus(
        tmp_path_factory.mktemp("prod"),
        authority,
        f"server.transport={request.param}",
        f"datastores.valkey.url={valkey}",
        f"datastores.valkey.tls.ca_file={authority.file}",
        "datastores.postgres.host=127.0.0.1",
        f"datastores.postgres.port={postgres.port}",
        f"datastores.postgres.database={DATABASE}",
        f"datastores.postgres.user={ROLE}",
        f"datastores.postgres.ca_file={authority.file}",
    )
    asyncio.run(migrate.apply(bus.settings.datastores.postgres))
    bus.launch()
    try:
        before = bus.memory()
        yield bus
        assert bus.running
        assert bus.memory() - before < MEMORY_BYTES
        assert not [line for line in bus.lines() if line["level"] in ("error", "critical")]
        assert SECRET not in bus.log.read_text("utf-8")
    finally:
        bus.kill()
        postgres.ask(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture(autouse=True)
async def is_well(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Whatever a test did: the bus is ready, and a client of it is served."""
    yield
    await Raw.close_all()
    if "prod" not in request.fixturenames:
        return
    bus: ProdBus = request.getfixturevalue("prod")
    assert (await asyncio.to_thread(bus.get, "/readyz"))[1]["ready"] is True
    async with bus.client("well", "well") as client:
        assert (await client.publish("health", {"n": 1})).durability == "durable"


__all__ = ["HANDSHAKE_SECONDS", "SECRET", "ProdBus"]
