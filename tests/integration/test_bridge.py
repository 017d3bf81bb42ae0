"""The bridge to NATS on a real nats-server: both ways, refusals, no loops, and kills of either end."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.js import JetStreamContext

from arqonbus.config import Resolved, load
from arqonbus.preflight import online_subset
from arqonbus.preflight.model import Status
from arqonbus.protocol.ids import new_ulid
from tests.integration.conftest import REPOSITORY, Bus, StartBus
from tests.integration.waiting import until
from tests.servers.certificates import Authority
from tests.servers.nats import NatsServer, running_nats

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("bridge")]

SECRET = "Zq8mW2kT5vX1nR7pL4cY"
ORDERS = "shop.{tenant}.orders.>"


def overrides(
    server: NatsServer, *more: str, mappings: object = ({"subject": ORDERS, "room": "orders.*"},)
) -> list[str]:
    return [
        "storage.backend=sqlite",
        f"datastores.nats.url={server.url}",
        f"bridge.mappings={json.dumps(list(mappings))}",  # type: ignore[call-overload]
        'bridge.tenants=["demo","a.b"]',
        "bridge.create_stream=true",
        *more,
    ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "nats", "-js", "-sd", str(tmp_path / "jetstream")) as running:
        yield running


class Outside:
    """Somebody at NATS."""

    def __init__(self, client: NatsClient) -> None:
        self.client = client
        self.jetstream: JetStreamContext = client.jetstream()

    async def said(self, subject: str, count: int, seconds: float = 10.0) -> list[Any]:
        """The first messages of a subject in the stream."""
        found: list[Any] = []
        subscription = await self.jetstream.subscribe(subject, stream="ARQONBUS", ordered_consumer=True)
        async with asyncio.timeout(seconds):
            while len(found) < count:
                found.append(await subscription.next_msg(seconds))
        await subscription.unsubscribe()
        return found


@pytest.fixture
async def outside(server: NatsServer) -> AsyncIterator[Outside]:
    client = await nats.connect(server.url)
    yield Outside(client)
    await client.close()


async def started(start_bus: StartBus, *settings: str) -> Bus:
    """A bus whose bridge is connected."""
    bus = await start_bus(*settings)
    assert bus.service.bridge is not None
    state = bus.service.bridge.state
    await until(lambda: state.connected)
    return bus


async def test_in(start_bus: StartBus, server: NatsServer, outside: Outside) -> None:
    """What is published to a subject is delivered in its room, with content type, headers and id."""
    bus = await started(start_bus, *overrides(server))
    client = await bus.client()
    subscription = await client.subscribe("orders.eu")
    own = new_ulid()
    headers = {
        "Nats-Msg-Id": own,
        "Content-Type": "application/json",
        "kind": "é",
        "ack": "none",
        "ArqonBus-Name": "order",
    }
    await outside.jetstream.publish("shop.demo.orders.eu", b'{"n":1}', headers=headers)
    await outside.jetstream.publish("shop.demo.orders.eu", b"\x00\xff")
    first, second = [await asyncio.wait_for(anext(subscription), 10) for _ in range(2)]
    assert (first.id, json.loads(first.payload), first.name, dict(first.headers)) == (
        own,
        {"n": 1},
        "order",
        {"kind": "é"},
    )
    assert first.sender.startswith("nats-bridge.")
    assert (second.payload, second.sequence) == (b"\x00\xff", 2)


async def test_out(start_bus: StartBus, server: NatsServer, outside: Outside) -> None:
    """What is published in a room is stored under its subject, rooms that come later included."""
    bus = await started(start_bus, *overrides(server))
    client = await bus.client()
    ack = await client.publish(
        "orders.eu", {"n": 1}, name="order", headers={"kind": "é", "Nats-Rollup": "all", "x": "a\r\nY: z"}
    )
    [message] = await outside.said("shop.demo.orders.>", 1)
    assert (message.subject, json.loads(message.data)) == ("shop.demo.orders.eu", {"n": 1})
    headers = message.headers
    assert headers["Nats-Msg-Id"] == f"{ack.epoch}-{ack.sequence}"
    assert (headers["kind"], headers["ArqonBus-Name"], headers["Content-Type"]) == (
        "é",
        "order",
        "application/json",
    )
    assert json.loads(headers["ArqonBus-Headers"]) == {"Nats-Rollup": "all", "x": "a\r\nY: z"}
    assert not {"Nats-Rollup", "x", "Y"} & headers.keys()


async def test_a_message_goes_round_once(start_bus: StartBus, server: NatsServer, outside: Outside) -> None:
    """What came from the bus does not come back into it, and what came from NATS does not go back out."""
    bus = await started(start_bus, *overrides(server))
    client = await bus.client()
    await client.publish("orders.eu", {"from": "bus"})
    await outside.jetstream.publish("shop.demo.orders.eu", b"from nats")
    state = bus.service.bridge.state  # type: ignore[union-attr]
    await until(lambda: state.messages["in", "own"] == state.messages["out", "own"] == 1)
    assert (state.messages["in", "OK"], state.messages["out", "OK"]) == (1, 1)
    assert (await outside.jetstream.stream_info("ARQONBUS")).state.messages == 2
    assert len((await client.command("op.history.get", {"room": "orders.eu"}))["messages"]) == 2


async def test_two_buses_at_one_nats(start_bus: StartBus, server: NatsServer, outside: Outside) -> None:
    """Buses of different names exchange messages over NATS, each message once."""
    here = await started(start_bus, *overrides(server))
    there = await started(
        start_bus, *overrides(server, "bridge.name=there", f"storage.sqlite.path={server.directory}/b")
    )
    far = await (await there.client()).subscribe("orders.eu")
    await (await here.client()).publish("orders.eu", {"n": 1})
    message = await asyncio.wait_for(anext(far), 10)
    assert json.loads(message.payload) == {"n": 1}
    states = [bus.service.bridge.state for bus in (here, there)]  # type: ignore[union-attr]
    await until(lambda: states[0].messages["in", "own"] == states[1].messages["out", "own"] == 1)
    assert (await outside.jetstream.stream_info("ARQONBUS")).state.messages == 1


REFUSED = {
    "no room": ("shop.demo.orders.e!u", {}, b"", "VALIDATION_ERROR"),
    "too long": ("shop.demo.orders." + "x" * 128, {}, b"", "VALIDATION_ERROR"),
    "not our tenant": ("shop.other.orders.eu", {}, b"", "AUTHORIZATION_ERROR"),
    "not granted": ("shop.demo.orders.secret", {}, b"", "AUTHORIZATION_ERROR"),
    "too large": ("shop.demo.orders.eu", {}, b"x" * 2001, "TOO_LARGE"),
    "large headers": ("shop.demo.orders.eu", {"a": "x" * 4096}, b"", "TOO_LARGE"),
    "many headers": ("shop.demo.orders.eu", {f"h{n}": "x" for n in range(33)}, b"", "VALIDATION_ERROR"),
    "bad channel": ("shop.demo.orders.eu", {"ArqonBus-Channel": "a b"}, b"", "VALIDATION_ERROR"),
    "bad trace": ("shop.demo.orders.eu", {"traceparent": "00-1"}, b"", "VALIDATION_ERROR"),
    "bad signature": ("shop.demo.orders.eu", {"ArqonBus-Signature": "!"}, b"", "VALIDATION_ERROR"),
    "bad packed headers": ("shop.demo.orders.eu", {"ArqonBus-Headers": "[" * 3000}, b"", "VALIDATION_ERROR"),
    "blocked": ("shop.demo.orders.eu", {"Content-Type": "text/plain"}, b"project mercury", "POLICY_BLOCKED"),
}


async def test_refused_for_good(start_bus: StartBus, server: NatsServer, outside: Outside) -> None:
    """Behind the gates of a socket; what they refuse is in the dead letters, with code and subject."""
    bus = await started(
        start_bus,
        *overrides(
            server,
            "protocol.max_payload_bytes=2000",
            'bridge.grants=["orders.eu:publish", "orders.xx*:publish"]',
            "policy.mode=enforce",
            'policy.rules=[{"name": "m", "pattern": "mercury", "action": "block"}]',
        ),
    )
    for subject, headers, payload, _ in REFUSED.values():
        await outside.jetstream.publish(subject, payload, headers=headers or None)
    await outside.jetstream.publish("shop.demo.orders.eu", b"fine")
    dead = await outside.said("arqonbus.dead_letters", len(REFUSED))
    found = [(one.headers["ArqonBus-Subject"], one.data, one.headers["ArqonBus-Code"]) for one in dead]
    assert sorted(found) == sorted((subject, data, code) for subject, _, data, code in REFUSED.values())
    assert all(one.headers["ArqonBus-Reason"] for one in dead)
    state = bus.service.bridge.state  # type: ignore[union-attr]
    await until(lambda: state.messages["in", "OK"] == 1)
    consumer = await outside.jetstream.consumers_info("ARQONBUS")
    await until(lambda: state.connected)
    assert [info.num_pending for info in consumer if info.name.startswith("arqonbus-")] == [0]


async def test_refused_for_now(start_bus: StartBus, server: NatsServer, outside: Outside) -> None:
    """More than the limits allow comes again until all of it is in, once."""
    bus = await start_bus(*overrides(server, "limits.messages_per_second=20", "limits.messages_burst=20"))
    state = bus.service.bridge.state  # type: ignore[union-attr]
    await until(lambda: state.connected)
    for number in range(60):
        await outside.jetstream.publish("shop.demo.orders.eu", str(number).encode())
    client = await bus.client()
    await until(lambda: state.messages["in", "OK"] == 60, 60)
    assert state.messages["in", "RATE_LIMITED"] > 0
    history = await client.command("op.history.get", {"room": "orders.eu", "limit": 100})
    assert sorted(int(base64.b64decode(one["payload_b64"])) for one in history["messages"]) == list(range(60))


async def test_too_large_for_nats(start_bus: StartBus, tmp_path: Path) -> None:
    """A message that NATS cannot take is a dead letter of the bridge's group; those behind it go out."""
    (tmp_path / "small.conf").write_text("max_payload: 4096\n")
    directory = str(tmp_path / "jetstream")
    with running_nats(
        tmp_path / "nats", "-js", "-sd", directory, "-c", str(tmp_path / "small.conf")
    ) as server:
        bus = await started(start_bus, *overrides(server))
        client = await bus.client()
        await client.publish("orders.eu", "x" * 4000)  # fits only without its headers
        await client.publish("orders.eu", "fine")
        state = bus.service.bridge.state  # type: ignore[union-attr]
        await until(lambda: (state.messages["out", "TOO_LARGE"], state.messages["out", "OK"]) == (1, 1))
        assert state.connects == 1
        history = await client.command("op.history.get", {"room": "orders.eu.dlq.arqonbus.bridge"})
        [letter] = history["messages"]
        assert (letter["payload"], letter["headers"]["dlq.room"]) == ("x" * 4000, "orders.eu")
        assert "NATS takes 4096 bytes" in letter["headers"]["dlq.reason"]


