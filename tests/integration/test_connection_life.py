"""A connection over time: pings, idleness, tokens that end, slow readers, drains, reconnects."""

from __future__ import annotations

import asyncio
import json

import pytest

from arqonbus.client import Client, Closed, MessagesLost, Rejected
from arqonbus.config import load
from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import COMMAND, Envelope
from arqonbus.protocol.errors import BusError
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from arqonbus.service.bus import reload
from tests.integration.conftest import REPOSITORY, Bus, StartBus
from tests.integration.raw import BINARY, PING, PONG, Raw
from tests.integration.waiting import until
from tests.servers.processes import free_port

PROTOBUF = "arqonbus.v1.protobuf"
TRANSPORTS = pytest.mark.parametrize("transport", ["picows", "websockets"])


def command(name: str, **arguments: object) -> bytes:
    payload = json.dumps(arguments).encode()
    envelope = Envelope(id=new_ulid(), kind=COMMAND, name=name, time_us=now_us(), payload=payload)
    return wire_protobuf.frame_of([envelope])


async def connected(bus: Bus, **token: object) -> Raw:
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(bus.token(**token), PROTOBUF)).status == 101  # type: ignore[arg-type]
    await raw.envelopes()
    return raw


async def test_the_welcome_tells_what_a_client_needs(bus: Bus) -> None:
    """The first frame is a welcome with client id, version, node, limits, ping interval and capabilities."""
    welcome = (await bus.client()).welcome
    assert welcome["client"].endswith(bus.node.name)
    assert welcome["limits"]["max_frame_bytes"] == bus.settings.protocol.max_frame_bytes
    assert welcome["capabilities"]["durability"] == "memory"
    assert welcome["capabilities"]["consumer_groups"] is False
    assert {"version", "node", "server_time", "ping_interval_ms"} <= set(welcome)


@TRANSPORTS
async def test_a_silent_client_is_pinged_and_then_dropped(start_bus: StartBus, transport: str) -> None:
    """A client that answers pings stays; one that does not is dropped after the timeout."""
    bus = await start_bus(f"server.transport={transport}", "limits.ping_interval=1", "limits.ping_timeout=1")
    raw = await connected(bus)
    assert (await raw.frame()).opcode == PING
    raw.send_frame(PONG, b"")
    assert (await raw.frame()).opcode == PING
    assert await raw.ended()
    await until(lambda: not bus.node.clients)


@TRANSPORTS
async def test_a_ping_is_answered(start_bus: StartBus, transport: str) -> None:
    """A client's ping comes back as a pong with its payload."""
    bus = await start_bus(f"server.transport={transport}")
    raw = await connected(bus)
    raw.send_frame(PING, b"here?")
    assert await raw.frame() == (PONG, b"here?")


async def test_an_idle_client_is_closed(start_bus: StartBus) -> None:
    """With idle_timeout set, a connection without envelopes is closed with 1001, pongs or not."""
    bus = await start_bus("limits.idle_timeout=1")
    assert (await (await connected(bus)).close_frame()).close_code == 1001


async def test_a_token_that_ends_is_announced_then_enforced(start_bus: StartBus) -> None:
    """Within the refresh window comes a warning; without a refresh the connection ends with 4101."""
    bus = await start_bus("auth.refresh_window=60", "auth.jwt.leeway=0")
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(bus.token(ttl=2), PROTOBUF)).status == 101
    _, warning = await raw.envelopes()
    assert warning.name == "token.expiring"
    assert (await raw.close_frame()).close_code == 4101


async def test_a_refreshed_token_keeps_the_connection(start_bus: StartBus) -> None:
    """op.auth.refresh with a token of the same tenant and subject goes on; another subject is refused."""
    bus = await start_bus("auth.refresh_window=60", "auth.jwt.leeway=0")
    client = await bus.client(ttl=3)
    with pytest.raises(Rejected) as refused:
        await client.command("op.auth.refresh", {"token": bus.token("mallory")})
    assert refused.value.code == "AUTHORIZATION_ERROR"
    await client.command("op.auth.refresh", {"token": bus.token(ttl=600)})
    identity = bus.node.clients[client.welcome["client"]].session.identity
    await until(lambda: bus.node.upkeep is not None and identity.expires_at > 0)
    await asyncio.sleep(3.5)  # the first token's end passes
    assert (await client.command("op.ping"))["pong"]
    assert client.reconnects == 0


