"""The telemetry port: what it says is true."""

from __future__ import annotations

import asyncio
import json
import logging

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from arqonbus import __version__
from arqonbus.bus.server import take_port
from arqonbus.client import Client, ConnectionRefused
from arqonbus.storage.ports import StorageError
from arqonbus.telemetry.http import TelemetryServer, app
from arqonbus.telemetry.logs import JsonFormatter
from arqonbus.telemetry.metrics import Metrics
from tests.integration.conftest import Bus, StartBus
from tests.integration.waiting import until
from tests.servers.arqonbus import REPOSITORY
from tests.servers.processes import free_port


async def get(bus: Bus, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(bus.http(path))


async def metrics(bus: Bus) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await get(bus, "/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_ready_means_that_storage_works(bus: Bus) -> None:
    """/readyz is 200 with the probe's time while the engine can be written and read."""
    answer = await get(bus, "/readyz")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["ready"], body["reasons"]) == (True, [])
    assert body["storage"]["probe_ms"] >= 0


async def test_a_broken_engine_is_not_ready(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """/readyz is 503 with the reason when the probe fails."""

    async def broken() -> float:
        raise StorageError("the disk is full")

    monkeypatch.setattr(bus.node.event_log, "probe", broken)
    answer = await get(bus, "/readyz")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["storage memory: the disk is full"]


async def test_draining_is_not_ready_but_alive(bus: Bus) -> None:
    """While the node drains /readyz is 503 and /livez 200."""
    await bus.client()
    draining = asyncio.create_task(bus.node.drain())
    await asyncio.sleep(0)
    ready, alive = await get(bus, "/readyz"), await get(bus, "/livez")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["the node is draining"])
    assert alive.status_code == 200
    await draining


async def test_version(bus: Bus) -> None:
    """/version names the version and the node."""
    assert (await get(bus, "/version")).json() == {"version": __version__, "node": bus.node.name}


async def test_metrics_count_what_happened(bus: Bus) -> None:
    """Connections, messages, deliveries, acks, rejects, bytes and storage latency are counted."""
    first, second = await bus.client(), await bus.client()
    room = await second.subscribe("r")
    for n in range(3):
        await first.publish("r", n)
    for _ in range(3):
        await anext(room)
    with pytest.raises(Exception, match="AUTHORIZATION"):
        await (await bus.client(grants=())).publish("r", 1)
    found = await metrics(bus)
    assert found["arqonbus_connections", ()] == 3
    assert found["arqonbus_messages_in_total", ()] == 3
    assert found["arqonbus_deliveries_total", ()] == 3
    assert found["arqonbus_acks_total", (("durability", "memory"),)] == 3
    assert found["arqonbus_rejects_total", (("code", "AUTHORIZATION_ERROR"),)] == 1
    assert found["arqonbus_storage_append_seconds_count", ()] == 3
    assert found["arqonbus_commands_total", (("code", "OK"), ("operation", "op.rooms.join"))] == 1
    for name in ("bytes_in_total", "bytes_out_total"):
        assert found[f"arqonbus_{name}", ()] > 0
    assert found["arqonbus_send_queue_bytes", ()] == 0
    assert ("arqonbus_loop_lag_seconds_count", ()) in found


async def test_every_metric_is_in_the_reference(bus: Bus) -> None:
    """Each exposed family of the bus has its row in docs/reference/metrics.md, with its labels."""
    await (await bus.client()).publish("r", "x")
    page = (REPOSITORY / "docs/reference/metrics.md").read_text()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    exposed = 0
    for family in text_string_to_metric_families((await get(bus, "/metrics")).text):
        if family.name.endswith("_created"):  # the client library's, when a histogram began
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        exposed += 1
        assert name in rows
        assert f"| {family.type} |" in rows[name]
        for sample in family.samples:
            assert all(f"`{label}`" in rows[name] for label in sample.labels if label != "le")
    assert exposed > 20


async def test_logs_hold_no_token_and_no_payload(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a token nor a payload is ever logged, whatever is refused."""
    caplog.set_level(logging.DEBUG)
    client = await bus.client()
    await client.publish("r", "canary-payload")
    token = bus.token() + "x"
    with pytest.raises(ConnectionRefused, match="UNAUTHENTICATED"):
        await Client(bus.url, token, timeout=2).connect()
    lines = [
        JsonFormatter().format(record) for record in caplog.records if record.name.startswith("arqonbus")
    ]
    assert any(json.loads(line)["message"] == "connection refused" for line in lines)
    assert not any("canary-payload" in line or token in line for line in lines)


async def test_a_port_that_cannot_be_served_is_an_error(bus: Bus) -> None:
    """And not a start that waits for ever."""
    closed = take_port("127.0.0.1", free_port(), "telemetry")
    closed.close()
    telemetry = TelemetryServer(app(bus.node, Metrics(bus.node)), closed, lambda: None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await telemetry.start()


async def test_the_metric_says_what_readyz_says(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """arqonbus_ready is 0 as soon as the probe fails or the node drains, so that the alert can fire."""
    assert (await metrics(bus))["arqonbus_ready", ()] == 1

    async def broken() -> float:
        raise StorageError("the disk is full")

    monkeypatch.setattr("arqonbus.telemetry.health.KEEP_SECONDS", -1.0)
    monkeypatch.setattr(bus.node.event_log, "probe", broken)
    assert (await metrics(bus))["arqonbus_ready", ()] == 0
    monkeypatch.undo()
    await until(lambda: ready(bus))
    await bus.client()
    draining = asyncio.create_task(bus.node.drain())
    await asyncio.sleep(0)
    assert not await ready(bus)
    await draining


async def ready(bus: Bus) -> bool:
    return (await metrics(bus))["arqonbus_ready", ()] == 1


async def test_more_than_being_up_needs_the_token(start_bus: StartBus) -> None:
    """Where there is one: health stays open for load balancers, and a rotated token counts at once."""
    token = "a token of this test, long enough"
    bus = await start_bus(f"telemetry.token={token}")

    async def asked(path: str, header: str = "") -> int:
        async with httpx.AsyncClient() as http:
            answer = await http.get(bus.http(path), headers={"authorization": header} if header else {})
            assert token not in answer.text
            return answer.status_code

    for path in ("/livez", "/readyz", "/version"):
        assert await asked(path) == 200
    for path in ("/metrics", "/readyz?verbose", "/livez?x", "/nothing"):
        for header in (
            "",
            "Bearer",
            f"Bearer {token}x",
            f"Bearer {token[:-1]}",
            f"Basic {token}",
        ):
            assert await asked(path, header) == 401, (path, header)
    assert await asked("/metrics", f"Bearer {token}") == 200
    assert await asked("/readyz?verbose", f"bearer {token}") == 200
    bus.service.settings = bus.settings.model_copy(
        update={
            "telemetry": bus.settings.telemetry.model_copy(update={"token": SecretStr("another one of it")})
        }
    )
    assert await asked("/metrics", f"Bearer {token}") == 401