async def test_no_groups(start_bus: StartBus, server: NatsServer) -> None:
    """Without consumer groups nothing goes out, the log says why, and what comes in goes on."""
    bus = await started(start_bus, *overrides(server), "storage.backend=memory")
    client = await bus.client()
    subscription = await client.subscribe("orders.eu")
    outside = await nats.connect(server.url)
    await outside.jetstream().publish("shop.demo.orders.eu", b"1")
    assert (await asyncio.wait_for(anext(subscription), 10)).payload == b"1"
    await outside.close()


async def test_nats_is_away(start_bus: StartBus, server: NatsServer) -> None:
    """The bus starts and serves without NATS, says so, and what was published meanwhile goes out later."""
    server.kill()
    bus = await start_bus(*overrides(server))
    client = await bus.client()
    for number in range(10):
        await client.publish("orders.eu", {"n": number})
    async with httpx.AsyncClient() as http:
        ready = await http.get(bus.http("/readyz?verbose"))
        assert (ready.status_code, ready.json()["bridge"]["connected"]) == (200, False)
        assert ready.json()["bridge"]["reason"]
        assert "arqonbus_bridge_connected 0.0" in (await http.get(bus.http("/metrics"))).text
        server.start()
        state = bus.service.bridge.state  # type: ignore[union-attr]
        await until(lambda: state.messages["out", "OK"] == 10, 30)
        assert (await http.get(bus.http("/readyz?verbose"))).json()["bridge"]["connected"] is True
        assert (
            'arqonbus_bridge_messages_total{direction="out",outcome="OK"} 10.0'
            in (await http.get(bus.http("/metrics"))).text
        )