async def test_the_client_renews_its_token_by_itself(start_bus: StartBus) -> None:
    """With a token function the client refreshes on the open connection when it is warned."""
    bus = await start_bus("auth.refresh_window=60", "auth.jwt.leeway=0")
    made = iter([bus.token(ttl=2)])
    async with Client(bus.url, lambda: next(made, None) or bus.token(ttl=600), timeout=5) as client:
        peer = bus.node.clients[client.welcome["client"]]
        first = peer.session.identity.expires_at
        await until(lambda: peer.session.identity.expires_at > first)
        assert client.reconnects == 0


async def test_a_refresh_that_grants_less_leaves_rooms(start_bus: StartBus) -> None:
    """Rooms that a renewed token no longer grants are left, with a signal."""
    bus = await start_bus()
    signals: list[str] = []
    client = await bus.client(
        grants=("a:subscribe", "b:subscribe"),
        on_signal=lambda signal: signals.append(signal.name + signal.room),
    )
    await client.subscribe("a")
    await client.subscribe("b")
    await client.command("op.auth.refresh", {"token": bus.token(grants=("a:subscribe",))})
    await until(lambda: "leftb" in signals)
    peer = bus.node.clients[client.welcome["client"]]
    assert [key.room for key in peer.rooms] == ["a"]


@TRANSPORTS
async def test_a_stalled_reader_is_disconnected_and_delays_nobody(
    start_bus: StartBus, transport: str
) -> None:
    """A reader that takes nothing is closed with 4008 at its byte budget; others get everything."""
    bus = await start_bus(f"server.transport={transport}", "limits.send_queue_bytes=256KiB")
    stalled = await connected(bus)
    stalled.send_frame(BINARY, command("op.rooms.join", room="flood"))
    await stalled.envelopes()
    healthy, publisher = await bus.client(), await bus.client()
    flood = await healthy.subscribe("flood")
    payload = b"x" * 50_000

    async def read() -> int:
        count = 0
        async for _ in flood:
            count += 1
            if count == 400:
                return count
        return count

    reading = asyncio.create_task(read())
    for _ in range(400):
        await publisher.publish("flood", payload)
    assert await asyncio.wait_for(reading, 20) == 400
    await until(lambda: bus.node.counters.connections_closed[4008] == 1)


async def test_drop_oldest_drops_and_says_so(start_bus: StartBus) -> None:
    """In a drop_oldest room a slow reader stays connected and is told exactly what it misses."""
    bus = await start_bus(
        "limits.send_queue_bytes=256KiB", 'rooms=[{"match": "flood", "slow_consumer": "drop_oldest"}]'
    )
    slow = await connected(bus)
    slow.send_frame(BINARY, command("op.rooms.join", room="flood"))
    await slow.envelopes()
    publisher = await bus.client()
    for _ in range(400):
        await publisher.publish("flood", b"x" * 50_000)
    seen: list[int] = []
    missing: set[int] = set()
    while len(seen) + len(missing) < 400:
        for envelope in await slow.envelopes():
            if envelope.name == "gap":
                facts = json.loads(envelope.payload)
                missing |= set(range(facts["first"], facts["last"] + 1))
            elif envelope.sequence:
                seen.append(envelope.sequence)
    assert missing
    assert seen == sorted(seen)
    assert set(seen).isdisjoint(missing)
    assert set(seen) | missing == set(range(1, 401))


async def test_latest_keeps_the_newest_of_each_key(start_bus: StartBus) -> None:
    """In a latest room a slow reader gets the newest message of each key, in sequence order."""
    bus = await start_bus(
        "limits.send_queue_bytes=512KiB", 'rooms=[{"match": "prices", "slow_consumer": "latest"}]'
    )
    slow = await connected(bus)
    slow.send_frame(BINARY, command("op.rooms.join", room="prices"))
    await slow.envelopes()
    publisher = await bus.client()
    for n in range(400):
        await publisher.publish("prices", b"x" * 50_000, headers={"key": f"k{n % 3}"})
    seen: list[int] = []
    while not {398, 399, 400} <= set(seen):
        seen += [envelope.sequence for envelope in await slow.envelopes() if envelope.sequence]
    assert seen == sorted(set(seen))
    assert len(seen) < 400
    assert bus.node.counters.connections_closed[4008] == 0


