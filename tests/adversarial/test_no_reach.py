"""No client makes the bus connect to anywhere: every place that takes a text is given an address of ours."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from arqonbus.client import ClientError, Rejected
from arqonbus.commands.dispatch import COMMANDS
from arqonbus.continuum.events import ROOM as EPISODES
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import COMMAND, JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.adversarial.conftest import ProdBus
from tests.adversarial.test_tokens import HS, RS, claims, hs256, rs256
from tests.integration.raw import BINARY, CLOSE, PING, TEXT

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("adversarial")]

SCHEMES = ("http", "https", "ws", "nats", "valkey", "postgresql", "ftp", "ldap")


class Trap:
    """A port that nobody has a reason to connect to."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.place = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.urls = [f"{scheme}://{self.place}/x" for scheme in SCHEMES]
        self.texts = [*self.urls, self.place, f"//{self.place}/x", f"file://{self.place}/etc/passwd"]

    def caught(self) -> int:
        """How many connections came. One of our own shows that they would."""
        host, _, port = self.place.partition(":")
        with socket.create_connection((host, int(port)), 5):
            found = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._listening.accept()[0].close()
                    found += 1
        return found - 1

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    """Whatever a test does with its address: the bus does not go there."""
    made = Trap()
    try:
        yield made
        assert made.caught() == 0
    finally:
        made.close()


FOLLOWED = (
    "Host", "Origin", "Referer", "From", "Via", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Link",
    "X-Forwarded-Proto", "X-Forwarded-Server", "X-Real-IP", "X-Original-URL", "X-Rewrite-URL", "Location",
    "True-Client-IP", "X-Wap-Profile", "Content-Location", "Destination", "Proxy", "X-Callback-URL", "Cookie",
    "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Traceparent", "Tracestate", "Baggage", "Webhook",
)  # fmt: skip


async def test_upgrades(prod: ProdBus, trap: Trap) -> None:
    """Addresses in the request line, in the query and in every header that some server follows."""
    asked = [(f"{trap.urls[0]}", ""), (trap.place, "")]
    asked += [
        (f"/v1/ws?{name}={trap.urls[0]}", "") for name in ("url", "jwks_url", "callback", "next", "proxy")
    ]
    asked += [
        ("/v1/ws", f"{name}: {text}\r\n")
        for name in FOLLOWED
        for text in (trap.urls[0], trap.place, f"for={trap.place};host={trap.place}")
    ]
    statuses = set()
    for target, headers in asked:
        raw = await prod.raw()
        statuses.add((await raw.upgrade(prod.token(), target=target, headers=headers)).status)
        await raw.close()
    assert 101 in statuses, "most of these headers mean nothing to the bus"


async def test_tokens(prod: ProdBus, trap: Trap) -> None:
    """Addresses of keys, issuers and audiences, under a signature that is true."""
    tokens = []
    for url in trap.urls:
        for name in ("jku", "x5u", "jwk", "kid", "iss", "url", "x5c", "cty", "typ"):
            tokens.append(hs256({**HS, name: url}, claims(prod)))
            tokens.append(rs256({**RS, name: url}, claims(prod), prod.rsa))
        for name in ("iss", "aud", "sub", "jti", "azp", "jku", "tenant", "cnf", "_claim_sources"):
            tokens.append(hs256(HS, claims(prod, **{name: url})))
    for token in tokens:
        raw = await prod.raw()
        await raw.upgrade(token)
        await raw.close()
    async with prod.client() as client:
        for token in tokens[:40]:
            with pytest.raises(Rejected):
                await client.command("op.auth.refresh", {"token": token})


def documents(url: str) -> Iterator[tuple[str, bytes]]:
    """Payloads that tell some reader to fetch something."""
    yield JSON_CONTENT, json.dumps({"$ref": url, "$schema": url, "@context": url, "url": [url]}).encode()
    yield "application/schema+json", json.dumps({"$id": url, "$ref": f"{url}#/a"}).encode()
    yield "application/xml", f'<!DOCTYPE a [<!ENTITY e SYSTEM "{url}">]><a>&e;</a>'.encode()
    yield "text/yaml", f"!!python/object/apply:urllib.request.urlopen ['{url}']".encode()
    yield "text/html", f'<img src="{url}"><script src="{url}"></script>'.encode()
    yield "text/plain", f"${{jndi:{url}}} {{{{ {url} }}}} `curl {url}`".encode()
    yield f"message/external-body; access-type=URL; URL={url}", b""
    yield f"application/x-protobuf; schema={url}", b"\x0a" + bytes((len(url),)) + url.encode()