@pytest.mark.parametrize("kind", ["password", "token"])
async def test_tls_and_who_we_are(start_bus: StartBus, tmp_path: Path, kind: str) -> None:
    """The bridge shows its password or token, over TLS that it verifies; with a wrong one it says why not."""
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.server("nats")
    who = ["--user", "bus", "--pass", SECRET] if kind == "password" else ["--auth", SECRET]
    tls = ["--tls", "--tlscert", str(certificate), "--tlskey", str(key)]
    with running_nats(tmp_path / "nats", "-js", "-sd", str(tmp_path / "jetstream"), *who, *tls) as server:
        settings = [
            *overrides(server),
            f"datastores.nats.url=tls://127.0.0.1:{server.port}",
            f"datastores.nats.tls.ca_file={authority.file}",
            *(["datastores.nats.user=bus"] if kind == "password" else []),
        ]
        bus = await started(start_bus, *settings, f"datastores.nats.password={SECRET}")
        await (await bus.client()).publish("orders.eu", {"n": 1})
        state = bus.service.bridge.state  # type: ignore[union-attr]
        await until(lambda: state.messages["out", "OK"] == 1)
        elsewhere = f"storage.sqlite.path={tmp_path}/wrong.sqlite"
        wrong = await start_bus(*settings, elsewhere, "datastores.nats.password=wrong-password-12345")
        reason = wrong.service.bridge.state  # type: ignore[union-attr]
        await until(lambda: "uthorization" in reason.reason)
        assert SECRET not in reason.reason


