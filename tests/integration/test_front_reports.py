"""What users of other WebSocket servers reported about handshakes, tried on the front of this one."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.protocol import wire_json
from arqonbus.protocol.envelope import MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import TEXT, Raw, masked
from tests.integration.test_front import HANDSHAKES, Way, published, usual


@pytest.fixture
def way(bus: Bus) -> Way:
    return Way(bus, "127.0.0.1")


# -- refused, though they should not be


async def test_firefox_sends_keep_alive_beside_upgrade(way: Way) -> None:
    """Aleph, Tyrus, Suave, Aerys, websocket.zig, ws4py and others compared the header as a whole."""
    assert (await way.ask(usual(("Connection: Upgrade", "Connection: keep-alive, Upgrade")))).status == 101
    assert (await way.ask(usual(("Connection: Upgrade", "Connection: Upgrade, Keep-Alive")))).status == 101


async def test_the_jdk_announces_an_empty_body(way: Way) -> None:
    """Helidon took `Content-Length: 0` for the end of the request and closed; Kestrel refused it."""
    raw = await way.open()
    assert (await raw.request(way.fill(HANDSHAKES["JDK HttpClient (captured)"]))).status == 101
    assert await published(raw) == "OK"


async def test_a_proxy_doubles_the_tokens(way: Way) -> None:
    """A client of Java-WebSocket met `Upgrade: websocket, websocket` and `Connection: Upgrade, upgrade`."""
    doubled = usual(
        ("Upgrade: websocket", "Upgrade: websocket, websocket"),
        ("Connection: Upgrade", "Connection: Upgrade\r\nConnection: upgrade"),
    )
    assert (await way.ask(doubled)).status == 101


async def test_a_request_in_many_packets(way: Way) -> None:
    """PHP-Websockets looked at the first packet only."""
    raw = await way.open()
    request = way.fill(usual())
    for start in range(0, len(request) - 50, 50):
        raw.send(request[start : start + 50].encode())
        await raw.writer.drain()
    assert (await raw.request(request[start + 50 :])).status == 101


@pytest.mark.parametrize("size", [512, 4096, 12_000])
async def test_browsers_send_large_requests(way: Way, size: int) -> None:
    """Nefarious never answered a request of 512 bytes; cookies alone are often more."""
    assert (await way.ask(usual(extra=f"Cookie: session={'x' * size}\r\n"))).status == 101


async def test_the_answer_names_a_subprotocol_that_was_offered(way: Way) -> None:
    """Chrome failed on uWebSockets, which named none; others named one that the client had not offered."""
    offered = "mqtt, arqonbus.v1.protobuf, arqonbus.v1.json"
    answer = await way.ask(usual(("arqonbus.v1.json", offered)))
    assert answer.headers["sec-websocket-protocol"] == "arqonbus.v1.protobuf"
    answer = await way.ask(usual(("Sec-WebSocket-Protocol: arqonbus.v1.json\r\n", "")))
    assert (answer.status, "sec-websocket-protocol" in answer.headers) == (101, False)


async def test_a_forward_proxy_sends_the_whole_url(way: Way) -> None:
    """node-http-mitm-proxy refused `GET ws://…`; without a Host the request is not valid, and is told so."""
    whole = usual(("/v1/ws", "ws://bus.example.org/v1/ws"))
    assert (await way.ask(whole)).status == 101
    answer = await way.ask(whole.replace("Host: bus.example.org\r\n", ""))
    assert (answer.status, "Host" in answer.json()["message"]) == (400, True)


# -- lost


async def test_frames_behind_the_request_are_not_lost(way: Way) -> None:
    """websocketpp and goproxy dropped what came in the packet of the request, and part of a frame with it."""
    raw = await way.open()
    message = Envelope(id=new_ulid(), kind=MESSAGE, room="orders", time_us=now_us(), payload=b"{}")
    frame = masked(TEXT, wire_json.encode(message))
    assert (await raw.request(way.fill(usual()) + frame[:9].decode("latin-1"))).status == 101
    await raw.envelopes()  # welcome
    raw.send(frame[9:])
    (ack,) = await raw.envelopes()
    assert (ack.reply_to, ack.status.code) == (message.id, "OK")


# -- not answered, or not so that anybody can see why


async def test_nginx_forwards_with_http_1_0(way: Way) -> None:
    """Users of gorilla saw “upgrade token not found”, and nothing of the version that nginx spoke."""
    request = usual(
        ("HTTP/1.1", "HTTP/1.0"), ("Connection: Upgrade", "Connection: close"), ("Upgrade: websocket\r\n", "")
    )
    answer = await way.ask(request)
    assert (answer.status, "HTTP/1.1" in answer.json()["message"]) == (505, True)


async def test_nginx_sends_connection_upgrade_with_every_request(way: Way) -> None:
    """Uvicorn then answered ordinary requests with 400, “unsupported upgrade request”."""
    answer = await way.ask("GET /v1/rooms HTTP/1.1\r\nHost: bus\r\nConnection: Upgrade\r\n\r\n")
    assert (answer.status, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_curl_asks_for_h2c(way: Way) -> None:
    """Uvicorn warned of an unsupported upgrade; the RFC lets a server ignore it, and here is nothing else."""
    h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAA\r\n"
    answer = await way.ask(f"GET /v1/ws HTTP/1.1\r\nHost: bus\r\n{h2c}\r\n")
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")


async def test_an_invalid_request_has_an_answer(way: Way) -> None:
    """Uvicorn closed the connection without one."""
    answer = await way.ask("hello\r\n\r\n")
    assert (answer.status, answer.json()["code"]) == (400, "VALIDATION_ERROR")


async def test_a_load_balancer_asks_for_the_health(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """nats-server logged handshake errors of health checks, at first without the address they came from."""
    caplog.set_level("INFO", "arqonbus.bus.front")
    answer = await way.ask(
        "GET / HTTP/1.1\r\nHost: 10.0.0.5:9100\r\nUser-Agent: ELB-HealthChecker/2.0\r\n\r\n"
    )
    assert answer.status == 404
    [line] = [record for record in caplog.records if record.message == "connection refused"]
    assert (line.address, line.levelname) == ("127.0.0.1", "INFO")  # type: ignore[attr-defined]


# -- held open


async def test_a_refused_client_does_not_keep_its_socket(way: Way) -> None:
    """weavejs left the socket of a refused upgrade open for as long as the client liked."""
    raw = await way.open()
    assert (await raw.request(way.fill(usual(("{token}", "abc"))))).status == 401
    assert await raw.ended()


async def test_a_line_at_a_time_does_not_extend_the_deadline(start_bus: StartBus) -> None:
    """As was asked of libwebsockets and websocketpp, which time each step."""
    bus = await start_bus("server.handshake_timeout=0.5")
    raw = await Raw.open(bus.settings.server.port)
    raw.send(b"GET /v1/ws HTTP/1.1\r\n")
    loop = asyncio.get_running_loop()
    began = loop.time()
    answered = asyncio.create_task(raw.reader.read(12))
    sent = 0
    while not answered.done():
        raw.send(b"X-A: b\r\n")
        sent += 1
        await asyncio.wait([answered], timeout=0.05)
        assert loop.time() - began < 10
    assert await answered == b"HTTP/1.1 408"
    assert sent > 1


# -- believed


async def test_only_a_trusted_proxy_says_where_a_client_is(start_bus: StartBus) -> None:
    """nats-server once took the first address of X-Forwarded-For, which any client can write."""
    forged = usual(extra="X-Forwarded-For: 203.0.113.9\r\n")
    bus = await start_bus()
    assert (await Way(bus, "").ask(forged)).status == 101
    assert {peer.address for peer in bus.node.clients.values()} == {"127.0.0.1"}
    bus = await start_bus("server.trusted_proxies=[127.0.0.1]", "server.forwarded_header=x-forwarded-for")
    assert (await Way(bus, "").ask(forged.replace("203.0.113.9", "203.0.113.9, 192.0.2.1"))).status == 101
    assert {peer.address for peer in bus.node.clients.values()} == {"192.0.2.1"}
