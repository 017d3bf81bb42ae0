"""Requests that are no upgrade, are two requests in one, or never end; TLS; what the answers say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

import pytest

from arqonbus.config.capacity import DOCUMENTED
from tests.adversarial.conftest import HANDSHAKE_SECONDS, SECRET, ProdBus
from tests.integration.raw import Raw

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("adversarial")]

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
USUAL = {
    "Host": "bus",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "arqonbus.v1.protobuf",
}


def request(token: str, first: str = "GET /v1/ws HTTP/1.1", extra: str = "", **changes: str | None) -> bytes:
    """A genuine upgrade with changes: a header given anew, or left out where it is None."""
    headers = {**USUAL, "Authorization": f"Bearer {token}"} | {
        k.replace("_", "-"): v for k, v in changes.items()
    }
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return ("\r\n".join([first, *lines]) + f"\r\n{extra}\r\n").encode("latin-1")


async def statuses(raw: Raw, data: bytes) -> list[int]:
    """The status of each answer until the bus ends the connection, or is silent for longer than it may be."""
    raw.send(data)
    said = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(HANDSHAKE_SECONDS + 2):
            while piece := await raw.reader.read(65536):
                said += piece
                if b"HTTP/1.1 101" in said:
                    break
    return [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]


async def test_the_genuine_one(prod: ProdBus) -> None:
    """Else every refusal below would say nothing."""
    assert await statuses(await prod.raw(), request(prod.token())) == [101]


# What must not become a connection, and how it may be answered.
NO_UPGRADE: Mapping[str, tuple[dict[str, str | None], set[int]]] = {
    "http 1.0": ({"first": "GET /v1/ws HTTP/1.0"}, {400, 426, 505}),
    "http 2": ({"first": "GET /v1/ws HTTP/2.0"}, {400, 505}),
    "http 0.9": ({"first": "GET /v1/ws"}, {400}),
    "post": ({"first": "POST /v1/ws HTTP/1.1"}, {400, 405}),
    "head": ({"first": "HEAD /v1/ws HTTP/1.1"}, {400, 405}),
    "options": ({"first": "OPTIONS /v1/ws HTTP/1.1"}, {400, 405}),
    "connect": ({"first": "CONNECT /v1/ws HTTP/1.1"}, {400, 405}),
    "trace": ({"first": "TRACE /v1/ws HTTP/1.1"}, {400, 405}),
    "get lower": ({"first": "get /v1/ws HTTP/1.1"}, {400, 405}),
    "absolute form of another path": ({"first": "GET https://bus/v1/ws/x HTTP/1.1"}, {404}),
    "absolute form of another scheme": ({"first": "GET ftp://bus/v1/ws HTTP/1.1"}, {400}),
    "authority form": ({"first": "GET bus:443 HTTP/1.1"}, {400, 404}),
    "asterisk": ({"first": "GET * HTTP/1.1"}, {400, 404}),
    "no path": ({"first": "GET  HTTP/1.1"}, {400, 404}),
    "two spaces": ({"first": "GET  /v1/ws HTTP/1.1"}, {400, 404}),
    "a tab": ({"first": "GET\t/v1/ws HTTP/1.1"}, {400}),
    "a space in the path": ({"first": "GET /v1/ws x HTTP/1.1"}, {400, 404}),
    "dots": ({"first": "GET /v1/../v1/ws HTTP/1.1"}, {404}),
    "an encoded slash": ({"first": "GET /v1%2fws HTTP/1.1"}, {404}),
    "two slashes": ({"first": "GET //v1/ws HTTP/1.1"}, {404}),
    "a slash behind": ({"first": "GET /v1/ws/ HTTP/1.1"}, {404}),
    "upper case": ({"first": "GET /V1/WS HTTP/1.1"}, {404}),
    "a nul": ({"first": "GET /v1/ws\0 HTTP/1.1"}, {400, 404}),
    "a fragment": ({"first": "GET /v1/ws#x HTTP/1.1"}, {400, 404}),
    "admin": ({"first": "GET /metrics HTTP/1.1"}, {404}),
    "readyz": ({"first": "GET /readyz HTTP/1.1"}, {404}),
    "a token in the query": ({"first": "GET /v1/ws?token=x HTTP/1.1"}, {401}),
    "a token in the query, upper case": ({"first": "GET /v1/ws?Access_Token=x HTTP/1.1"}, {401}),
    "a token in the query, encoded": ({"first": "GET /v1/ws?%74oken=x HTTP/1.1"}, {401}),
    "no upgrade": ({"Upgrade": None}, {400, 426}),
    "no connection": ({"Connection": None}, {400, 426}),
    "upgrade to h2c": ({"Upgrade": "h2c"}, {400, 426}),
    "connection close": ({"Connection": "close"}, {400, 426}),
    "no key": ({"Sec_WebSocket_Key": None}, {400}),
    "an empty key": ({"Sec_WebSocket_Key": ""}, {400}),
    "a short key": ({"Sec_WebSocket_Key": "AAAA"}, {400}),
    "a key that is no base64": ({"Sec_WebSocket_Key": "!" * 24}, {400}),
    "a long key": ({"Sec_WebSocket_Key": KEY * 2}, {400}),
    "no version": ({"Sec_WebSocket_Version": None}, {400, 426}),
    "version 8": ({"Sec_WebSocket_Version": "8"}, {400, 426}),
    "version 013": ({"Sec_WebSocket_Version": "013"}, {400, 426}),
    "version 14": ({"Sec_WebSocket_Version": "14"}, {400, 426}),
    "two keys": ({"extra": f"Sec-WebSocket-Key: {KEY}\r\n"}, {400}),
    "two versions": ({"extra": "Sec-WebSocket-Version: 13\r\n"}, {400, 426}),
    "two tokens": ({"extra": "Authorization: Bearer x\r\n"}, {400, 401}),
    "an empty token": ({"Authorization": "Bearer "}, {401}),
    "basic": ({"Authorization": "Basic YTpi"}, {401}),
    "no token": ({"Authorization": None}, {401}),
    "a page": ({"extra": "Origin: https://evil.example\r\n"}, {403}),
    "a page of null": ({"extra": "Origin: null\r\n"}, {403}),
    "a page that begins as ours": ({"extra": "Origin: https://app.example.org.evil.example\r\n"}, {403}),
    "a page that ends as ours": ({"extra": "Origin: https://evil/https://app.example.org\r\n"}, {403}),
    "a page over http": ({"extra": "Origin: http://app.example.org\r\n"}, {403}),
    "two pages": ({"extra": "Origin: https://app.example.org\r\nOrigin: https://evil\r\n"}, {400, 403}),
    "another subprotocol": ({"Sec_WebSocket_Protocol": "mqtt"}, {400}),
    "a subprotocol with a line": ({"Sec_WebSocket_Protocol": "x\rSet-Cookie: a=b"}, {400}),
    "a body": ({"extra": "Content-Length: 4\r\n"}, {400}),
    "two lengths": ({"extra": "Content-Length: 0\r\nContent-Length: 4\r\n"}, {400}),
    "a length and chunks": ({"extra": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"}, {400}),
    "chunks": ({"extra": "Transfer-Encoding: chunked\r\n"}, {400}),
    "hidden chunks": ({"extra": "Transfer-Encoding: xchunked\r\n"}, {501}),
    "a folded line": ({"extra": "X-A: b\r\n c\r\n"}, {400}),
    "a space before the colon": ({"extra": "X-A : b\r\n"}, {400}),
    "a line without a colon": ({"extra": "X-A\r\n"}, {400}),
    "a name with a space": ({"extra": "X A: b\r\n"}, {400}),
    "a nul in a value": ({"extra": "X-A: \0\r\n"}, {400}),
    "a bare cr": ({"extra": "X-A: b\rX-B: c\r\n"}, {400}),
    "a header of 64 KiB": ({"extra": f"X-A: {'x' * 65536}\r\n"}, {400, 431}),
    "a path of 64 KiB": ({"first": f"GET /v1/ws?{'x' * 65536} HTTP/1.1"}, {400, 414, 431}),
    "a thousand headers": ({"extra": "".join(f"X-{n}: y\r\n" for n in range(1000))}, {400, 431}),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_UPGRADE)
async def test_what_is_no_upgrade(prod: ProdBus, case: str) -> None:
    """One refusal; never a connection, and never a second answer."""
    changes, allowed = NO_UPGRADE[case]
    given = {name: value for name, value in changes.items() if name not in ("first", "extra")}
    first, extra = changes.get("first") or "GET /v1/ws HTTP/1.1", changes.get("extra") or ""
    data = request(prod.token(), first, extra, **given)
    for behind in (b"", b"GET /smuggled HTTP/1.1\r\nHost: bus\r\n\r\n"):
        found = await statuses(await prod.raw(), data + behind)
        assert found in [[status] for status in allowed]


NOT_HTTP = {
    "noise": bytes(range(256)) * 8,
    "a line that never ends": b"G" * 200_000,
    "many lines": b"X: y\r\n" * 50_000,
    "only line feeds": b"\n" * 10_000,
    "bare line feeds": b"GET /v1/ws HTTP/1.1\nHost: bus\n\n",
    "tls again": bytes.fromhex("16030100a5010000a1030300"),
    "http 2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a frame": b"\x81\x85\0\0\0\0hello",
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "nats": b"CONNECT {}\r\nPING\r\n",
    "proxy": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    "proxy 2": b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11\0\x0c" + b"\1" * 12,
}


@pytest.mark.parametrize("case", NOT_HTTP)
async def test_what_is_no_http(prod: ProdBus, case: str) -> None:
    """Is answered at once, and cut off."""
    found = await statuses(await prod.raw(), NOT_HTTP[case])
    assert found in ([400], [414], [505])


@pytest.mark.parametrize("pause", [0.05, 0.5])
async def test_a_request_that_dribbles(prod: ProdBus, pause: float) -> None:
    """A request must be whole within the time of a handshake, however alive its sender seems."""
    raw = await prod.raw()
    began = time.monotonic()
    answered = asyncio.create_task(raw.reader.read())
    with contextlib.suppress(ConnectionError):
        for byte in request(prod.token(), extra="X-Slow: " + "y" * 4000 + "\r\n"):
            raw.send(bytes((byte,)))
            await raw.writer.drain()
            await asyncio.sleep(pause)
            if answered.done() or time.monotonic() - began > 5 * HANDSHAKE_SECONDS:
                break
    assert (await answered).startswith(b"HTTP/1.1 408 ")


async def test_many_who_say_nothing(prod: ProdBus) -> None:
    """A hundred connections without a request, with TLS and without, are cut off; others are served."""
    opened = [await prod.raw() for _ in range(50)]
    plain = [Raw(*await asyncio.open_connection("127.0.0.1", prod.port)) for _ in range(50)]
    Raw.opened += plain
    async with prod.client() as client:
        await client.publish("meanwhile", {"n": 1})
    for raw in opened:
        assert await raw.ended()


@pytest.mark.parametrize("upgraded", [False, True], ids=["without a token", "upgraded"])
async def test_many_who_come_and_go(prod: ProdBus, upgraded: bool) -> None:
    """What each of them took is free again: not only after thousands, and not a ping interval later."""
    come = prod.joined if upgraded else prod.raw
    grown = []
    for _ in range(3):
        before = prod.memory()
        for _ in range(20):
            for raw in [await come() for _ in range(15)]:
                await raw.close()
        grown.append(prod.memory() - before)
    assert min(grown) < 20 * 2**20


async def test_idle_clients_cost_what_is_billed(prod: ProdBus) -> None:
    """As preflight and the limits of the unit count them, TLS and all."""
    await prod.joined()
    before = prod.memory()
    held = [await prod.joined() for _ in range(200)]
    cost = (prod.memory() - before) / len(held)
    assert cost < DOCUMENTED.connection_bytes + DOCUMENTED.tls_bytes


async def test_half_closed(prod: ProdBus) -> None:
    """A client that ends its half, before a request or behind one, leaves nothing behind."""
    for sent in (b"", b"GET /v1/ws HTTP/1.1\r\n", request(prod.token())):
        plain = socket.create_connection(("127.0.0.1", prod.port))
        plain.sendall(sent)
        plain.shutdown(socket.SHUT_WR)
        plain.settimeout(15)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.to_thread(plain.recv, 1) == b""
        plain.close()


async def test_extensions_are_declined(prod: ProdBus) -> None:
    """No compression: what expands in memory is not taken in."""
    for offer in (
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "x-webkit-deflate-frame",
    ):
        raw = await prod.raw()
        answer = await raw.upgrade(prod.token(), headers=f"Sec-WebSocket-Extensions: {offer}\r\n")
        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.headers


# -- TLS


def handshake(prod: ProdBus, context: ssl.SSLContext) -> ssl.SSLSocket:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", prod.port), timeout=5)
    return context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls(prod: ProdBus, version: ssl.TLSVersion) -> None:
    """Is refused in the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(prod, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_tls(prod: ProdBus, version: ssl.TLSVersion) -> None:
    """Forward secrecy, authenticated encryption, no compression, HTTP/1.1 and nothing else by ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with handshake(prod, context) as connection:
        cipher = connection.cipher()
        assert cipher is not None
        assert connection.compression() is None
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]
        assert version is ssl.TLSVersion.TLSv1_3 or cipher[0].startswith("ECDHE")
        assert connection.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(
    "ciphers",
    ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE+AESCCM", "ECDHE-ECDSA-AES128-SHA256", "aNULL", "PSK"],
)
def test_weak_ciphers(prod: ProdBus, ciphers: str) -> None:
    """No handshake without forward secrecy, authenticated encryption and a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(prod, context)


async def test_answers_of_a_tls_port(prod: ProdBus) -> None:
    """Tell browsers to stay with TLS, to guess no types and to keep nothing."""
    answer = await (await prod.raw()).upgrade("x")
    assert answer.status == 401
    assert int(answer.headers["strict-transport-security"].partition("=")[2].partition(";")[0]) >= 31_536_000
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


# -- the telemetry port


@pytest.mark.parametrize(
    "path", ["/", "/admin", "/../etc/passwd", "/metrics/..%2f", "/v1/ws", "/docs", "/readyz/x", "/debug"]
)
async def test_telemetry_has_nothing_else(prod: ProdBus, path: str) -> None:
    """Only its endpoints; it names no server, and says nothing of its inside."""

    def asked() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(prod.health + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode() + str(error.headers)

    status, text = await asyncio.to_thread(asked)
    assert status == 404
    assert text.startswith("Not Found")
    assert "uvicorn" not in text.lower()


async def test_telemetry_keeps_secrets(prod: ProdBus) -> None:
    """No endpoint shows a secret, and the bus's port shows no endpoint."""
    for path in ("/livez", "/readyz", "/readyz?verbose", "/metrics", "/version"):

        def text(path: str = path) -> str:
            try:
                with urllib.request.urlopen(prod.health + path, timeout=20) as answer:
                    return str(answer.read().decode())
            except urllib.error.HTTPError as error:
                return str(error.read().decode())

        shown = await asyncio.to_thread(text)
        assert shown
        assert SECRET not in shown