PREFLIGHT = {
    "no stream": ([], [], ["ARQ-NAT-006"]),
    "made by the bridge": ([], ["bridge.create_stream=true"], []),
    "all there": (["shop.>", "arqonbus.>"], [], []),
    "no subject": (["shop.a.orders.>", "arqonbus.dead_letters"], [], ["ARQ-NAT-007"]),
    "no dead letters": (["shop.*.orders.>"], [], ["ARQ-NAT-007"]),
}


def profile(state: Path, *settings: str) -> Resolved:
    return load("dev", root=REPOSITORY, environ={}, overrides=[f"state_dir={state}", *settings])


@pytest.mark.parametrize("case", PREFLIGHT)
async def test_preflight(server: NatsServer, outside: Outside, case: str, tmp_path: Path) -> None:
    """Preflight finds what the bridge would wait for."""
    subjects, more, found = PREFLIGHT[case]
    if subjects:
        await outside.jetstream.add_stream(name="ARQONBUS", subjects=subjects)
    given = [text for text in overrides(server, *more) if more or "create_stream" not in text]
    report = await online_subset(
        load("dev", root=REPOSITORY, environ={}, overrides=[f"state_dir={tmp_path}", *given])
    )
    ours = {r.check.id: r.outcome for r in report.results if r.check.id in ("ARQ-NAT-006", "ARQ-NAT-007")}
    assert [name for name, outcome in ours.items() if outcome.status is Status.FAILED] == found


async def test_preflight_without_jetstream(tmp_path: Path) -> None:
    """A server without JetStream is told as such."""
    with running_nats(tmp_path / "nats") as server:
        resolved = load(
            "dev", root=REPOSITORY, environ={}, overrides=[f"state_dir={tmp_path}", *overrides(server)]
        )
        report = await online_subset(resolved)
    [failed] = [r.outcome for r in report.results if r.check.id == "ARQ-NAT-006"]
    assert [remark.text for remark in failed.remarks] == ["JetStream is not enabled"]
