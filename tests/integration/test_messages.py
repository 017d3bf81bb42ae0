"""Messages that flow: publish, subscribe, channels, direct messages, acks, on both adapters and wires."""

from __future__ import annotations

import asyncio
import json

import pytest

from arqonbus.bus.skew import LOOKS
from arqonbus.client import Client, Disconnected, Position, Rejected
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.ids import new_ulid
from tests.integration.conftest import Bus, StartBus
from tests.integration.waiting import until


async def take(subscription, count: int) -> list:
    async with asyncio.timeout(10):
        return [await anext(subscription) for _ in range(count)]


async def test_a_subscriber_gets_what_is_published(bus: Bus, wire: str) -> None:
    """A message reaches a subscriber as it was sent, stamped with sender, sequence and epoch."""
    publisher, reader = await bus.client("pub", wire=wire), await bus.client("sub", wire=wire)
    orders = await reader.subscribe("orders")
    ack = await publisher.publish(
        "orders", {"n": 2**53 + 1, "text": "ä€😀"}, name="order.created", headers={"k": "v"}
    )
    [message] = await take(orders, 1)
    assert message.json() == {"n": 2**53 + 1, "text": "ä€😀"}
    assert (message.id, message.name, message.headers["k"]) == (ack.id, "order.created", "v")
    assert (message.sequence, message.epoch) == (ack.sequence, ack.epoch) == (1, ack.epoch)
    assert message.sender == publisher.welcome["client"]
    assert message.envelope.tenant == "demo"


@pytest.mark.parametrize(
    "payload", [b"", b"\x00\xff\n\r", bytes(range(256)) * 4096], ids=["none", "raw", "1MiB"]
)
async def test_payload_bytes_arrive_unchanged(bus: Bus, wire: str, payload: bytes) -> None:
    """Bytes of any value and up to 1 MiB arrive bit for bit on both wires."""
    publisher, reader = await bus.client(wire=wire), await bus.client(wire=wire)
    room = await reader.subscribe("bytes")
    await publisher.publish("bytes", payload, content_type="application/octet-stream")
    [message] = await take(room, 1)
    assert message.payload == payload


async def test_wires_meet_in_one_room(bus: Bus) -> None:
    """A JSON client and a protobuf client in one room get the same messages in the same order."""
    binary, text = await bus.client(wire="protobuf"), await bus.client(wire="json")
    rooms = [await client.subscribe("mixed") for client in (binary, text)]
    for n in range(20):
        await (binary if n % 2 else text).publish("mixed", {"n": n})
    seen = [[(m.sequence, m.json()["n"], m.id, m.sender) for m in await take(room, 20)] for room in rooms]
    assert seen[0] == seen[1]
    assert [n for _, n, _, _ in seen[0]] == list(range(20))


async def test_many_at_once_keep_their_order(bus: Bus, wire: str) -> None:
    """What one client publishes without waiting arrives in the order in which it was sent."""
    publisher, reader = await bus.client(wire=wire), await bus.client(wire=wire)
    room = await reader.subscribe("busy")
    acks = await asyncio.gather(*(publisher.publish("busy", n) for n in range(500)))
    assert [m.json() for m in await take(room, 500)] == list(range(500))
    assert [ack.sequence for ack in acks] == list(range(1, 501))


async def test_a_channel_filters(bus: Bus) -> None:
    """A member of a channel gets that channel's messages only; a member of the room gets all."""
    client = await bus.client()
    eu, everything = (
        await client.subscribe("orders", channel="eu"),
        await (await bus.client()).subscribe("orders"),
    )
    for channel in ("eu", "us", "", "eu"):
        await client.publish("orders", channel, channel=channel)
    assert [m.channel for m in await take(everything, 4)] == ["eu", "us", "", "eu"]
    assert [m.sequence for m in await take(eu, 2)] == [1, 4]


