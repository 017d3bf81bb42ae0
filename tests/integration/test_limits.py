"""What tenants, identities and addresses may ask of a node together, and whose word counts on addresses."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from arqonbus.client import Client, Rejected
from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import BINARY, Raw, Response
from tests.integration.waiting import until
from tests.servers.valkey import running_server

TRANSPORTS = pytest.mark.parametrize("transport", ["picows", "websockets"])


async def ask(bus: Bus, token: str, headers: str = "", before: bytes = b"") -> Response:
    raw = await Raw.open(bus.settings.server.port)
    raw.send(before)
    return await raw.upgrade(token, "arqonbus.v1.json", headers=headers)


def codes(outcomes: list[object]) -> list[str]:
    return [outcome.error.code for outcome in outcomes if isinstance(outcome, Rejected)]


@TRANSPORTS
async def test_connections_of_each_scope_are_counted(start_bus: StartBus, transport: str) -> None:
    """One too many is refused with 503 and Retry-After; one that goes makes room."""
    bus = await start_bus(
        f"server.transport={transport}", "limits.identity.connections=1", "limits.tenant.connections=2"
    )
    first = await Raw.open(bus.settings.server.port)
    assert (await first.upgrade(bus.token("alice"))).status == 101
    refused = await ask(bus, bus.token("alice"))
    assert (refused.status, refused.json()["code"]) == (503, "TOO_MANY_CONNECTIONS")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await ask(bus, bus.token("bob"))).status == 101
    assert (await ask(bus, bus.token("carol"))).status == 503
    assert (await ask(bus, bus.token("alice", "acme"))).status == 101
    first.writer.close()
    await until(lambda: len(bus.node.clients) == 2, 5)
    assert (await ask(bus, bus.token("carol"))).status == 101


@TRANSPORTS
async def test_new_connections_have_a_rate(start_bus: StartBus, transport: str) -> None:
    """By address before the token is looked at, so that guessing tokens is slow too; 429 says when."""
    bus = await start_bus(f"server.transport={transport}", "limits.address.connections_per_second=1")
    for _ in range(5):
        assert (await ask(bus, "no.token.atall")).status == 401
    refused = await ask(bus, bus.token())
    assert (refused.status, refused.json()["code"]) == (429, "RATE_LIMITED")
    assert refused.headers["retry-after"] == "1"


async def publishes(bus: Bus, subject: str, tenant: str = "demo", count: int = 30) -> list[Envelope]:
    """The refusals of so many messages at once on a connection of its own."""
    raw = await Raw.open(bus.settings.server.port)
    await raw.upgrade(bus.token(subject, tenant), "arqonbus.v1.protobuf")
    await raw.envelopes()
    messages = [Envelope(id=new_ulid(), kind=MESSAGE, room="a", time_us=now_us()) for _ in range(count)]
    raw.send_frame(BINARY, wire_protobuf.frame_of(messages))
    answers: list[Envelope] = []
    while len(answers) < count:
        answers += await raw.envelopes()
    return [answer for answer in answers if answer.status.code == "RATE_LIMITED"]


async def test_messages_of_a_tenant_share_one_rate(start_bus: StartBus) -> None:
    """What one of its clients sends, another lacks; another tenant lacks nothing."""
    bus = await start_bus("limits.tenant.messages_per_second=10")
    limited = await publishes(bus, "alice")
    assert 5 <= len(limited) <= 10, "twenty may come at once"
    assert all(answer.status.retry_after_ms > 0 for answer in limited)
    assert len(await publishes(bus, "bob", count=20)) > 5
    assert not await publishes(bus, "carol", "acme", count=20)


async def test_bytes_of_an_identity_share_one_rate(start_bus: StartBus) -> None:
    """Both connections of alice draw on the same bytes; bob has his own."""
    bus = await start_bus("limits.identity.bytes_per_second=1000", "protocol.max_frame_bytes=64KiB")
    one, two, bob = await bus.client("alice"), await bus.client("alice"), await bus.client("bob")
    await one.publish("a", "x" * 40_000)
    with pytest.raises(Rejected) as caught:
        await two.publish("a", "x" * 40_000)
    assert caught.value.error.code == "RATE_LIMITED"
    await bob.publish("a", "x" * 40_000)


async def test_a_tenant_makes_no_rooms_without_bound(start_bus: StartBus) -> None:
    """Joining makes a room: so many rooms of a tenant, over all its connections; leaving makes room."""
    bus = await start_bus("limits.rooms_per_tenant=3")
    alice, bob, other = await bus.client("alice"), await bus.client("bob"), await bus.client("c", "acme")
    for room in ("a", "b"):
        await alice.command("op.rooms.join", {"room": room})
    await bob.command("op.rooms.join", {"room": "b"})
    await bob.command("op.rooms.join", {"room": "c"})
    for client in (alice, bob):
        with pytest.raises(Rejected, match="3 rooms") as caught:
            await client.command("op.rooms.join", {"room": "d"})
        assert caught.value.error.code == "RATE_LIMITED"
    await other.command("op.rooms.join", {"room": "d"})
    await alice.command("op.rooms.leave", {"room": "b"})
    with pytest.raises(Rejected):
        await alice.command("op.rooms.join", {"room": "d"})
    await alice.command("op.rooms.leave", {"room": "a"})
    await alice.command("op.rooms.join", {"room": "d"})
    await alice.close()
    await until(lambda: len(bus.node.clients) == 2, 5)
    await bob.command("op.rooms.join", {"room": "e"})


async def test_joins_have_a_rate(start_bus: StartBus) -> None:
    """Of an identity, over all its connections."""
    bus = await start_bus("limits.identity.joins_per_second=1")
    one, two = await bus.client("alice"), await bus.client("alice")
    await one.command("op.rooms.join", {"room": "a"})
    await two.command("op.rooms.join", {"room": "b"})
    with pytest.raises(Rejected) as caught:
        await one.command("op.rooms.join", {"room": "c"})
    assert (caught.value.error.code, caught.value.error.retry_after_ms > 0) == ("RATE_LIMITED", True)


async def test_commands_in_flight_are_bounded(start_bus: StartBus) -> None:
    """Of one connection and of an identity; what was answered counts no more."""
    bus = await start_bus("limits.identity.commands=4", "limits.commands_per_connection=3")
    one, two = await bus.client("alice"), await bus.client("alice")
    for clients, most in (([one], 3), ([one, two], 4)):
        work = [client.command("op.ping") for client in clients for _ in range(10)]
        limited = codes(await asyncio.gather(*work, return_exceptions=True))
        assert 0 < len(limited) <= len(work) - most
        assert set(limited) == {"RATE_LIMITED"}
    assert (await one.command("op.ping"))["pong"] is True
    assert all(account.commands == 0 for account in bus.node.quotas._accounts.values())


async def test_limits_are_taken_over_while_connections_stay(start_bus: StartBus) -> None:
    """Those that are open count under the new ones."""
    bus = await start_bus()
    await bus.client("alice")
    limits = bus.settings.limits
    tight = limits.model_copy(update={"tenant": limits.tenant.model_copy(update={"connections": 1})})
    bus.service.reload(bus.settings.model_copy(update={"limits": tight}))
    assert (await ask(bus, bus.token("bob"))).status == 503


# -- where a client is


@TRANSPORTS
async def test_a_forwarded_address_counts_only_from_a_trusted_proxy(
    start_bus: StartBus, transport: str
) -> None:
    """From there each client has an account of its own; from elsewhere the header changes nothing."""
    limit = ("limits.address.connections=1", f"server.transport={transport}")
    headers = {
        "x-forwarded-for": ("X-Forwarded-For: {}\r\n", "9.9.9.9, 192.0.2.1", "8.8.8.8, 192.0.2.1"),
        "forwarded": ("Forwarded: {}\r\n", "for=9.9.9.9, for=192.0.2.1;proto=https", 'for="192.0.2.1:80"'),
    }
    for name, (line, first, again) in headers.items():
        trusting = await start_bus(
            *limit, "server.trusted_proxies=[127.0.0.1]", f"server.forwarded_header={name}"
        )
        other = "Forwarded: for=192.0.2.9\r\n" if name != "forwarded" else "X-Forwarded-For: 192.0.2.9\r\n"
        assert (await ask(trusting, trusting.token(), line.format(first) + other)).status == 101
        # What the client itself claims stands to the left of what the proxy added.
        assert (await ask(trusting, trusting.token(), line.format(again))).status == 503
        assert {peer.address for peer in trusting.node.clients.values()} == {"192.0.2.1"}
    distant = await start_bus(
        *limit, "server.trusted_proxies=[10.0.0.0/8]", "server.forwarded_header=x-forwarded-for"
    )
    assert (await ask(distant, distant.token(), "X-Forwarded-For: 192.0.2.1\r\n")).status == 101
    assert (await ask(distant, distant.token(), "X-Forwarded-For: 192.0.2.9\r\n")).status == 503
    assert {peer.address for peer in distant.node.clients.values()} == {"127.0.0.1"}


def version_2(address: str, *, local: bool = False) -> bytes:
    parts = socket.inet_aton(address) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", 4711, 9100)
    head = b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x20 if local else 0x21, 0x11, len(parts))
    return head + parts


async def is_cut_off(raw: Raw) -> bool:
    try:
        return await raw.ended()
    except ConnectionResetError:  # it was ended with bytes unread
        return True


@TRANSPORTS
async def test_a_tcp_proxy_says_who_is_behind_it(start_bus: StartBus, transport: str) -> None:
    """In version 1 and 2 of the PROXY protocol; a health check of the proxy is the proxy itself."""
    bus = await start_bus(
        f"server.transport={transport}", "server.proxy_protocol=true", "server.trusted_proxies=[127.0.0.1]"
    )
    v1 = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 9100\r\n"
    for header in (v1, version_2("192.0.2.2"), version_2("192.0.2.3", local=True)):
        assert (await ask(bus, bus.token(), before=header)).status == 101
    assert {peer.address for peer in bus.node.clients.values()} == {"192.0.2.1", "192.0.2.2", "127.0.0.1"}
    for bad in (b"PROXY TCP4 x y 1 2\r\n", b"GET /v1/ws HTTP/1.1\r\n\r\n", b"PROXY " + b"x" * 200):
        raw = await Raw.open(bus.settings.server.port)
        raw.send(bad)
        assert await is_cut_off(raw)
    client = await asyncio.open_connection("127.0.0.1", bus.settings.server.port)
    client[1].close()
    await client[1].wait_closed()


@TRANSPORTS
async def test_a_proxy_header_from_elsewhere_is_no_header(start_bus: StartBus, transport: str) -> None:
    """Whoever is no proxy of ours is served without one, and gets nowhere with one."""
    bus = await start_bus(
        f"server.transport={transport}", "server.proxy_protocol=true", "server.trusted_proxies=[10.0.0.0/8]"
    )
    assert (await ask(bus, bus.token())).status == 101
    raw = await Raw.open(bus.settings.server.port)
    raw.send(version_2("192.0.2.1"))
    raw.send(b"GET /v1/ws HTTP/1.1\r\n\r\n")
    assert await is_cut_off(raw)
    assert {peer.address for peer in bus.node.clients.values()} == {"127.0.0.1"}


@pytest.mark.servers
async def test_a_limit_that_all_nodes_share(start_bus: StartBus, tmp_path: Path) -> None:
    """Two nodes together grant what one of them would, after a moment."""
    with running_server(tmp_path / "valkey") as server:
        overrides = [
            "storage.backend=valkey",
            f"datastores.valkey.url={server.url}",
            "limits.shared=true",
            "limits.tenant.messages_per_second=200",
        ]
        buses = [await start_bus(*overrides) for _ in range(2)]
        clients = [await bus.client(timeout=0.5) for bus in buses]
        stop = asyncio.Event()

        async def publish(client: Client) -> None:
            while not stop.is_set():
                await asyncio.gather(*(client.publish("r", 1) for _ in range(20)), return_exceptions=True)

        load = [asyncio.create_task(publish(client)) for client in clients]

        def parts() -> list[float]:
            return [
                account.messages.rate
                for bus in buses
                for account in bus.node.quotas._accounts.values()
                if account.scope == "tenant"
            ]

        await until(lambda: len(parts()) == 2 and sum(parts()) <= 1.2 * 200, 30)
        assert all(part >= 0.2 * 200 for part in parts())
        stop.set()
        await asyncio.gather(*load)
