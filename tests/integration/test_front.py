"""The front of the port: every real client gets in, and every refusal is answered, counted and logged.

Both on each server adapter, and plain, with TLS, and behind a proxy that writes a PROXY header.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from arqonbus.bus import failed_logins
from arqonbus.bus.front import Front
from arqonbus.bus.server import take_port
from arqonbus.bus.server_picows import protocols
from arqonbus.bus.upgrade import Request
from arqonbus.protocol import wire_json
from arqonbus.protocol.envelope import MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import TEXT, Raw, Response, masked
from tests.integration.waiting import until
from tests.servers.certificates import Authority

CLIENT = "192.0.2.7"  # as the PROXY header names it
PROXY = f"PROXY TCP4 {CLIENT} 127.0.0.1 4711 9100\r\n"


def read_handshakes() -> Mapping[str, str]:
    """By the name of the client, with CRLF and the blank line."""
    text = (Path(__file__).parent / "handshakes.http").read_text("utf-8")
    sections = [section.strip("\n").split("\n") for section in text.split("\n### ")[1:]]
    return {lines[0]: "\r\n".join([*lines[1:], "", ""]) for lines in sections}


HANDSHAKES = read_handshakes()


class Way(NamedTuple):
    """A running bus and how it is reached."""

    bus: Bus
    address: str
    before: str = ""  # what a proxy writes
    tls: ssl.SSLContext | None = None

    async def open(self) -> Raw:
        port = self.bus.settings.server.port
        raw = Raw(*await asyncio.open_connection("127.0.0.1", port, ssl=self.tls, limit=2**20))
        Raw.opened.append(raw)
        raw.send(self.before.encode())
        return raw

    async def ask(self, request: str) -> Response:
        raw = await self.open()
        return await raw.request(self.fill(request))

    def fill(self, request: str) -> str:
        key = base64.b64encode(os.urandom(16)).decode()
        return request.replace("{key}", key).replace("{token}", self.bus.token())


@pytest.fixture(params=["plain", "tls", "proxy"])
async def way(
    request: pytest.FixtureRequest, start_bus: StartBus, transport: str, tmp_path: Path
) -> AsyncIterator[Way]:
    origins = ["https://app.example.org", "http://localhost*", "http://127.0.0.1*", "file://"]
    options = [f"server.transport={transport}", f"server.origins={origins}".replace("'", '"')]
    if request.param == "plain":
        yield Way(await start_bus(*options), "127.0.0.1")
    elif request.param == "proxy":
        options += ["server.proxy_protocol=true", "server.trusted_proxies=[127.0.0.1]"]
        yield Way(await start_bus(*options), CLIENT, before=PROXY)
    else:
        authority = Authority(tmp_path / "tls")
        certificate, key = authority.server("bus")
        options += [f"server.tls.cert_file={certificate}", f"server.tls.key_file={key}"]
        context = ssl.create_default_context(cafile=authority.file)
        yield Way(await start_bus(*options), "127.0.0.1", tls=context)


@pytest.fixture(params=["picows", "websockets"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def published(raw: Raw) -> str:
    """The code of an ack, behind the welcome."""
    (signal,) = await raw.envelopes()
    assert signal.name == "welcome"
    message = Envelope(id=new_ulid(), kind=MESSAGE, room="orders", time_us=now_us(), payload=b"{}")
    raw.send_frame(TEXT, wire_json.encode(message))
    (ack,) = await raw.envelopes()
    assert ack.reply_to == message.id
    return ack.status.code


async def test_every_client_gets_a_session(way: Way) -> None:
    """Each spelling is an upgrade, to the subprotocol it offered, and carries a message that is stored."""
    found = {}
    for name, request in HANDSHAKES.items():
        raw = await way.open()
        response = await raw.request(way.fill(request))
        if response.status != 101:
            found[name] = f"{response.status} {response.body.decode()}"
        elif (code := await published(raw)) != "OK":
            found[name] = code
        elif ("sec-websocket-protocol" in response.headers) != ("arqonbus.v1.json" in request):
            found[name] = "the subprotocol"
    assert found == {}
    assert len(HANDSHAKES) >= 60
    counters = way.bus.node.counters
    assert (counters.connections_accepted, sum(counters.connections_refused.values())) == (len(HANDSHAKES), 0)


# -- refusals

USUAL = """\
GET /v1/ws HTTP/1.1
Host: bus.example.org
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: {key}
Sec-WebSocket-Protocol: arqonbus.v1.json
Authorization: Bearer {token}