async def test_a_drain_sends_everybody_elsewhere(bus: Bus) -> None:
    """On a drain clients hear goaway, then close 1012; new ones get 503; what was acked is stored."""
    raw = await connected(bus)
    publisher = await bus.client()
    await publisher.publish("orders", 1)
    draining = asyncio.create_task(bus.node.drain())
    [goaway] = await raw.envelopes()
    assert goaway.name == "goaway"
    assert json.loads(goaway.payload)["reconnect_after_ms"] >= 0
    late = await Raw.open(bus.settings.server.port)
    answer = await late.upgrade(bus.token(), PROTOBUF)
    assert (answer.status, answer.json()["code"]) == (503, "DRAINING")
    assert "retry-after" in answer.headers
    assert (await raw.close_frame()).close_code == 1012
    await raw.close()
    await draining


async def test_a_client_comes_back_and_resumes(start_bus: StartBus, tmp_path) -> None:
    """After a restart of a bus with a kept log the client reconnects and misses and repeats nothing."""
    port = free_port()
    overrides = ("storage.backend=sqlite", f"server.port={port}")
    first = await start_bus(*overrides)
    reader, publisher = await first.client(), await first.client("pub")
    orders = await reader.subscribe("orders")
    for n in range(5):
        await publisher.publish("orders", n)
    await first.service.stop()
    publishing = asyncio.create_task(publisher.publish("orders", 5))
    second = await start_bus(*overrides)
    await publishing
    third = await second.client("other")
    await third.publish("orders", 6)
    async with asyncio.timeout(10):
        assert [(await anext(orders)).json() for _ in range(7)] == list(range(7))
    assert reader.reconnects >= 1


async def test_a_lost_log_is_not_hidden(start_bus: StartBus) -> None:
    """When the bus comes back without its log, the subscriber is told that messages may be lost."""
    port = free_port()
    first = await start_bus(f"server.port={port}")
    reader = await first.client()
    orders = await reader.subscribe("orders")
    await reader.publish("orders", 1)
    assert (await anext(orders)).json() == 1
    await first.service.stop()
    await start_bus(f"server.port={port}")
    with pytest.raises(MessagesLost):
        await asyncio.wait_for(anext(orders), 10)


async def test_a_final_close_ends_the_client(start_bus: StartBus) -> None:
    """After a close code of 4100-4199 the client does not come back; its subscriptions raise Closed."""
    bus = await start_bus("auth.refresh_window=1", "auth.jwt.leeway=0")
    client = await bus.client(ttl=2)
    orders = await client.subscribe("orders")
    with pytest.raises(Closed) as closed:
        await asyncio.wait_for(anext(orders), 10)
    assert closed.value.code == 4101


async def test_hot_settings_are_taken_over_without_disconnecting(start_bus: StartBus, tmp_path) -> None:
    """A changed limit, room rule and key hold from the reload on; the connection stays."""
    bus = await start_bus()
    state = f"state_dir={bus.settings.state_dir}"
    kept = [state, f"server.port={bus.settings.server.port}", f"telemetry.port={bus.settings.telemetry.port}"]
    kept += ["storage.backend=memory", "server.drain_seconds=0.3"]

    def profile(*overrides: str):
        return load("dev", root=REPOSITORY, environ={}, overrides=[*kept, *overrides])

    client = await bus.client(timeout=0.5)
    hot = profile(
        "limits.messages_per_second=1", "limits.messages_burst=3", 'rooms=[{"match": "x", "history": "off"}]'
    )
    running, changed = reload(bus.service, profile(), lambda: hot)
    assert running is hot
    assert set(changed) == {"limits.messages_per_second", "limits.messages_burst", "rooms"}
    for n in range(2):
        await client.publish("x", n)
    assert (await client.command("op.history.get", {"room": "x"}))["messages"] == []
    with pytest.raises(Rejected, match="RATE_LIMITED"):
        await asyncio.gather(*(client.publish("x", n) for n in range(4)))
    assert client.reconnects == 0
    running, changed = reload(bus.service, running, lambda: hot)
    assert changed == []


async def test_a_colder_change_is_not_taken_over(
    start_bus: StartBus, caplog: pytest.LogCaptureFixture
) -> None:
    """When one changed setting needs a restart, nothing is taken over and the log names it."""
    bus = await start_bus()
    old = load("dev", root=REPOSITORY, environ={})
    new = load("dev", root=REPOSITORY, environ={}, overrides=["server.port=9999", "limits.bad_frames=3"])
    with pytest.raises(BusError, match="1 changed settings need a restart"):
        reload(bus.service, old, lambda: new)
    assert bus.node.settings.limits.bad_frames == 10
    assert "need a restart" in caplog.text