async def test_a_repeated_id_is_stored_once(bus: Bus, wire: str) -> None:
    """Publishing an id again is acked as a duplicate with the first sequence, and not delivered again."""
    client = await bus.client(wire=wire)
    room = await client.subscribe("orders")
    message_id = new_ulid()
    first = await client.publish("orders", 1, message_id=message_id)
    again = await client.publish("orders", 2, message_id=message_id)
    other = await client.publish("orders", 3)
    assert (again.duplicate, again.sequence, first.duplicate) == (True, first.sequence, False)
    assert other.sequence == first.sequence + 1
    assert [m.json() for m in await take(room, 2)] == [1, 3]


async def test_an_ack_says_how_safe_the_message_is(bus: Bus) -> None:
    """With the memory engine the ack claims no more than memory."""
    assert (await (await bus.client()).publish("orders", 1)).durability == "memory"


async def test_a_direct_message_reaches_one_client(bus: Bus, wire: str) -> None:
    """A direct message reaches its recipient only; an unknown recipient is NOT_FOUND."""
    heard: asyncio.Queue = asyncio.Queue()
    sender = await bus.client("a", wire=wire)
    target = await bus.client("b", wire=wire, on_direct=heard.put_nowait)
    ack = await sender.send(target.welcome["client"], {"hi": 1})
    message = await asyncio.wait_for(heard.get(), 5)
    assert message.json() == {"hi": 1}
    assert message.sender == sender.welcome["client"]
    assert ack.durability == "memory"
    with pytest.raises(Rejected) as refused:
        await sender.send(f"{new_ulid()}.{bus.node.name}", 1)
    assert refused.value.code == "NOT_FOUND"


async def test_presence_lists_and_signals(bus: Bus) -> None:
    """Whoever asked for presence hears of joins and leaves; the list names who is there."""
    signals: asyncio.Queue = asyncio.Queue()
    watcher = await bus.client("watcher", on_signal=signals.put_nowait)
    await watcher.subscribe("lobby", presence=True)
    guest = await bus.client("guest")
    visit = await guest.subscribe("lobby")
    listed = await watcher.command("op.rooms.presence", {"room": "lobby"})
    assert {client["subject"] for client in listed["clients"]} == {"watcher", "guest"}
    await visit.close()
    names = []
    async with asyncio.timeout(5):
        while len(names) < 2:
            signal = await signals.get()
            if signal.name.startswith("presence."):
                names.append((signal.name, signal.room))
    assert names == [("presence.join", "lobby"), ("presence.leave", "lobby")]


async def test_a_client_that_vanishes_leaves_its_rooms(bus: Bus) -> None:
    """When a connection breaks, the client is taken off the presence lists of its rooms."""
    watcher = await bus.client("watcher")
    await watcher.subscribe("lobby")
    guest = Client(bus.url, bus.token("guest"), timeout=5)
    await guest.connect()
    await guest.subscribe("lobby")
    await guest.close()

    async def alone() -> bool:
        return len((await watcher.command("op.rooms.presence", {"room": "lobby"}))["clients"]) == 1

    await until(alone)


async def test_join_with_since_recovers_exactly(bus: Bus, wire: str) -> None:
    """Joining since a position gives exactly the messages behind it, then what is new."""
    client = await bus.client(wire=wire)
    acks = [await client.publish("orders", n) for n in range(10)]
    reader = await bus.client(wire=wire)
    room = await reader.subscribe("orders", since=Position(acks[3].epoch, acks[3].sequence))
    await client.publish("orders", 10)
    assert [m.json() for m in await take(room, 7)] == [4, 5, 6, 7, 8, 9, 10]


