"""Services show who they are with a certificate, people do not, on one port and on both adapters."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from arqonbus.client import Client, ConnectionRefused, Disconnected
from arqonbus.config import with_dev_key
from tests.integration.conftest import Bus, StartBus
from tests.servers.certificates import Authority

TRANSPORTS = pytest.mark.parametrize("transport", ["picows", "websockets"])
BILLING = "arqonbus://demo/billing"


class World:
    """An authority of servers, one of clients, and a bus between them."""

    def __init__(self, directory: Path) -> None:
        self.servers = Authority(directory / "servers")
        self.clients = Authority(directory / "clients")
        self.certificate, self.key = self.servers.server("bus")

    def settings(self, *more: str) -> list[str]:
        return [
            f"server.tls.cert_file={self.certificate}",
            f"server.tls.key_file={self.key}",
            f"server.tls.client_ca_file={self.clients.file}",
            "auth.service_mtls=true",
            *more,
        ]

    def context(self, *names: str, authority: Authority | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.servers.file)
        if names:
            context.load_cert_chain(*(authority or self.clients).client("client", *names))
        return context


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def connect(bus: Bus, context: ssl.SSLContext, subject: str = "billing", kind: str = "service") -> str:
    """What came of it: connected, or the code of the refusal."""
    url = f"wss://127.0.0.1:{bus.settings.server.port}/v1/ws"
    try:
        async with Client(url, bus.token(subject, kind=kind), tls=context, timeout=3.0) as client:
            await client.command("op.ping")
            return "connected"
    except ConnectionRefused as error:
        return error.code


@TRANSPORTS
async def test_a_service_shows_a_certificate_of_its_own(
    start_bus: StartBus, world: World, transport: str
) -> None:
    """The URI names tenant and subject; a certificate of somebody else, or none, is refused."""
    dns = '[{"dns": "mail.svc", "tenant": "demo", "subject": "mail"}]'
    bus = await start_bus(*world.settings(f"server.transport={transport}", f"auth.service_identities={dns}"))
    assert await connect(bus, world.context(BILLING)) == "connected"
    assert await connect(bus, world.context("arqonbus://demo/other", BILLING)) == "connected"
    assert await connect(bus, world.context("mail.svc"), "mail") == "connected"
    assert await connect(bus, world.context("MAIL.svc"), "mail") == "connected"
    refused = "AUTHORIZATION_ERROR"
    assert await connect(bus, world.context()) == refused
    for other in ("arqonbus://demo/shipping", "arqonbus://acme/billing", "arqonbus://demo/billing/x"):
        assert await connect(bus, world.context(other)) == refused
    assert await connect(bus, world.context("mail.svc")) == refused
    assert await connect(bus, world.context("*.svc"), "mail") == refused


@TRANSPORTS
async def test_people_need_none(start_bus: StartBus, world: World, transport: str) -> None:
    """On the same port, with or without a certificate that names nobody."""
    bus = await start_bus(*world.settings(f"server.transport={transport}"))
    assert await connect(bus, world.context(), "alice", "human") == "connected"
    assert await connect(bus, world.context(BILLING), "alice", "human") == "connected"


@TRANSPORTS
async def test_a_certificate_of_another_authority_ends_in_the_handshake(
    start_bus: StartBus, world: World, transport: str, tmp_path: Path
) -> None:
    """Whoever signs a URI of ours with an authority of his own gets nowhere, as a person neither."""
    bus = await start_bus(*world.settings(f"server.transport={transport}"))
    foreign = world.context(BILLING, authority=Authority(tmp_path / "foreign"))
    url = f"wss://127.0.0.1:{bus.settings.server.port}/v1/ws"
    with pytest.raises(Disconnected):
        async with Client(url, bus.token("billing", kind="service"), tls=foreign, timeout=3.0):
            pass


@TRANSPORTS
async def test_certificates_are_read_again_without_dropping_anybody(
    start_bus: StartBus, world: World, transport: str, tmp_path: Path
) -> None:
    """After a reload new connections see the new certificate and authority; old ones go on."""
    bus = await start_bus(*world.settings(f"server.transport={transport}"))
    url = f"wss://127.0.0.1:{bus.settings.server.port}/v1/ws"
    old_client = world.context(BILLING)
    async with Client(url, bus.token("alice"), tls=world.context()) as stays:
        fresh = World(tmp_path / "fresh") if (tmp_path / "fresh").mkdir() is None else world
        world.certificate.write_bytes(b"not PEM")
        with pytest.raises(ValueError, match=r"server\.tls cannot be used"):
            bus.service.reload(with_dev_key(bus.settings))
        assert await connect(bus, old_client) == "connected"
        world.certificate.write_bytes(fresh.certificate.read_bytes())
        world.key.write_bytes(fresh.key.read_bytes())
        world.clients.file.write_bytes(fresh.clients.file.read_bytes())
        bus.service.reload(with_dev_key(bus.settings))
        assert await connect(bus, fresh.context(BILLING)) == "connected"
        with pytest.raises(Disconnected):
            await connect(bus, world.context(BILLING))  # neither side knows the other's authority now
        assert (await stays.command("op.ping"))["pong"] is True


async def test_a_bus_that_could_verify_no_certificate_does_not_start(start_bus: StartBus) -> None:
    """auth.service_mtls without an authority would refuse every service, one by one."""
    with pytest.raises(ValueError, match="needs server"):
        await start_bus("auth.service_mtls=true")