""".replace("\n", "\r\n")


def usual(*changes: tuple[str, str], extra: str = "") -> str:
    """The usual request with parts exchanged, and lines added."""
    text = USUAL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text[:-2] + extra + "\r\n"


class Refusal(NamedTuple):
    request: str
    status: int
    code: str
    headers: tuple[str, ...] = ()


INVALID = "VALIDATION_ERROR"
REFUSALS: Mapping[str, Refusal] = {
    # The request line
    "no version": Refusal(usual((" HTTP/1.1", "")), 400, INVALID),
    "two spaces": Refusal(usual(("GET ", "GET  ")), 400, INVALID),
    "a space in the target": Refusal(usual(("/v1/ws", "/v1/ ws")), 400, INVALID),
    "a target of 9000 bytes": Refusal(usual(("/v1/ws", "/v1/ws?" + "x" * 9000)), 414, "TOO_LARGE"),
    "no path": Refusal(usual(("/v1/ws", "bus:9100")), 400, INVALID),
    "a fragment": Refusal(usual(("/v1/ws", "/v1/ws#top")), 400, INVALID),
    "a URL with credentials": Refusal(usual(("/v1/ws", "http://a:b@bus/v1/ws")), 400, INVALID),
    "another path": Refusal(usual(("/v1/ws", "/ws")), 404, "NOT_FOUND"),
    "another path as a URL": Refusal(usual(("/v1/ws", "http://bus")), 404, "NOT_FOUND"),
    "POST": Refusal(usual(("GET ", "POST ")), 405, INVALID, ("allow",)),
    "OPTIONS": Refusal(usual(("GET ", "OPTIONS ")), 405, INVALID, ("allow",)),
    "get": Refusal(usual(("GET ", "get ")), 405, INVALID, ("allow",)),
    "HTTP/1.0, as nginx forwards by default": Refusal(usual(("HTTP/1.1", "HTTP/1.0")), 505, INVALID),
    "HTTP/2": Refusal("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, INVALID),
    "TLS on top of it": Refusal("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400, INVALID),
    "Redis": Refusal("*1\r\n$4\r\nPING\r\n", 400, INVALID),
    "a WebSocket frame": Refusal("\x81\x85\0\0\0\0hello", 400, INVALID),
    # Lines that parsers read differently
    "bare line feeds": Refusal(usual(("\r\n", "\n")), 400, INVALID),
    "one bare line feed": Refusal(usual(extra="X-A: b\nX-B: c\r\n"), 400, INVALID),
    "a bare carriage return": Refusal(usual(extra="X-A: b\rX-B: c\r\n"), 400, INVALID),
    "a folded line": Refusal(usual(extra="X-A: b\r\n c\r\n"), 400, INVALID),
    "a folded first line": Refusal(usual(("Host", " Host")), 400, INVALID),
    "a NUL": Refusal(usual(extra="X-A: \0\r\n"), 400, INVALID),
    "a control character": Refusal(usual(extra="X-A: \x7f\r\n"), 400, INVALID),
    "a space before the colon": Refusal(usual(("Upgrade: websocket", "Upgrade : websocket")), 400, INVALID),
    "a line without a colon": Refusal(usual(extra="X-A\r\n"), 400, INVALID),
    "an empty name": Refusal(usual(extra=": b\r\n"), 400, INVALID),
    # Sizes
    "a header of 64 KiB": Refusal(usual(extra=f"X-A: {'x' * 65536}\r\n"), 431, "TOO_LARGE"),
    "two hundred headers": Refusal(usual(extra="X-A: b\r\n" * 200), 431, "TOO_LARGE"),
    # Host
    "no Host": Refusal(usual(("Host: bus.example.org\r\n", "")), 400, INVALID),
    "two Hosts": Refusal(usual(extra="Host: other.example.org\r\n"), 400, INVALID),
    "a Host with a path": Refusal(usual(("bus.example.org", "bus.example.org/v1")), 400, INVALID),
    "a Host with a user": Refusal(usual(("bus.example.org", "me@bus.example.org")), 400, INVALID),
    # Bodies
    "a body": Refusal(usual(extra="Content-Length: 4\r\n") + "GET ", 400, INVALID),
    "two lengths": Refusal(usual(extra="Content-Length: 0\r\nContent-Length: 4\r\n"), 400, INVALID),
    "a length and a coding": Refusal(
        usual(extra="Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"), 400, INVALID
    ),
    "a length with a sign": Refusal(usual(extra="Content-Length: +0\r\n"), 400, INVALID),
    "chunks": Refusal(usual(extra="Transfer-Encoding: chunked\r\n"), 400, INVALID),
    "an unknown coding": Refusal(usual(extra="Transfer-Encoding: xchunked\r\n"), 501, INVALID),
    # RFC 6455, 4.2.1
    "no Upgrade": Refusal(usual(("Upgrade: websocket\r\n", "")), 426, INVALID, ("upgrade",)),
    "Upgrade to h2c": Refusal(usual(("Upgrade: websocket", "Upgrade: h2c")), 426, INVALID, ("upgrade",)),
    "Upgrade to websocket2": Refusal(
        usual(("Upgrade: websocket", "Upgrade: websocket2")), 426, INVALID, ("upgrade",)
    ),
    "no Connection": Refusal(usual(("Connection: Upgrade\r\n", "")), 426, INVALID, ("upgrade",)),
    "Connection keep-alive": Refusal(
        usual(("Connection: Upgrade", "Connection: keep-alive")), 426, INVALID, ("upgrade",)
    ),
    "Connection upgraded": Refusal(
        usual(("Connection: Upgrade", "Connection: upgraded")), 426, INVALID, ("upgrade",)
    ),
    "no version of WebSocket": Refusal(
        usual(("Sec-WebSocket-Version: 13\r\n", "")), 426, INVALID, ("sec-websocket-version",)
    ),
    "version 8": Refusal(usual(("Version: 13", "Version: 8")), 426, INVALID, ("sec-websocket-version",)),
    "version 13 and 8": Refusal(
        usual(("Version: 13", "Version: 13, 8")), 426, INVALID, ("sec-websocket-version",)
    ),
    "two versions": Refusal(
        usual(extra="Sec-WebSocket-Version: 13\r\n"), 426, INVALID, ("sec-websocket-version",)
    ),
    "no key": Refusal(usual(("Sec-WebSocket-Key: {key}\r\n", "")), 400, INVALID),
    "two keys": Refusal(usual(extra="Sec-WebSocket-Key: {key}\r\n"), 400, INVALID),
    "a key of 15 bytes": Refusal(usual(("{key}", base64.b64encode(bytes(15)).decode())), 400, INVALID),
    "a key of 17 bytes": Refusal(usual(("{key}", base64.b64encode(bytes(17)).decode())), 400, INVALID),
    "a key that is not base64": Refusal(usual(("{key}", "!" * 22 + "==")), 400, INVALID),
    "a key for URLs": Refusal(usual(("{key}", "_" * 22 + "==")), 400, INVALID),
    # Who may
    "another subprotocol": Refusal(usual(("arqonbus.v1.json", "mqtt")), 400, "SUBPROTOCOL_UNSUPPORTED"),
    "another origin": Refusal(usual(extra="Origin: https://evil.example\r\n"), 403, "ORIGIN_REFUSED"),
    "no token": Refusal(
        usual(("Authorization: Bearer {token}\r\n", "")), 401, "UNAUTHENTICATED", ("www-authenticate",)
    ),
    "a token in the query": Refusal(
        usual(("/v1/ws", "/v1/ws?token={token}")), 401, "UNAUTHENTICATED", ("www-authenticate",)
    ),
    "two tokens": Refusal(usual(extra="Sec-WebSocket-Protocol: bearer.{token}\r\n"), 401, "UNAUTHENTICATED"),
    "a token that is none": Refusal(usual(("{token}", "abc")), 401, "UNAUTHENTICATED"),
    "a line feed instead of a token": Refusal(usual(("{token}", "a\nb")), 400, INVALID),
}


async def test_every_refusal_is_answered_counted_and_logged(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    """With its status, code, JSON body and nothing of the token; then the connection ends."""
    caplog.set_level(logging.INFO, "arqonbus.bus.front")
    counters = way.bus.node.counters
    wrong = {}
    for name, case in REFUSALS.items():
        caplog.clear()
        before = counters.connections_refused[case.code]
        raw = await way.open()
        response = await raw.request(way.fill(case.request))
        body = response.json()
        [line] = [record for record in caplog.records if record.message == "connection refused"]
        said = {key: getattr(line, key) for key in ("status", "code", "address", "reason")}
        found = (response.status, body["code"], counters.connections_refused[case.code] - before)
        logged = {"status": case.status, "code": case.code, "address": way.address, "reason": body["message"]}
        if found != (case.status, case.code, 1) or said != logged:
            wrong[name] = (found, said, body)
        assert set(body) == {"code", "message", "docs"}
        assert way.bus.token().encode() not in response.body
        assert response.headers["content-type"] == "application/json"
        assert response.headers["connection"] == "close"
        assert set(case.headers) <= set(response.headers), name
        assert await raw.ended()
    assert wrong == {}
    assert sum(counters.connections_refused.values()) == len(REFUSALS)
    assert counters.connections_accepted == 0


async def test_head_is_answered_without_a_body(way: Way) -> None:
    """The length is that of the body which GET would get."""
    raw = await way.open()
    raw.send(usual(("GET ", "HEAD ")).encode())
    async with asyncio.timeout(10):
        answer = await raw.reader.read()
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0\r\n" not in answer


async def test_one_byte_at_a_time(way: Way) -> None:
    """However a request is cut into packets; an empty line before it is read over."""
    raw = await way.open()
    for byte in way.fill("\r\n" + HANDSHAKES["Firefox 102 ESR"]).encode()[:-1]:
        raw.send(bytes((byte,)))
        await raw.writer.drain()
    response = await raw.request("\n")
    assert response.status == 101
    assert await published(raw) == "OK"


async def test_a_frame_in_the_packet_of_the_request(way: Way) -> None:
    """Is not lost: it is the first frame of the session."""
    raw = await way.open()
    message = Envelope(id=new_ulid(), kind=MESSAGE, room="orders", time_us=now_us(), payload=b"{}")
    frame = masked(TEXT, wire_json.encode(message))
    response = await raw.request(way.fill(USUAL) + frame.decode("latin-1"))
    assert response.status == 101
    found = [*await raw.envelopes(), *await raw.envelopes()]
    assert [found[0].name, found[1].reply_to] == ["welcome", message.id]


async def test_a_client_that_sends_a_body_reads_its_refusal(way: Way) -> None:
    """A large body that nobody asked for does not reset the connection before the answer was read."""
    raw = await way.open()
    raw.send(way.fill(usual(("GET ", "POST "), extra="Content-Length: 200000\r\n")).encode())
    raw.send(b"x" * 200_000)
    await raw.writer.drain()
    response = await raw.request("")
    assert response.status == 405
    assert await raw.ended()


# -- those that keep failing

WRONG = usual(("{token}", "abc"))


async def test_refused_tokens_are_answered_later_and_later(start_bus: StartBus, transport: str) -> None:
    """Beyond the limit; a valid token of the same address is accepted meanwhile."""
    bus = await start_bus("limits.failed_logins_per_minute=2", f"server.transport={transport}")
    way = Way(bus, "127.0.0.1")
    refused = bus.node.counters.connections_refused
    for _ in range(2):
        assert (await way.ask(WRONG)).status == 401
    waiting = []
    for number in range(5):
        waiting.append(asyncio.create_task(way.ask(WRONG)))
        await until(lambda number=number: refused["UNAUTHENTICATED"] == 3 + number)
    assert (await way.ask(USUAL)).status == 101
    assert not waiting[-1].done()
    assert (await waiting[0]).status == 401
    for task in waiting[1:]:
        task.cancel()


async def test_only_so_many_answers_are_held_back(
    start_bus: StartBus, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one address; a further one is told to wait, and a client that leaves makes room."""
    monkeypatch.setattr(failed_logins, "MAX_WAITING", 1)
    monkeypatch.setattr(failed_logins, "FIRST_DELAY", failed_logins.MAX_DELAY)
    bus = await start_bus("limits.failed_logins_per_minute=1", f"server.transport={transport}")
    way = Way(bus, "127.0.0.1")
    refused = bus.node.counters.connections_refused
    assert (await way.ask(WRONG)).status == 401
    held = await way.open()
    held.send(way.fill(WRONG).encode())
    await until(lambda: refused["UNAUTHENTICATED"] == 2)
    response = await way.ask(WRONG)
    assert (response.status, response.json()["code"]) == (429, "RATE_LIMITED")
    assert int(response.headers["retry-after"]) >= 1
    await held.close()
    later = asyncio.create_task(way.ask(WRONG))
    await until(lambda: refused["UNAUTHENTICATED"] == 3 or later.done())
    assert not later.done()
    later.cancel()


