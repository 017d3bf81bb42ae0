"""Forged tokens: every trick that made some library accept one is refused with 401 and leaves no trace."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.adversarial.conftest import SECRET, ProdBus
from tests.integration.raw import Response

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("adversarial")]

STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CANARY = "canary-5up3r-s3cr3t"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encoded(value: object) -> str:
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def claims(prod: ProdBus, **changes: Any) -> dict[str, Any]:
    """What would be accepted, with changes; None leaves a claim out."""
    now = int(time.time())
    whole = {
        "sub": CANARY, "tenant": "red", "kind": "human", "role": "user", "iat": now, "exp": now + 600,
        "iss": prod.settings.auth.jwt.issuer, "aud": prod.settings.auth.jwt.audience,
        "grants": {"*": ["publish"]},
    } | changes  # fmt: skip
    return {name: value for name, value in whole.items() if value is not None}


def hs256(header: object, payload: object, key: bytes = SECRET.encode()) -> str:
    signed = f"{encoded(header)}.{encoded(payload)}"
    return f"{signed}.{b64(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def rs256(header: object, payload: object, key: rsa.RSAPrivateKey) -> str:
    signed = f"{encoded(header)}.{encoded(payload)}"
    return f"{signed}.{b64(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


HS = {"alg": "HS256", "typ": "JWT"}
RS = {"alg": "RS256", "typ": "JWT", "kid": "issuer-1"}


async def tried(prod: ProdBus, token: str) -> Response:
    """The answer to an upgrade with this token."""
    raw = await prod.raw()
    return await raw.upgrade(token, "arqonbus.v1.protobuf")


async def refused(prod: ProdBus, token: str) -> None:
    try:
        answer = await tried(prod, token)
    except (asyncio.IncompleteReadError, ConnectionError):
        assert len(token) > 8192  # more than a request may hold
        return
    if answer.status in (400, 431):
        assert len(token) > 2048
        return
    assert (answer.status, answer.json()["code"]) in {(401, "UNAUTHENTICATED"), (401, "EXPIRED")}
    assert "www-authenticate" in answer.headers
    shown = answer.body.decode() + json.dumps(answer.headers) + prod.log.read_text()
    assert not [part for part in (CANARY, token) if len(part) > 8 and part in shown]


async def test_the_genuine_ones_are_accepted(prod: ProdBus) -> None:
    """Else every refusal below would say nothing."""
    assert (await tried(prod, hs256(HS, claims(prod)))).status == 101
    assert (await tried(prod, rs256(RS, claims(prod), prod.rsa))).status == 101


HEADERS: Mapping[str, object] = {
    "alg none": {"alg": "none"},
    "alg None": {"alg": "None"},
    "alg NONE": {"alg": "NONE", "typ": "JWT"},
    "alg empty": {"alg": ""},
    "alg null": {"alg": None},
    "alg a list": {"alg": ["HS256"]},
    "alg an object": {"alg": {"HS256": 1}},
    "alg a number": {"alg": 256},
    "alg lower": {"alg": "hs256"},
    "alg with a space": {"alg": "HS256 "},
    "alg with a nul": {"alg": "HS256\0"},
    "no alg": {"typ": "JWT"},
    "HS384": {"alg": "HS384"},
    "HS512": {"alg": "HS512"},
    "PS256": {"alg": "PS256"},
    "ES256": {"alg": "ES256"},
    "EdDSA": {"alg": "EdDSA"},
    "dir": {"alg": "dir", "enc": "A128GCM"},
    "jwe typ": {"alg": "HS256", "typ": "JWE"},
    "nested": {"alg": "HS256", "cty": "JWT"},
    "typ a list": {"alg": "HS256", "typ": ["JWT"]},
    "typ empty": {"alg": "HS256", "typ": ""},
    "logout token": {"alg": "HS256", "typ": "logout+jwt"},
    "dpop": {"alg": "HS256", "typ": "dpop+jwt"},
    "own key": {"alg": "HS256", "jwk": {"kty": "oct", "k": b64(b"k" * 32)}},
    "jku": {"alg": "HS256", "jku": "http://127.0.0.1:1/jwks"},
    "x5u": {"alg": "HS256", "x5u": "http://127.0.0.1:1/cert"},
    "x5c": {"alg": "HS256", "x5c": ["MII"]},
    "crit": {"alg": "HS256", "crit": ["exp"]},
    "empty crit": {"alg": "HS256", "crit": []},
    "b64": {"alg": "HS256", "b64": False, "crit": ["b64"]},
    "zip": {"alg": "HS256", "zip": "DEF"},
    "url": {"alg": "HS256", "url": "http://x"},
    "unknown kid": {"alg": "RS256", "kid": "issuer-2"},
    "kid a path": {"alg": "RS256", "kid": "../../../../dev/null"},
    "kid sql": {"alg": "RS256", "kid": "x' UNION SELECT 'k"},
    "kid a command": {"alg": "RS256", "kid": "|id"},
    "kid a list": {"alg": "RS256", "kid": ["issuer-1"]},
    "kid a number": {"alg": "RS256", "kid": 1},
    "twice": b'{"alg":"HS256","alg":"none"}',
    "twice the other way": b'{"alg":"none","alg":"HS256"}',
    "a list": ["HS256"],
    "a text": "HS256",
    "no json": b"{alg:HS256}",
    "utf-16": '{"alg":"HS256"}'.encode("utf-16"),
    "a bom": b'\xef\xbb\xbf{"alg":"HS256"}',
    "not utf-8": b'{"alg":"HS256","kid":"\xff"}',
    "deep": b'{"alg":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "empty": b"",
}


@pytest.mark.parametrize("case", [case for case in HEADERS if case not in ("unknown kid",)])
async def test_headers(prod: ProdBus, case: str) -> None:
    """Signed with the true secret, so that the header alone is what is wrong."""
    await refused(prod, hs256(HEADERS[case], claims(prod)))


async def test_no_signature(prod: ProdBus) -> None:
    """alg none in its usual form: two parts and a dot, or a true header without a signature."""
    for header in ({"alg": "none"}, {"alg": "nOnE", "typ": "JWT"}, HS):
        body = f"{encoded(header)}.{encoded(claims(prod))}"
        for token in (body, f"{body}.", f"{body}.AAAA", f"{body}.{'A' * 43}"):
            await refused(prod, token)


async def test_the_public_key_as_a_shared_secret(prod: ProdBus) -> None:
    """The confusion of HS256 and RS256, with each way to write the public key."""
    pem = prod.public_pem
    for key in (pem, pem.strip(), pem.replace(b"\n", b""), pem + b"\n", base64.b64encode(pem)):
        for header in (HS, {**HS, "kid": "issuer-1"}):
            await refused(prod, hs256(header, claims(prod), key))


WRONG_KEYS: Mapping[str, Callable[[ProdBus], str]] = {
    "empty secret": lambda prod: hs256(HS, claims(prod), b"\0"),
    "known secret": lambda prod: hs256(HS, claims(prod), b"secret"),
    "secret with a newline": lambda prod: hs256(HS, claims(prod), SECRET.encode() + b"\n"),
    "a stranger": lambda prod: rs256(RS, claims(prod), STRANGER),
    "a stranger without kid": lambda prod: rs256({"alg": "RS256"}, claims(prod), STRANGER),
    "a stranger's kid": lambda prod: rs256({"alg": "RS256", "kid": "mine"}, claims(prod), STRANGER),
    "an unknown kid": lambda prod: rs256({"alg": "RS256", "kid": "issuer-2"}, claims(prod), prod.rsa),
    "rs header, hs signature": lambda prod: hs256(RS, claims(prod)),
    "hs header, rs signature": lambda prod: rs256(HS, claims(prod), prod.rsa),
}


@pytest.mark.parametrize("case", WRONG_KEYS)
async def test_wrong_keys(prod: ProdBus, case: str) -> None:
    """Signed by nobody who may."""
    await refused(prod, WRONG_KEYS[case](prod))


CLAIMS: Mapping[str, Mapping[str, Any]] = {
    "no exp": {"exp": None},
    "exp a text": {"exp": "9999999999"},
    "exp true": {"exp": True},
    "exp negative": {"exp": -1},
    "exp past": {"exp": 1},
    "exp zero": {"exp": 0},
    "exp huge": {"exp": 10**400},
    "exp beyond doubles": {"exp": 2**53},
    "exp a list": {"exp": [9999999999]},
    "exp an object": {"exp": {}},
    "iat in the future": {"iat": 9_999_999_999},
    "iat a text": {"iat": "1"},
    "nbf in the future": {"nbf": 9_999_999_999},
    "nbf a list": {"nbf": []},
    "another issuer": {"iss": "https://evil.example"},
    "no issuer": {"iss": None},
    "issuer a list": {"iss": ["https://id.example.org"]},
    "issuer with a slash": {"iss": "https://id.example.org/"},
    "another audience": {"aud": "others"},
    "no audience": {"aud": None},
    "audience within": {"aud": "arqonbus-other"},
    "audience an object": {"aud": {"arqonbus": 1}},
    "no tenant": {"tenant": None},
    "tenant empty": {"tenant": ""},
    "tenant a star": {"tenant": "*"},
    "tenant a path": {"tenant": "../blue"},
    "tenant with a colon": {"tenant": "red:room"},
    "tenant with a brace": {"tenant": "red}{blue"},
    "tenant with a newline": {"tenant": "red\n"},
    "tenant with a nul": {"tenant": "red\0"},
    "tenant a homoglyph": {"tenant": "rеd"},
    "tenant a list": {"tenant": ["red", "blue"]},
    "tenant long": {"tenant": "r" * 129},
    "no sub": {"sub": None},
    "sub empty": {"sub": ""},
    "sub a number": {"sub": 1},
    "sub with lines": {"sub": "a\r\nX: y"},
    "sub with ansi": {"sub": "\x1b[2J"},
    "role root": {"role": "root"},
    "role Admin": {"role": "Admin"},
    "role a list": {"role": ["admin"]},
    "role true": {"role": True},
    "kind of none": {"kind": "machine"},
    "grants a text": {"grants": "*"},
    "grants of nothing": {"grants": {"*": []}},
    "grants unknown": {"grants": {"*": ["root"]}},
    "grants for a path": {"grants": {"../*": ["publish"]}},
    "grants too many": {"grants": {f"r{n}": ["publish"] for n in range(257)}},
    "grants a regex": {"grants": {"(a+)+$": ["publish"]}},
    "jti a list": {"jti": []},
}


@pytest.mark.parametrize("case", CLAIMS)
async def test_claims(prod: ProdBus, case: str) -> None:
    """Signed with the true secret, so that the claim alone is what is wrong."""
    await refused(prod, hs256(HS, claims(prod, **CLAIMS[case])))


BODIES: Mapping[str, bytes] = {
    "twice": b'{"tenant":"red","tenant":"blue"',
    "not a number": b'{"exp":NaN',
    "infinity": b'{"exp":Infinity',
    "an exponent": b'{"exp":1e999',
    "deep": b'{"x":' + b"[" * 2500 + b"]" * 2500,
    "not utf-8": b'{"sub":"\xff"',
}


@pytest.mark.parametrize("case", BODIES)
async def test_bodies(prod: ProdBus, case: str) -> None:
    """JSON that two readers could read in two ways, or that is none."""
    rest = json.dumps(claims(prod)).encode()
    await refused(prod, hs256(HS, BODIES[case] + b"," + rest[1:]))


SHAPES: Mapping[str, Callable[[str], str]] = {
    "one part": lambda t: t.split(".")[0],
    "two parts": lambda t: t.rsplit(".", 1)[0],
    "four parts": lambda t: t + ".AAAA",
    "five parts": lambda t: t + ".AAAA.AAAA",
    "an empty first": lambda t: "." + t.split(".", 1)[1],
    "an empty middle": lambda t: t.split(".")[0] + ".." + t.split(".")[2],
    "padded": lambda t: t.replace(".", "=.") + "=",
    "cut": lambda t: t[:-2],
    "one bit": lambda t: t[:-8] + ("A" if t[-8] != "A" else "B") + t[-7:],
    "other base64": lambda t: t.split(".")[0] + "." + t.split(".")[1] + ".+/+/",
    "doubled": lambda t: t + t,
    "reversed": lambda t: t[::-1],
    "latin-1": lambda t: t + "é",
    "quoted": lambda t: f'"{t}"',
    "long": lambda t: t + "A" * 20_000,
    "a comma": lambda t: t + "," + t,
    "json serialisation": lambda t: json.dumps(
        dict(zip(("protected", "payload", "signature"), t.split("."), strict=True))
    ),
}


@pytest.mark.parametrize("case", SHAPES)
async def test_shapes(prod: ProdBus, case: str) -> None:
    """A genuine token that was bent."""
    await refused(prod, SHAPES[case](hs256(HS, claims(prod))))
