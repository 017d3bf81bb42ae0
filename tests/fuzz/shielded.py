"""What a parser of the shield promises, whatever bytes it gets: tokens, the content policy, schemas."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from arqonbus.config import load
from arqonbus.config.policy import Policy
from arqonbus.config.schemas import MessageSchema
from arqonbus.protocol.envelope import JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.errors import BusError, Invalid
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.wire_json import one_line_json
from arqonbus.shield.policy import ContentPolicy, Inspector
from arqonbus.shield.schemas import Check, compile_schema
from arqonbus.shield.tokens import Claims, Verifier, mint
from tests.fuzz.targets import Broken

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a secret of the fuzzer, long enough for HS256"
CARD = "4111111111111111"
_ID = new_ulid()


@lru_cache(maxsize=1)
def _verifier() -> tuple[Verifier, str]:
    settings = load("dev", root=ROOT, environ={}, overrides=[f"auth.jwt.secret={SECRET}"]).settings
    token = mint(settings, Claims("acme", "alice", 10**9))
    return Verifier(settings), token


def jwt(data: bytes) -> None:
    """A token is refused with a sentence that repeats nothing of it, or its signature is one of ours."""
    verifier, good = _verifier()
    text = data.decode("latin-1")
    try:
        identity = verifier.verify(text)
    except BusError as error:
        if len(text) > 24 and text[:24] in error.message:
            raise Broken("a refusal repeats the token") from error
        return
    if text.rpartition(".")[0] != good.rpartition(".")[0] or identity.tenant != "acme":
        raise Broken("a token was accepted that nobody signed")


@lru_cache(maxsize=1)
def _inspector() -> Inspector:
    rules = [
        {"name": "card", "pattern": "4[0-9]{15}", "action": "redact"},
        {"name": "end", "pattern": "^secret$", "action": "redact"},
    ]
    keys = {"blocked_paths": ["a.*.b"], "redacted_keys": ["password"]}
    settings = Policy.model_validate({"mode": "enforce", "secrets": "redact", "rules": rules, **keys})
    inspector = ContentPolicy(settings).of("room")
    assert inspector is not None
    return inspector


def policy(data: bytes) -> None:
    """What passes holds no card in a value; what is redacted is judged clean a second time."""
    inspector = _inspector()
    kind = (JSON_CONTENT, "text/plain", "", "application/octet-stream")[data[0] % 4] if data else JSON_CONTENT
    envelope = Envelope(id=_ID, kind=MESSAGE, room="room", content_type=kind, payload=data[1:])
    judgement = inspector.judge(envelope)
    if judgement.blocked is not None:
        return
    published = envelope.payload if judgement.payload is None else judgement.payload
    envelope.payload = published
    again = inspector.judge(envelope)
    # A text that only looks like JSON may become too deep by the brackets around what stands there instead.
    too_deep = kind != JSON_CONTENT and again.blocked is not None and again.blocked.rule == "depth"
    if again.payload is not None or (again.blocked is not None and not too_deep):
        raise Broken("what was redacted is found again")
    if kind == JSON_CONTENT and one_line_json(published) is not None:
        if _holds_card(json.loads(published)):
            raise Broken("a card went through")
    elif CARD.encode() in published:
        raise Broken("a card went through")


def _holds_card(value: object) -> bool:
    """In a text, or as a whole number. One that is written with a point or an exponent is another number."""
    if isinstance(value, dict):
        return any(_holds_card(each) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return any(map(_holds_card, value))
    return isinstance(value, str | int) and CARD in str(value)


@lru_cache(maxsize=1)
def _check() -> Check:
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string", "pattern": "^(a+)+$"}},
        },
        "required": ["id"],
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "schema.json"
        path.write_text(json.dumps(schema))
        return compile_schema(MessageSchema(name="order", content_type=JSON_CONTENT, file=path))


def schema(data: bytes) -> None:
    """A payload is refused with a sentence, or it is an object with a whole id."""
    try:
        _check()(data)
    except Invalid:
        return
    value = msgspec.json.decode(data)
    if (
        not isinstance(value, dict)
        or not isinstance(value["id"], int | float)
        or isinstance(value["id"], bool)
    ):
        raise Broken("an invalid payload was taken")


def _part(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def _tokens() -> list[bytes]:
    header, payload, signature = _verifier()[1].encode().split(b".")
    headers = [
        {"alg": "none"},
        {"alg": "HS256", "kid": "../../etc/passwd"},
        {"alg": "RS256", "typ": "JWT"},
        {"alg": "HS256", "jwk": {"kty": "oct", "k": "AA"}},
        {"alg": "HS256", "crit": ["exp"], "exp": 1},
        {"alg": ["HS256"]},
        {"alg": None},
    ]
    claims = [
        {"tenant": "acme"},
        {"exp": "x"},
        {"exp": 1e400},
        {"sub": "a" * 300},
        [],
        "x",
        {"grants": [{}] * 300},
    ]
    return [
        b".".join((header, payload, signature)),
        b".".join((header, payload, b"")),
        b".".join((header, payload)),
        b"....",
        b"",
        b"\xff.\xff.\xff",
        *(b".".join((_part(each), payload, signature)) for each in headers),
        *(b".".join((header, _part(each), signature)) for each in claims),
        *(b".".join((_part(each), _part(claims[0]), b"")) for each in headers),
    ]


JWT: Sequence[bytes] = _tokens()

_VALUES: Sequence[bytes] = [
    b"{}",
    b'{"id":1}',
    b'{"id":1,"id":2}',
    b'{"id":"1"}',
    b'{"id":1.5,"tags":["aaaaaaaaaaaaaaaaaaaaaaaaaaaa!"]}',
    b'{"id":1,"tags":["a"]}',
    b'{"card":"4111111111111111"}',
    b'{"card":4111111111111111}',
    b'{"card":"\\u0034111111111111111"}',
    b'{"card":41111111111111110000}',
    b'{"4111111111111111":1}',
    b'["4111111111111111",{"password":{"a":1}}]',
    b'{"a":{"x":{"b":1}}}',
    b'{"a":[{"b":"secret"}]}',
    b'"secret"',
    b"secret",
    b'{"k":"AKIAIOSFODNN7EXAMPLE"}',
    b'{"k":"q7Rk2ZxV9pLw4TnYb8HsJc6DfG3mQe5A"}',
    b'{"s":"\\ud800"}',
    b'{"n":NaN}',
    b"[" * 70,
    b"\xff\xfe4111111111111111",
    b" \t\r\n{}",
]
POLICY: Sequence[bytes] = [
    *(bytes((mode,)) + value for mode in range(4) for value in _VALUES),
    b"\x01{" + b"[" * 63 + b" kqRxV9pLw2TnYJc6DfG3mQe5",
    b'\x01{"card":"\\u1034111111111111111"}',
]
SCHEMA: Sequence[bytes] = _VALUES

__all__ = ["JWT", "POLICY", "SCHEMA", "jwt", "policy", "schema"]
