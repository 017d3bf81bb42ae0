"""History over the socket is the same on every backend: windows, cursors, order, and what a hole is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from arqonbus.client import Client, Rejected
from tests.integration.conftest import Bus, StartBus
from tests.integration.test_tenants import refused
from tests.servers.valkey import ValkeyServer, running_server

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("valkey", marks=[pytest.mark.servers, pytest.mark.xdist_group("history")]),
    ]
)
async def bus(request: pytest.FixtureRequest, start_bus: StartBus) -> Bus:
    """A bus on each backend."""
    overrides = [f"storage.backend={request.param}"]
    if request.param == "valkey":
        server = request.getfixturevalue("valkey")
        server.ask("FLUSHALL")
        overrides.append(f"datastores.valkey.url={server.url}")
    return await start_bus(*overrides)


async def payloads(client: Client, room: str, **options: object) -> list[object]:
    return [message.json() async for message in client.history(room, **options)]  # type: ignore[arg-type]


async def test_history_pages_in_both_directions(bus: Bus) -> None:
    """get goes back from the newest, replay forward from the oldest; cursors lose and repeat nothing."""
    client = await bus.client()
    acks = [await client.publish("h", n, channel="even" if n % 2 == 0 else "odd") for n in range(25)]

    async def pages(operation: str, **arguments: object) -> list[int]:
        found: list[int] = []
        while True:
            page = await client.command(operation, {"room": "h", "limit": 4, **arguments})
            assert page["epoch"] == acks[0].epoch
            found += [message["payload"] for message in page["messages"]]
            if "cursor" not in page:
                return found
            arguments["cursor"] = page["cursor"]

    assert await pages("op.history.get") == list(range(24, -1, -1))
    assert await pages("op.history.replay", strict_sequence=True) == list(range(25))
    assert await pages("op.history.replay", channel="odd") == list(range(1, 25, 2))
    assert await pages("op.history.get", channel="even") == list(range(24, -1, -2))


async def test_history_windows_are_half_open(bus: Bus) -> None:
    """from <= t < to, by the server's time."""
    client = await bus.client()
    times = []
    for n in range(4):
        await client.publish("w", n)
        page = await client.command("op.history.get", {"room": "w", "limit": 1})
        times.append(page["messages"][0]["server_time"])
        await asyncio.sleep(0.002)
    window = {"room": "w", "from": times[1], "to": times[3]}
    found = await client.command("op.history.replay", window)
    assert [m["payload"] for m in found["messages"]] == [1, 2]
    found = await client.command("op.history.get", window)
    assert [m["payload"] for m in found["messages"]] == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"cursor": "x"}, "VALIDATION_ERROR"),
        ({"cursor": "01ARZ3NDEKTSV4RRFFQ69G5FAV:1"}, "POSITION_LOST"),
        ({"from": "2026-01-31T12:00:00"}, "VALIDATION_ERROR"),
        ({"limit": 0}, "VALIDATION_ERROR"),
        ({"limit": True}, "VALIDATION_ERROR"),
        ({"limit": "5"}, "VALIDATION_ERROR"),
        ({"strict_sequence": "false"}, "VALIDATION_ERROR"),
    ],
    ids=str,
)
async def test_bad_arguments_of_a_replay(bus: Bus, arguments: dict, code: str) -> None:
    """Each wrong argument is refused with its code."""
    client = await bus.client()
    await client.publish("h", 1)
    assert await refused(client.command("op.history.replay", {"room": "h", **arguments})) == code


async def test_both_forms_hold_the_same(bus: Bus, wire: str) -> None:
    """What the SDK iterates over is what the JSON result lists: every field, in both directions."""
    client = await bus.client(wire=wire)
    for n in range(12):
        await client.publish("h", {"n": n}, name="counted", headers={"k": "v"}, cause="", clock={"a": n + 1})
    for newest_first in (False, True):
        operation = "op.history.get" if newest_first else "op.history.replay"
        listed = (await client.command(operation, {"room": "h", "limit": 100}))["messages"]
        iterated = [m async for m in client.history("h", newest_first=newest_first, page=5)]
        assert [m.json() for m in iterated] == [fields["payload"] for fields in listed]
        for message, fields in zip(iterated, listed, strict=True):
            envelope = message.envelope
            assert (message.id, message.sequence, message.epoch) == (
                fields["id"],
                fields["sequence"],
                fields["epoch"],
            )
            assert (message.sender, envelope.tenant) == (fields["sender"], fields["tenant"])
            assert (dict(envelope.clock), dict(message.headers)) == (fields["clock"], fields["headers"])


async def test_windows_of_the_sdk_are_half_open(bus: Bus) -> None:
    """begin <= t < end, where both are moments with a zone."""
    client = await bus.client()
    moments = []
    for n in range(4):
        await client.publish("w", n)
        newest = await anext(client.history("w", newest_first=True, page=1))
        moments.append(EPOCH + timedelta(microseconds=newest.envelope.server_time_us))
        await asyncio.sleep(0.002)
    assert await payloads(client, "w", begin=moments[1], end=moments[3]) == [1, 2]
    assert await payloads(client, "w", begin=moments[2]) == [2, 3]
    assert await payloads(client, "w", end=moments[1], newest_first=True) == [0]


async def test_history_of_others_is_refused(bus: Bus) -> None:
    """Whoever is no admin reads the rooms that a grant names, and an admin those of the tenant."""
    admin = await bus.client("root", role="admin", grants=())
    await admin.publish("orders.eu", 1)
    narrow = await bus.client("bob", grants=("orders.eu:history",))
    assert await payloads(narrow, "orders.eu") == [1]
    for room in ("orders.us", "*", "orders.*", "../orders.eu", ""):
        with pytest.raises(Rejected) as caught:
            await payloads(narrow, room)
        assert caught.value.code in {"AUTHORIZATION_ERROR", "VALIDATION_ERROR"}, room
    stranger = await bus.client("eve", tenant="other")
    with pytest.raises(Rejected, match="NOT_FOUND"):
        await payloads(stranger, "orders.eu")


async def test_a_page_behind_what_was_trimmed_says_so(start_bus: StartBus) -> None:
    """A reader that is slower than the room forgets is told that something is missing."""
    bus = await start_bus('rooms=[{"match": "*", "history": {"max_messages": 10}}]')
    client = await bus.client()
    for n in range(10):
        await client.publish("h", n)
    pages = client.history("h", page=4)
    assert [(await anext(pages)).json() for _ in range(4)] == [0, 1, 2, 3]
    for n in range(10, 30):
        await client.publish("h", n)
    with pytest.raises(Rejected, match="POSITION_LOST"):
        await anext(pages)