async def test_recovery_that_cannot_be_proven_is_not_claimed(bus: Bus) -> None:
    """Another epoch, a position ahead of the log, or a trimmed one answers recovered: false."""
    client = await bus.client()
    ack = await client.publish("orders", 1)
    for epoch, sequence in ((new_ulid(), 1), (ack.epoch, 99)):
        since = {"epoch": epoch, "sequence": sequence}
        answer = await client.command("op.rooms.join", {"room": "orders", "since": since})
        assert answer["recovered"] is False
        assert answer["position"] == {"epoch": ack.epoch, "sequence": 1}
        await client.command("op.rooms.leave", {"room": "orders"})


async def test_every_request_has_one_reply(bus: Bus, wire: str) -> None:
    """A command and a message are each answered once; an unknown operation says what was meant."""
    client = await bus.client(wire=wire)
    assert (await client.command("op.ping"))["pong"] is True
    with pytest.raises(Rejected, match=r"did you mean op\.rooms\.join"):
        await client.command("op.room.join")
    helped = await client.command("op.help", {"operation": "op.rooms.join"})
    assert set(helped["operations"][0]["arguments"]["$defs"]) >= {"JoinArguments"}


async def test_a_stopped_bus_is_said_so(bus: Bus) -> None:
    """A command that has no answer because the bus went away raises Disconnected."""
    client = await bus.client(timeout=1.0)
    await bus.service.stop()
    with pytest.raises(Disconnected):
        await client.command("op.ping")


async def test_a_quiet_room_can_be_resumed(bus: Bus, wire: str) -> None:
    """Whoever joined a room before its first message recovers that message when coming back."""
    early = await bus.client(wire=wire)
    joined = await early.command("op.rooms.join", {"room": "quiet"})
    await early.command("op.rooms.leave", {"room": "quiet"})
    await (await bus.client()).publish("quiet", "first")
    again = await early.command("op.rooms.join", {"room": "quiet", "since": joined["position"]})
    assert (again["recovered"], again["missed"]) == (True, 1)


async def test_a_large_recovery_is_no_slow_consumer(start_bus: StartBus) -> None:
    """What a client missed may exceed its send queue; it gets all of it, and what is new behind it."""
    bus = await start_bus("limits.send_queue_bytes=64KiB")
    publisher = await bus.client()
    acks = [await publisher.publish("big", b"x" * 100_000) for _ in range(30)]
    reader = await bus.client()
    room = await reader.subscribe("big", since=Position(acks[0].epoch, 0))
    await publisher.publish("big", b"new")
    messages = await take(room, 31)
    assert [m.sequence for m in messages] == list(range(1, 32))
    assert reader.reconnects == 0


async def test_a_join_that_fails_leaves_no_trace(bus: Bus) -> None:
    """A join that is refused half way does not leave the client on the presence list."""
    client = await bus.client()
    since = {"epoch": new_ulid(), "sequence": "not a number"}
    with pytest.raises(Rejected, match="decimal integer"):
        await client.command("op.rooms.join", {"room": "r", "since": since})
    assert (await client.command("op.rooms.presence", {"room": "r"}))["clients"] == []


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_client_whose_clock_is_off_is_told(bus: Bus, wire: str, hours: int) -> None:
    """Ahead at once, behind when all its messages are; the message itself is taken."""
    heard: list[dict] = []

    def on_signal(signal: Envelope) -> None:
        if signal.name == "clock.skew":
            heard.append(json.loads(signal.payload))

    class Off:
        """A clock that is off, where a signature would be made."""

        def sign(self, envelope: Envelope, tenant: str) -> None:
            envelope.time_us += hours * 3_600_000_000
            peer.skew.due = 0.0  # as if a second had gone by

    client = await bus.client(wire=wire, on_signal=on_signal, signer=Off())
    [peer] = bus.node.clients.values()
    for n in range(LOOKS):
        await client.publish("orders", n)
    await until(lambda: len(heard) == 1, 5)
    assert abs(heard[0]["ahead_ms"] - hours * 3_600_000) < 60_000
    assert heard[0]["tolerated_ms"] == 30_000
    assert sum(bus.node.counters.clock_skews.values()) == 1
    assert peer.skew.skewed
