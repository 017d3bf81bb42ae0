"""A real bus on real sockets for each test, with either server adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from arqonbus.client import Client
from arqonbus.config import Settings, load, with_dev_key
from arqonbus.service.bus import BusService
from arqonbus.shield.grants import parse_grant
from arqonbus.shield.tokens import Claims, mint
from tests.integration.raw import Raw
from tests.servers.processes import free_port

REPOSITORY = Path(__file__).resolve().parents[2]


def settings_of(state_dir: Path, *overrides: str) -> Settings:
    """The dev profile on free ports with a short drain."""
    resolved = load(
        "dev",
        root=REPOSITORY,
        environ={},
        overrides=[
            f"state_dir={state_dir}",
            f"server.port={free_port()}",
            f"telemetry.port={free_port()}",
            "server.drain_seconds=0.3",
            "storage.backend=memory",
            *overrides,
        ],
    )
    return with_dev_key(resolved.settings)


class Bus:
    """A running bus and what tests ask of it."""

    def __init__(self, service: BusService, stack: AsyncExitStack) -> None:
        self.service = service
        self.settings = service.settings
        self.url = service.url
        self.node = service.node
        self._stack = stack

    def token(
        self,
        subject: str = "alice",
        tenant: str = "demo",
        *,
        role: str = "user",
        kind: str = "human",
        grants: tuple[str, ...] | None = None,
        ttl: float = 600,
    ) -> str:
        parsed = None if grants is None else [parse_grant(text) for text in grants]
        return mint(self.settings, Claims(tenant, subject, ttl, kind, role, parsed))  # type: ignore[arg-type]

    async def client(self, subject: str = "alice", tenant: str = "demo", **options: object) -> Client:
        """A connected client; closed at the end of the test."""
        keys = ("role", "kind", "grants", "ttl")
        token = self.token(subject, tenant, **{k: options.pop(k) for k in keys if k in options})  # type: ignore[arg-type]
        options.setdefault("timeout", 10.0)
        client = Client(self.url, token, **options)  # type: ignore[arg-type]
        return await self._stack.enter_async_context(client)

    def http(self, path: str) -> str:
        telemetry = self.settings.telemetry
        return f"http://{telemetry.host}:{telemetry.port}{path}"


StartBus = Callable[..., Awaitable[Bus]]


@pytest.fixture
async def start_bus(tmp_path: Path) -> AsyncIterator[StartBus]:
    """Start a bus with overrides of the dev profile; several may run at once."""
    async with AsyncExitStack() as stack:

        async def start(*overrides: str) -> Bus:
            service = BusService(settings_of(tmp_path / "state", *overrides))
            await service.start()
            stack.push_async_callback(service.stop)
            return Bus(service, stack)

        yield start
        await Raw.close_all()


@pytest.fixture(params=["picows", "websockets"])
async def bus(request: pytest.FixtureRequest, start_bus: StartBus) -> Bus:
    """A bus on each of the two server adapters."""
    return await start_bus(f"server.transport={request.param}")


@pytest.fixture(params=["protobuf", "json"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)
