"""Who is let in, and what the others are told."""

from __future__ import annotations

import time

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from arqonbus.bus.server import PortTaken, take_port
from arqonbus.service.bus import BusService
from arqonbus.shield.tokens import Claims, mint
from tests.integration.conftest import Bus, StartBus, settings_of
from tests.integration.raw import Raw
from tests.servers.processes import free_port

PROTOBUF, JSON = "arqonbus.v1.protobuf", "arqonbus.v1.json"


async def ask(bus: Bus, token: str | None, subprotocol: str = PROTOBUF, **options: str):
    raw = await Raw.open(bus.settings.server.port)
    return await raw.upgrade(token, subprotocol, **options)


def signed(
    bus: Bus, *, header: dict | None = None, key: object = None, drop: str = "", **changes: object
) -> str:
    """A token of the bus's own key with some claims changed."""
    now = int(time.time())
    claims = {"sub": "alice", "tenant": "demo", "iat": now, "exp": now + 600, **changes}
    claims.pop(drop, None)
    secret = bus.settings.auth.jwt.secret
    assert secret is not None
    key = key or OctKey.import_key(secret.get_secret_value())
    header = header or {"alg": "HS256"}
    return jwt.encode(header, claims, key, algorithms=[header["alg"]])  # type: ignore[arg-type]


async def test_the_subprotocol_is_negotiated(bus: Bus) -> None:
    """The first subprotocol that both know is named in the response; none offered means JSON in dev."""
    answer = await ask(bus, bus.token(), f"other, {JSON}, {PROTOBUF}")
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, JSON)
    answer = await ask(bus, bus.token(), "")
    assert answer.status == 101
    assert "sec-websocket-protocol" not in answer.headers


async def test_a_browser_sends_its_token_as_subprotocol(bus: Bus) -> None:
    """A bearer subprotocol carries the token and is never chosen as the protocol."""
    answer = await ask(bus, None, f"bearer.{bus.token()}, {JSON}")
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, JSON)


REFUSED = {
    "no token": (lambda bus: None, {}, 401, "UNAUTHENTICATED"),
    "no JWT": (lambda bus: "abc", {}, 401, "UNAUTHENTICATED"),
    "three dots": (lambda bus: "a.b.c", {}, 401, "UNAUTHENTICATED"),
    "expired": (lambda bus: signed(bus, exp=int(time.time()) - 60), {}, 401, "EXPIRED"),
    "not yet valid": (lambda bus: signed(bus, nbf=int(time.time()) + 600), {}, 401, "UNAUTHENTICATED"),
    "without exp": (lambda bus: signed(bus, drop="exp"), {}, 401, "UNAUTHENTICATED"),
    "without sub": (lambda bus: signed(bus, drop="sub"), {}, 401, "UNAUTHENTICATED"),
    "without tenant": (lambda bus: signed(bus, drop="tenant"), {}, 401, "UNAUTHENTICATED"),
    "tenant with a separator": (lambda bus: signed(bus, tenant="a:b"), {}, 401, "UNAUTHENTICATED"),
    "tenant as a number": (lambda bus: signed(bus, tenant=1), {}, 401, "UNAUTHENTICATED"),
    "of another key": (
        lambda bus: signed(bus, key=OctKey.import_key("x" * 32)),
        {},
        401,
        "UNAUTHENTICATED",
    ),
    "of alg none": (
        lambda bus: "eyJhbGciOiJub25lIn0." + signed(bus).split(".")[1] + ".",
        {},
        401,
        "UNAUTHENTICATED",
    ),
    "in the query": (lambda bus: None, {"target": "/v1/ws?token=x"}, 401, "UNAUTHENTICATED"),
    "at another path": (lambda bus: bus.token(), {"target": "/"}, 404, "NOT_FOUND"),
    "no known subprotocol": (
        lambda bus: bus.token(),
        {"subprotocol": "mqtt"},
        400,
        "SUBPROTOCOL_UNSUPPORTED",
    ),
    "basic credentials": (
        lambda bus: None,
        {"headers": "Authorization: Basic YTpi\r\n"},
        401,
        "UNAUTHENTICATED",
    ),
    "two tokens": (
        lambda bus: bus.token(),
        {"headers": "Authorization: Bearer x\r\n"},
        401,
        "UNAUTHENTICATED",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal_says_why_and_nothing_more(bus: Bus, case: str) -> None:
    """Each refusal has its HTTP status, code and docs, is counted, and never repeats the token."""
    make, options, status, code = REFUSED[case]
    token = make(bus)
    answer = await ask(bus, token, **options)
    body = answer.json()
    assert (answer.status, body["code"]) == (status, code)
    assert set(body) == {"code", "message", "docs"}
    assert body["message"]
    assert token is None or token not in answer.body.decode()
    assert ("www-authenticate" in answer.headers) is (status == 401)
    assert bus.node.counters.connections_refused[code] == 1


async def test_a_public_key_is_never_a_shared_secret(start_bus: StartBus, tmp_path) -> None:
    """With an RSA key configured, a token that is HMAC-signed with its public PEM is refused."""
    key = RSAKey.generate_key(2048)
    pem = key.as_pem(private=False).decode()
    (tmp_path / "public.pem").write_text(pem)
    bus = await start_bus(
        'auth.jwt.algorithms=["RS256"]', f'auth.jwt.public_keys=[{{"file": "{tmp_path}/public.pem"}}]'
    )
    now = int(time.time())
    claims = {"sub": "a", "tenant": "demo", "exp": now + 600}
    good = jwt.encode({"alg": "RS256"}, claims, key, algorithms=["RS256"])
    assert (await ask(bus, good)).status == 101
    import base64
    import hashlib
    import hmac
    import json

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = part(b'{"alg":"HS256"}') + "." + part(json.dumps(claims).encode())
    forged = head + "." + part(hmac.new(pem.encode(), head.encode(), hashlib.sha256).digest())
    assert (await ask(bus, forged)).status == 401


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("ES256", ECKey.generate_key("P-256")), ("EdDSA", OKPKey.generate_key("Ed25519"))],
    ids=["ES256", "EdDSA"],
)
async def test_tokens_of_public_keys(start_bus: StartBus, tmp_path, algorithm: str, key) -> None:
    """Tokens signed with an elliptic-curve key are accepted when the profile names its public half."""
    (tmp_path / "public.pem").write_bytes(key.as_pem(private=False))
    bus = await start_bus(
        f'auth.jwt.algorithms=["{algorithm}"]', f'auth.jwt.public_keys=[{{"file": "{tmp_path}/public.pem"}}]'
    )
    pem = key.as_pem(private=True).decode()
    token = mint(bus.settings, Claims("demo", "alice", 600), private_pem=pem)
    assert (await ask(bus, token)).status == 101