async def test_refusals_fill_no_log(
    start_bus: StartBus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are counted and answered; the lines about one address are bounded."""
    monkeypatch.setattr(failed_logins, "LINES_AT_ONCE", 5)
    monkeypatch.setattr(failed_logins, "LINES_PER_SECOND", 1e-6)
    caplog.set_level(logging.INFO, "arqonbus.bus.front")
    bus = await start_bus()
    way = Way(bus, "127.0.0.1")
    for _ in range(20):
        assert (await way.ask(usual(("/v1/ws", "/")))).status == 404
    assert len([record for record in caplog.records if record.message == "connection refused"]) == 5
    assert bus.node.counters.connections_refused["NOT_FOUND"] == 20


# -- what else there is


class _Recorded(asyncio.Protocol):
    """Answers with the bytes that it was given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n"
        self._transport.write(head.encode() + data)


async def test_other_paths_are_the_applications(bus: Bus) -> None:
    """It is given the request as it came, and what is behind it; the endpoint stays the bus's."""
    asked: list[Request] = []

    def application(request: Request) -> asyncio.BaseProtocol:
        asked.append(request)
        return _Recorded()

    bound = take_port("127.0.0.1", 0, "server")
    port = bound.getsockname()[1]
    front = Front(bus.node, bound, None, protocols(bus.node), application)
    try:
        sent = "POST /v1/rooms?x=1 HTTP/1.1\r\nHost: bus\r\nContent-Length: 2\r\n\r\n{}"
        raw = await Raw.open(port)
        response = await raw.request(sent)
        assert (response.status, response.body) == (200, sent.encode())
        assert (await raw.request("more")).body == b"more"
        assert [(one.method, one.target, one.address) for one in asked] == [
            ("POST", "/v1/rooms?x=1", "127.0.0.1")
        ]
        assert (await (await Raw.open(port)).upgrade(bus.token())).status == 101
        assert (
            await (await Raw.open(port)).request("GET /v1/rooms HTTP/1.1\r\n\r\n")
        ).status == 400  # no Host
        assert len(asked) == 1
    finally:
        front.close()


async def test_a_fault_of_the_bus_is_told_by_its_incident(
    bus: Bus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason stays in the log."""

    def decide(request: Request) -> None:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(bus.node, "decide", decide)
    response = await Way(bus, "127.0.0.1").ask(USUAL)
    assert (response.status, response.json()["code"]) == (500, "INTERNAL_ERROR")
    assert b"secret" not in response.body
    [line] = [record for record in caplog.records if record.message == "a request could not be judged"]
    assert line.incident in response.json()["message"]  # type: ignore[attr-defined]
    assert bus.node.counters.connections_refused == {"INTERNAL_ERROR": 1}


# -- those that never ask


@pytest.fixture
async def waiting(start_bus: StartBus, transport: str) -> Bus:
    """A bus on which a request must be whole in a moment."""
    return await start_bus("server.handshake_timeout=0.2", f"server.transport={transport}")


async def test_half_a_request_is_answered_when_its_time_is_over(waiting: Bus) -> None:
    raw = await Raw.open(waiting.settings.server.port)
    response = await raw.request("GET /v1/ws HTTP/1.1\r\nHost: bus\r\n")
    assert (response.status, response.json()["code"]) == (408, "TIMEOUT")
    assert waiting.node.counters.connections_refused == {"TIMEOUT": 1}
    assert await raw.ended()


async def test_a_connection_without_a_request_ends_without_an_answer(waiting: Bus) -> None:
    """As a browser opens some in advance; it is counted by its reason."""
    raw = await Raw.open(waiting.settings.server.port)
    async with asyncio.timeout(10):
        assert await raw.reader.read() == b""
    counters = waiting.node.counters
    await until(lambda: counters.connections_unopened == {"timeout": 1})
    assert not counters.connections_refused


async def test_a_client_that_leaves_is_counted(waiting: Bus) -> None:
    """A health check by TCP is one."""
    for sent in (b"", b"GET /v1/ws HT"):
        raw = await Raw.open(waiting.settings.server.port)
        raw.send(sent)
        await raw.close()
    await until(lambda: waiting.node.counters.connections_unopened["left"] == 2)


async def test_the_oldest_of_too_many_half_requests_gives_way(start_bus: StartBus, transport: str) -> None:
    """It is told so; a client that comes then and sends its request is served."""
    bus = await start_bus("server.max_connections=4", f"server.transport={transport}")
    waiting = [await Raw.open(bus.settings.server.port) for _ in range(4)]
    for raw in waiting:
        raw.send(b"GET /v1/ws HTTP/1.1\r\n")
        await raw.writer.drain()
    last = await Raw.open(bus.settings.server.port)
    assert (await last.upgrade(bus.token())).status == 101
    response = await waiting[0].request("")
    assert (response.status, response.json()["code"]) == (503, "TOO_MANY_CONNECTIONS")
    assert int(response.headers["retry-after"]) >= 1
    assert bus.node.counters.connections_refused == {"TOO_MANY_CONNECTIONS": 1}
    rest = usual().partition("\r\n")[2]
    for raw in waiting[1:]:
        assert (await raw.request(Way(bus, "127.0.0.1").fill(rest))).status == 101


async def test_no_tls_where_tls_is_spoken(start_bus: StartBus, transport: str, tmp_path: Path) -> None:
    """Counted by its reason, on either side; the bus goes on."""
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.server("bus")
    bus = await start_bus(
        f"server.transport={transport}",
        f"server.tls.cert_file={certificate}",
        f"server.tls.key_file={key}",
    )
    raw = await Raw.open(bus.settings.server.port)
    raw.send(USUAL.encode())
    assert await raw.ended()
    await until(lambda: bus.node.counters.connections_unopened == {"tls": 1})
    context = ssl.create_default_context(cafile=authority.file)
    way = Way(bus, "127.0.0.1", tls=context)
    assert (await way.ask(USUAL)).status == 101


async def test_a_proxy_without_its_header(start_bus: StartBus, transport: str) -> None:
    """Counted by its reason."""
    bus = await start_bus(
        f"server.transport={transport}", "server.proxy_protocol=true", "server.trusted_proxies=[127.0.0.1]"
    )
    raw = await Raw.open(bus.settings.server.port)
    raw.send(b"PROXY TCP4 nowhere 127.0.0.1 1 2\r\n")
    assert await raw.ended()
    await until(lambda: bus.node.counters.connections_unopened == {"proxy": 1})


async def test_what_waits_ends_with_the_bus(start_bus: StartBus, transport: str) -> None:
    """A stop does not wait for those that have not asked yet."""
    bus = await start_bus(f"server.transport={transport}", "server.drain_seconds=0")
    raw = await Raw.open(bus.settings.server.port)
    raw.send(b"GET /v1/ws HTTP/1.1\r\n")
    way = Way(bus, "127.0.0.1")
    assert (await way.ask(usual(("/v1/ws", "/")))).status == 404  # the other one was read, too
    await bus.service.stop()
    assert await raw.ended()
