"""Tenants see nothing of each other; tokens may do what their grants say and no more."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.client import Position, Rejected
from tests.integration.conftest import Bus


async def refused(work) -> str:
    with pytest.raises(Rejected) as caught:
        await work
    return str(caught.value.code)


async def test_a_second_tenant_with_the_same_names_sees_nothing(bus: Bus) -> None:
    """Rooms, messages, history, recovery, presence, listings and direct messages stay in their tenant."""
    heard: list[object] = []
    ours, theirs = await bus.client(tenant="ours"), await bus.client(tenant="theirs", on_direct=heard.append)
    our_room, their_room = await ours.subscribe("orders"), await theirs.subscribe("orders")
    ack = await ours.publish("orders", "secret")
    await theirs.publish("orders", "theirs")
    assert (await anext(our_room)).json() == "secret"
    message = await anext(their_room)
    assert (message.json(), message.sequence) == ("theirs", 1)
    history = await theirs.command("op.history.get", {"room": "orders"})
    assert [m["payload"] for m in history["messages"]] == ["theirs"]
    await ours.publish("only-ours", 1)
    assert (await theirs.command("op.rooms.list"))["rooms"] == ["orders"]
    assert await refused(theirs.command("op.rooms.info", {"room": "only-ours"})) == "NOT_FOUND"
    assert await refused(theirs.command("op.history.get", {"room": "only-ours"})) == "NOT_FOUND"
    present = await theirs.command("op.rooms.presence", {"room": "orders"})
    assert [client["client"] for client in present["clients"]] == [theirs.welcome["client"]]
    assert await refused(ours.send(theirs.welcome["client"], "hi")) == "NOT_FOUND"
    assert heard == []
    third = await bus.client(tenant="theirs")
    answer = await third.command(
        "op.rooms.join", {"room": "orders", "since": {"epoch": ack.epoch, "sequence": 0}}
    )
    assert answer["recovered"] is False
    status = await theirs.command("op.status")
    assert (status["tenant"]["connections"], "load" in status) == (2, False)


async def test_grants_bound_what_a_token_may_do(bus: Bus) -> None:
    """Publish, subscribe, history, presence and manage are granted per room pattern; all else is refused."""
    client = await bus.client(grants=("orders.*:publish,subscribe", "log:history"))
    orders = await client.subscribe("orders.eu")
    await client.publish("orders.eu", 1)
    assert (await anext(orders)).json() == 1
    admin = await bus.client("root", role="admin")
    await admin.publish("log", 1)
    assert len((await client.command("op.history.get", {"room": "log"}))["messages"]) == 1
    for work in (
        client.publish("orders", 1),
        client.publish("log", 1),
        client.command("op.rooms.join", {"room": "log"}),
        client.command("op.rooms.join", {"room": "orders.eu", "presence": True}),
        client.command("op.history.get", {"room": "orders.eu"}),
        client.command("op.history.replay", {"room": "orders.eu"}),
        client.command("op.rooms.presence", {"room": "orders.eu"}),
        client.command("op.rooms.create", {"room": "orders.new"}),
        client.command("op.rooms.delete", {"room": "orders.eu"}),
        client.command("op.rooms.info", {"room": "secret"}),
    ):
        assert await refused(work) == "AUTHORIZATION_ERROR"
    await admin.command("op.rooms.create", {"room": "secret"})
    assert (await client.command("op.rooms.list"))["rooms"] == ["log", "orders.eu"]


async def test_rooms_are_created_listed_looked_at_and_deleted(bus: Bus) -> None:
    """A room that is created is listed; one that is deleted is gone and begins anew in another epoch."""
    client = await bus.client()
    await client.command("op.rooms.create", {"room": "b"})
    assert await refused(client.command("op.rooms.create", {"room": "b"})) == "CONFLICT"
    before = await client.publish("a", 1)
    page = await client.command("op.rooms.list", {"limit": 1})
    assert (page["rooms"], page["cursor"]) == (["a"], "a")
    assert (await client.command("op.rooms.list", {"after": "a"}))["rooms"] == ["b"]
    info = await client.command("op.rooms.info", {"room": "a"})
    assert (info["first"], info["last"], info["epoch"]) == (1, 1, before.epoch)
    await client.command("op.rooms.delete", {"room": "a"})
    assert await refused(client.command("op.rooms.delete", {"room": "a"})) == "NOT_FOUND"
    after = await client.publish("a", 1)
    assert after.epoch > before.epoch
    assert after.sequence == 1


async def test_a_deleted_room_tells_its_members(bus: Bus) -> None:
    """A member of a room that was deleted hears that the sequence began anew before the next message."""
    lost: list[object] = []
    client = await bus.client()
    room = await client.subscribe("a", on_lost=lost.append)
    await client.publish("a", 1)
    await client.command("op.rooms.delete", {"room": "a"})
    await client.publish("a", 2)
    async with asyncio.timeout(5):
        assert [(await anext(room)).json() for _ in range(2)] == [1, 2]
    assert len(lost) == 1


async def test_joining_twice_and_in_two_ways(bus: Bus) -> None:
    """A second join of the same place is answered; the room and a channel of it at once is a conflict."""
    client = await bus.client()
    ack = await client.publish("r", 1)
    for _ in range(2):
        await client.command("op.rooms.join", {"room": "r"})
    assert await refused(client.command("op.rooms.join", {"room": "r", "channel": "c"})) == "CONFLICT"
    since = {"epoch": ack.epoch, "sequence": 0}
    assert await refused(client.command("op.rooms.join", {"room": "r", "since": since})) == "CONFLICT"
    await client.command("op.rooms.leave", {"room": "r"})
    assert await refused(client.command("op.rooms.leave", {"room": "r"})) == "NOT_FOUND"
    assert Position(ack.epoch, 0).is_behind(Position(ack.epoch, 1))
