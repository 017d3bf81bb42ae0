"""A bus as in production, for those who mean it harm: the prod profile, TLS, strict and durable, real stores.

The process lives through a whole module. After every test it has to answer as before, and at the end of a
module its memory has to be where it was, within a bound.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from arqonbus.client import Client
from arqonbus.config import Settings, load
from arqonbus.shield.grants import parse_grant
from arqonbus.shield.tokens import Claims, mint
from arqonbus.storage import migrate
from tests.integration.raw import Raw
from tests.servers.arqonbus import REPOSITORY, ArqonBusProcess
from tests.servers.certificates import Authority
from tests.servers.postgres import ROLE, PostgresServer, running_postgres
from tests.servers.processes import free_port
from tests.servers.valkey import ValkeyServer, running_server

SECRET = "Zk3v9QpL7xT2mWc8RyB5nHs4JdF6gKuA1eXo0iVtNb"  # also the canary of what must never be said
MEMORY_BYTES = 128 * 2**20  # that a module may leave behind
HANDSHAKE_SECONDS = 2.0


class ProdBus(ArqonBusProcess):
    """`arqonbus serve` under the prod profile; preflight is overridden, for its stores speak no TLS."""

    command = ("serve", "--profile", "prod", "--break-glass", "adversarial tests")

    def __init__(self, directory: Path, *overrides: str) -> None:
        directory.mkdir(parents=True)
        secrets = directory / "secrets"
        secrets.mkdir(mode=0o700)
        for name in ("jwt_secret", "valkey_password", "postgres_password"):
            (secrets / name).write_text(SECRET)
            (secrets / name).chmod(0o600)
        self.authority = Authority(directory / "tls")
        certificate, key = self.authority.server("bus")
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_pem = self.rsa.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (directory / "issuer.pem").write_bytes(self.public_pem)
        keys = json.dumps([{"file": str(directory / "issuer.pem"), "key_id": "issuer-1"}])
        super().__init__(
            directory / "bus.log",
            f"state_dir={directory / 'state'}",
            "server.host=127.0.0.1",
            f"server.port={free_port()}",
            f"telemetry.port={free_port()}",
            "server.drain_seconds=0.5",
            f"server.handshake_timeout={HANDSHAKE_SECONDS}",
            f"server.tls.cert_file={certificate}",
            f"server.tls.key_file={key}",
            f"server.tls.client_ca_file={self.authority.file}",
            f"auth.jwt.public_keys={keys}",
            'auth.jwt.algorithms=["HS256","RS256"]',
            *overrides,
        )
        self.command = (*self.command, "--secrets-dir", str(secrets))
        self.settings: Settings = load(
            "prod", root=REPOSITORY, environ={}, overrides=self.overrides, secrets_dir=secrets
        ).settings
        self.port = self.settings.server.port
        self.url = f"wss://127.0.0.1:{self.port}/v1/ws"
        self.health = f"http://127.0.0.1:{self.settings.telemetry.port}"
        self.tls = ssl.create_default_context(cafile=self.authority.file)

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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        server.ask(f"ALTER ROLE {ROLE} PASSWORD '{SECRET}'")
        server.password = SECRET
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_server(tmp_path_factory.mktemp("valkey")) as server:
        server.ask("ACL", "SETUSER", "arqonbus", "on", f">{SECRET}", "~*", "&*", "+@all")
        yield server


@pytest.fixture(scope="module", params=["picows", "websockets"])
def prod(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    valkey: ValkeyServer,
    postgres: PostgresServer,
) -> Iterator[ProdBus]:
    """The bus, on each of the two server adapters."""
    with postgres.database() as database:
        asyncio.run(migrate.apply(postgres.settings(database).datastores.postgres))
        bus = ProdBus(
            tmp_path_factory.mktemp("prod") / "bus",
            f"server.transport={request.param}",
            f"datastores.valkey.url={valkey.url}",
            "datastores.valkey.tls.enabled=false",
            f"datastores.postgres.url=postgresql://127.0.0.1:{postgres.port}/{database}",
            f"datastores.postgres.user={ROLE}",
            "datastores.postgres.sslmode=disable",
        )
        bus.launch()
        try:
            before = bus.memory()
            yield bus
            assert bus.running
            assert bus.memory() - before < MEMORY_BYTES
            assert not [line for line in bus.lines() if line["level"] == "error"]
            assert SECRET not in bus.log.read_text("utf-8")
        finally:
            bus.kill()


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