def envelopes(trap: Trap) -> Iterator[Envelope]:
    """The address in each field of a message and in each kind of document."""
    usual: dict[str, Any] = {"kind": MESSAGE, "room": "reach", "content_type": JSON_CONTENT, "payload": b"{}"}
    fields = {
        field.name: field.type == field.TYPE_BYTES
        for field in Envelope.DESCRIPTOR.fields
        if field.cpp_type == field.CPPTYPE_STRING and not field.is_repeated
    }
    for text in trap.texts:
        for name, is_bytes in fields.items():
            value = text.encode() if is_bytes else text
            yield Envelope(**{"id": new_ulid(), "time_us": now_us()} | usual | {name: value})
        for headers in ({text[:64]: "x"}, {"url": text}, {"location": text}, {"traceparent": text}):
            yield Envelope(id=new_ulid(), time_us=now_us(), headers=headers, **usual)
        yield Envelope(id=new_ulid(), time_us=now_us(), clock={text: 1}, **usual)
    for url in trap.urls:
        for content_type, payload in documents(url):
            for room in ("reach", EPISODES):
                given = {"room": room, "content_type": content_type, "payload": payload}
                yield Envelope(id=new_ulid(), time_us=now_us(), **usual | given)


@pytest.mark.parametrize("subprotocol", ["arqonbus.v1.protobuf", "arqonbus.v1.json"])
async def test_messages(prod: ProdBus, trap: Trap, subprotocol: str) -> None:
    """Each is answered, some with an ack, and none is looked up."""
    raw = await prod.joined(subprotocol)
    codes = set()
    for envelope in envelopes(trap):
        if subprotocol.endswith("json"):
            raw.send_frame(TEXT, wire_json.encode(envelope))
        else:
            raw.send_frame(BINARY, wire_protobuf.frame_of([envelope]))
        codes |= {answer.status.code for answer in await raw.envelopes()}
    assert {"OK", "VALIDATION_ERROR"} <= codes
    raw.send_frame(PING, trap.urls[0].encode())
    raw.send_frame(CLOSE, b"\x03\xe8" + trap.urls[0].encode())
    await raw.ended()


async def test_commands(prod: ProdBus, trap: Trap) -> None:
    """Every argument of every operation, as an admin; a list, a map and a text of addresses."""
    async with prod.client("admin", "reach", role="admin") as client:
        answered = 0
        for name, command in COMMANDS.items():
            fields = command.arguments.__struct_fields__
            for text in trap.texts:
                for value in (text, [text], {"epoch": text, "url": text}):
                    for arguments in (dict.fromkeys(fields, value), {"room": "reach", "url": value}):
                        with contextlib.suppress(ClientError):
                            await client.command(name, arguments)
                        answered += 1
        assert answered == 6 * len(COMMANDS) * len(trap.texts)
        for text in trap.texts:
            with pytest.raises(Rejected):
                await client.command(text, {})
            with pytest.raises(Rejected):
                await client.send(text, {"url": text})


async def test_commands_with_other_fields(prod: ProdBus, trap: Trap) -> None:
    """A command whose headers, trace and documents carry the address."""
    raw = await prod.joined(role="admin")
    for url in trap.urls:
        for content_type, payload in documents(url):
            command = Envelope(
                id=new_ulid(), kind=COMMAND, name="op.rooms.join", time_us=now_us(), headers={"url": url},
                content_type=content_type, payload=payload, trace=url, cause=url,
            )  # fmt: skip
            raw.send_frame(BINARY, wire_protobuf.frame_of([command]))
            assert await raw.envelopes()


def test_telemetry(prod: ProdBus, trap: Trap) -> None:
    """Nor is the telemetry port a way out."""
    for path in ("/readyz", "/metrics", "/version", "/livez"):
        for url in trap.urls[:2]:
            headers = dict.fromkeys(("Referer", "X-Forwarded-Host", "X-Callback-URL", "Host"), url)
            request = urllib.request.Request(
                f"{prod.health}{path}?verbose&url={url}&target={url}", headers=headers
            )
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=20).read()