async def test_services_speak_protobuf(start_bus: StartBus) -> None:
    """Where infrastructure speaks protobuf, a service that asks for JSON gets 426; people may use it."""
    bus = await start_bus("protocol.infra=protobuf", "protocol.allow_json_infra=false")
    answer = await ask(bus, bus.token(kind="service"), JSON)
    assert (answer.status, answer.json()["code"]) == (426, "INFRA_PROTOCOL_REQUIRED")
    assert (await ask(bus, bus.token(kind="service"), PROTOBUF)).status == 101
    assert (await ask(bus, bus.token(), JSON)).status == 101


async def test_json_at_the_edge_can_be_off(start_bus: StartBus) -> None:
    """With edge_json off nobody speaks JSON."""
    bus = await start_bus("protocol.edge_json=false")
    assert (await ask(bus, bus.token(), JSON)).status == 426


async def test_origins_are_checked(start_bus: StartBus) -> None:
    """A page of a listed origin may connect, another gets 403; a client without Origin may too."""
    bus = await start_bus('server.origins=["https://*.example.org"]')
    for origin, status in (("https://app.example.org", 101), ("https://evil.test", 403), ("null", 403)):
        answer = await ask(bus, bus.token(), headers=f"Origin: {origin}\r\n")
        assert answer.status == status
    assert (await ask(bus, bus.token())).status == 101


async def test_a_full_node_says_when_to_come_back(start_bus: StartBus) -> None:
    """Beyond max_connections the answer is 503 with Retry-After; a place that becomes free is given again."""
    bus = await start_bus("server.max_connections=2")
    first = await Raw.open(bus.settings.server.port)
    assert (await first.upgrade(bus.token(), PROTOBUF)).status == 101
    assert (await ask(bus, bus.token())).status == 101
    answer = await ask(bus, bus.token())
    assert (answer.status, answer.json()["code"]) == (503, "TOO_MANY_CONNECTIONS")
    assert int(answer.headers["retry-after"]) >= 1
    await first.close()
    from tests.integration.waiting import until

    await until(lambda: len(bus.node.clients) == 1)
    assert (await ask(bus, bus.token())).status == 101


async def test_a_tenant_can_be_full(start_bus: StartBus) -> None:
    """connections_per_tenant bounds one tenant and leaves the others alone."""
    bus = await start_bus("limits.tenant.connections=1")
    assert (await ask(bus, bus.token(tenant="a"))).status == 101
    assert (await ask(bus, bus.token(tenant="a"))).status == 503
    assert (await ask(bus, bus.token(tenant="b"))).status == 101


async def test_a_handshake_that_never_comes_is_cut_off(start_bus: StartBus) -> None:
    """A connection that sends no request within handshake_timeout is closed."""
    for transport in ("picows", "websockets"):
        bus = await start_bus("server.handshake_timeout=0.2", f"server.transport={transport}")
        raw = await Raw.open(bus.settings.server.port)
        raw.send(b"GET /v1/ws HTTP/1.1\r\n")
        assert await raw.ended()


@pytest.mark.parametrize("section", ["server", "telemetry"])
async def test_a_taken_port_is_a_sentence(bus: Bus, tmp_path, section: str) -> None:
    """A second bus on the same port does not start and says which port it is and what to do."""
    port = getattr(bus.settings, section).port
    second = BusService(settings_of(tmp_path / "second", f"{section}.port={port}"))
    with pytest.raises(PortTaken, match=rf"port {port} on 127\.0\.0\.1 is taken.*set {section}\.port"):
        await second.start()


async def test_one_port_for_both_is_a_sentence(tmp_path) -> None:
    """As two buses that start at the same moment: it ends, and what it had taken is free again."""
    port = free_port()
    settings = settings_of(tmp_path / "state", f"server.port={port}", f"telemetry.port={port}")
    with pytest.raises(PortTaken, match=rf"port {port} on 127\.0\.0\.1 is taken.*set server\.port"):
        await BusService(settings).start()
    take_port("127.0.0.1", port, "telemetry").close()
