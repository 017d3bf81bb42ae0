"""Accepted and refused upgrades."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.bus.upgrade import Accepted, Handshake, Refused, Request, refused
from arqonbus.config import Settings, load
from arqonbus.protocol.errors import BusError, Code
from arqonbus.shield.tokens import Identity
from tests.unit.bus.people import identity

REPOSITORY = Path(__file__).resolve().parents[3]
PROTOBUF, JSON = "arqonbus.v1.protobuf", "arqonbus.v1.json"


def settings_with(*overrides: str) -> Settings:
    return load("dev", root=REPOSITORY, environ={}, overrides=list(overrides)).settings


SETTINGS = settings_with()
STRICT = settings_with(
    "protocol.infra=protobuf", "protocol.allow_json_infra=false", "protocol.edge_json=true"
)
NO_JSON = settings_with(
    "protocol.infra=protobuf", "protocol.allow_json_infra=false", "protocol.edge_json=false"
)
ORIGINS = settings_with('server.origins=["https://app.example.com", "https://*.shop.example.com"]')


# RFC 6455, 1.3
HANDSHAKE = {
    "upgrade": ["websocket"],
    "connection": ["Upgrade"],
    "sec-websocket-version": ["13"],
    "sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ=="],
}


def verify(token: str) -> Identity:
    """Tokens of these tests: what they are is what they are called."""
    if token == "expired":
        raise BusError(Code.EXPIRED, "the token has expired")
    if token not in ("human", "service"):
        raise BusError(Code.UNAUTHENTICATED, "the token is not valid")
    who = identity()
    return Identity(who.tenant, who.subject, token, who.role, who.grants, who.expires_at, "")  # type: ignore[arg-type]


def request(
    *offered: str, target: str = "/v1/ws", token: str | None = "human", **headers: Sequence[str]
) -> Request:
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    found: dict[str, Sequence[str]] = {**HANDSHAKE, **changed}
    if token is not None:
        found.setdefault("authorization", [f"Bearer {token}"])
    if offered:
        found["sec-websocket-protocol"] = list(offered)
    return Request(target, found, "127.0.0.1")


def decide(
    asked: Request, settings: Settings = SETTINGS, obstacle: BusError | None = None
) -> Accepted | Refused:
    return Handshake(settings, verify).decide(asked, obstacle)


ACCEPTED: dict[str, tuple[Request, Settings, str | None, bool]] = {
    "protobuf": (request(PROTOBUF), SETTINGS, PROTOBUF, False),
    "JSON": (request(JSON), SETTINGS, JSON, True),
    "the first that both know": (request(f"mqtt, {JSON}, {PROTOBUF}"), SETTINGS, JSON, True),
    "a list in several headers": (request("mqtt", f" {PROTOBUF} ", JSON), SETTINGS, PROTOBUF, False),
    "a token as subprotocol": (request("bearer.human", JSON, token=None), SETTINGS, JSON, True),
    "a scheme in lower case": (request(PROTOBUF, authorization=["bearer human"]), SETTINGS, PROTOBUF, False),
    "a query that is no token": (request(PROTOBUF, target="/v1/ws?x=1"), SETTINGS, PROTOBUF, False),
    "nothing offered where protobuf is required": (request(), STRICT, None, False),
    "JSON by a person": (request(JSON), STRICT, JSON, True),
    "protobuf by a service": (request(PROTOBUF, token="service"), STRICT, PROTOBUF, False),
    "a page that may": (request(PROTOBUF, origin=["https://app.example.com"]), ORIGINS, PROTOBUF, False),
    "a page by pattern": (
        request(PROTOBUF, origin=["https://eu.shop.example.com"]),
        ORIGINS,
        PROTOBUF,
        False,
    ),
    "no page at all": (request(PROTOBUF), ORIGINS, PROTOBUF, False),
}

REFUSED: dict[str, tuple[Request, Settings, int, Code]] = {
    "another path": (request(target="/"), SETTINGS, 404, Code.NOT_FOUND),
    "a path behind it": (request(target="/v1/ws/"), SETTINGS, 404, Code.NOT_FOUND),
    "no token": (request(token=None), SETTINGS, 401, Code.UNAUTHENTICATED),
    "a bad token": (request(token="x"), SETTINGS, 401, Code.UNAUTHENTICATED),
    "an expired token": (request(token="expired"), SETTINGS, 401, Code.EXPIRED),
    "an empty token": (request(authorization=["Bearer "]), SETTINGS, 401, Code.UNAUTHENTICATED),
    "another scheme": (request(authorization=["Basic human"]), SETTINGS, 401, Code.UNAUTHENTICATED),
    "two headers": (request(authorization=["Bearer human"] * 2), SETTINGS, 401, Code.UNAUTHENTICATED),
    "two places": (request("bearer.human", JSON), SETTINGS, 401, Code.UNAUTHENTICATED),
    "two subprotocols": (
        request("bearer.human", "bearer.human", token=None),
        SETTINGS,
        401,
        Code.UNAUTHENTICATED,
    ),
    **{
        f"{name} in the query": (request(target=f"/v1/ws?{name}=x"), SETTINGS, 401, Code.UNAUTHENTICATED)
        for name in ("token", "access_token", "jwt", "Authorization", "BEARER", "a=b&token", "%74oken")
    },
    "an unknown subprotocol": (request("mqtt"), SETTINGS, 400, Code.SUBPROTOCOL_UNSUPPORTED),
    "JSON by a service": (request(JSON, token="service"), STRICT, 426, Code.INFRA_PROTOCOL_REQUIRED),
    "JSON by a person where there is none": (request(JSON), NO_JSON, 426, Code.INFRA_PROTOCOL_REQUIRED),
    "a page that may not": (request(origin=["https://evil.example"]), ORIGINS, 403, Code.ORIGIN_REFUSED),
    "a page that looks alike": (
        request(origin=["https://app.example.com.evil.example"]),
        ORIGINS,
        403,
        Code.ORIGIN_REFUSED,
    ),
    "a page without a name": (request(origin=["null"]), ORIGINS, 403, Code.ORIGIN_REFUSED),
    "two pages of which one may": (
        request(origin=["https://app.example.com", "https://evil.example"]),
        ORIGINS,
        403,
        Code.ORIGIN_REFUSED,
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    """A request that may is given its wire, and the subprotocol that the response has to name."""
    asked, settings, subprotocol, json_wire = ACCEPTED[case]
    decision = decide(asked, settings)
    assert isinstance(decision, Accepted), decision
    assert (decision.subprotocol, decision.wire.json) == (subprotocol, json_wire)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """A request that may not is told the code in a JSON body, and nothing of what it sent."""
    asked, settings, status, code = REFUSED[case]
    decision = decide(asked, settings)
    assert isinstance(decision, Refused), decision
    body: dict[str, Any] = json.loads(decision.body)
    assert (decision.status, decision.code, body["code"]) == (status, code, code)
    assert set(body) == {"code", "message", "docs"}
    headers = dict(decision.headers)
    assert headers["Content-Type"] == "application/json"
    assert ("WWW-Authenticate" in headers) == (status == 401)
    assert ("Upgrade" in headers) == (status == 426)


@pytest.mark.parametrize("code", [Code.DRAINING, Code.TOO_MANY_CONNECTIONS, Code.STORAGE_UNAVAILABLE])
@pytest.mark.parametrize(("hint", "seconds"), [(0, "2"), (1, "1"), (1000, "1"), (1001, "2"), (60_000, "60")])
def test_an_obstacle(code: Code, hint: int, seconds: str) -> None:
    """A node that takes nobody answers 503 with Retry-After before it looks at any token."""
    decision = decide(request(token="x"), obstacle=BusError(code, "not now", retry_after_ms=hint))
    assert isinstance(decision, Refused)
    assert (decision.status, decision.code) == (503, code)
    assert dict(decision.headers)["Retry-After"] == seconds


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_status(code: Code) -> None:
    """Whatever the error, the response is one of HTTP's errors."""
    assert 400 <= refused(BusError(code, "x")).status < 600


@given(
    st.text(max_size=40),
    st.dictionaries(
        st.sampled_from(["authorization", "origin", "sec-websocket-protocol"]),
        st.lists(st.text(max_size=20), max_size=3),
    ),
)
def test_any_request_is_decided(target: str, headers: dict[str, list[str]]) -> None:
    """No request, however odd, raises; none gets in without a token."""
    for path in (target, "/v1/ws?" + target, "/v1/ws"):
        assert isinstance(decide(Request(path, headers, "")), Refused)
