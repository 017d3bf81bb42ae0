"""The content policy: findings, their actions, and complete coverage of a message."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from arqonbus.config.policy import Policy
from arqonbus.protocol.envelope import JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.shield.policy import CLEAN, REDACTED, ContentPolicy, Judgement
from arqonbus.shield.secret_forms import entropy, random_text, secret_patterns

CARD = {"name": "card", "pattern": r"\b4[0-9]{15}\b", "action": "redact"}
WORD = {"name": "word", "pattern": "(?i)classified", "action": "block"}
NUMBER = "4111111111111111"
AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "a1B2" * 9


def judged(
    payload: Any, *, room: str = "orders", content_type: str = JSON_CONTENT, **settings: Any
) -> Judgement:
    headers = settings.pop("headers", {})
    name = settings.pop("name", "")
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    inspector = ContentPolicy(Policy.model_validate({"mode": "enforce", **settings})).of(room)
    assert inspector is not None
    return inspector.judge(
        Envelope(
            id=new_ulid(),
            kind=MESSAGE,
            room=room,
            name=name,
            content_type=content_type,
            payload=body,
            headers=headers,
        )
    )


def found(judgement: Judgement) -> list[tuple[str, str, str]]:
    return [tuple(finding) for finding in judgement.findings]  # type: ignore[misc]


# -- forms


@pytest.mark.parametrize(
    ("payload", "where", "published"),
    [
        ({"card": NUMBER}, "payload.card", {"card": REDACTED}),
        (
            {"a": [1, {"b": f"card {NUMBER}, thanks"}]},
            "payload.a.1.b",
            {"a": [1, {"b": f"card {REDACTED}, thanks"}]},
        ),
        ({"card": int(NUMBER)}, "payload.card", {"card": 0}),
        ([NUMBER], "payload.0", [REDACTED]),
        (NUMBER, "payload", REDACTED),
        (b'{"card": "\\u0034111111111111111"}', "payload.card", {"card": REDACTED}),
        (b'{"big": 12345678901234567890123, "card": "4111111111111111"}', "payload.card", None),
    ],
)
def test_redaction_keeps_json_json(payload: Any, where: str, published: Any) -> None:
    """Wherever it stands and however it is written; numbers that stay are not rounded."""
    judgement = judged(payload, rules=[CARD])
    assert found(judgement) == [("card", "redact", where)]
    assert judgement.blocked is None
    assert judgement.payload is not None
    if published is None:
        assert b"12345678901234567890123" in judgement.payload
    else:
        assert json.loads(judgement.payload) == published


def test_text_stays_text_and_other_bytes_are_blocked() -> None:
    """A text is redacted as a text. Of bytes nobody knows what a replacement would break."""
    text = judged(f"pay {NUMBER}".encode(), content_type="text/plain", rules=[CARD])
    assert text.payload == f"pay {REDACTED}".encode()
    for content_type in ("application/octet-stream", "application/x-protobuf", ""):
        judgement = judged(b"\x00\xff " + NUMBER.encode() + b" \x01", content_type=content_type, rules=[CARD])
        assert found(judgement) == [("card", "block", "payload")]


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "text/plain"])
def test_json_under_another_name_is_read_as_json(content_type: str) -> None:
    """A sender cannot hide a key or an escaped value by calling the payload something else."""
    body = b' {"raw_content": 1, "x": "\\u0034111111111111111"}'
    rules = {rule for rule, _, _ in found(judged(body, content_type=content_type, rules=[CARD]))}
    assert rules == {"blocked-key", "card"}


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "text/plain"])
def test_what_only_a_reader_of_text_sees_is_blocked(content_type: str) -> None:
    """An escape hides it from a reader of JSON; under its own name the payload is JSON, and clean."""
    body = b'{"x": "\\u103' + NUMBER.encode() + b'"}'
    rules = [{"name": "card", "pattern": "4[0-9]{15}", "action": "redact"}]
    assert found(judged(body, content_type=content_type, rules=rules)) == [("card", "block", "payload")]
    assert judged(body, rules=rules) == CLEAN


def test_headers_and_the_name_are_judged() -> None:
    """A header is redacted, a header's name and the message's name are blocked."""
    judgement = judged({}, rules=[CARD], headers={"note": f"n {NUMBER}", "ok": "1"})
    assert judgement.headers == {"note": f"n {REDACTED}", "ok": "1"}
    assert found(judgement) == [("card", "redact", "header note")]
    assert judged({}, rules=[CARD], name=NUMBER).blocked is not None
    assert judged({}, rules=[CARD], headers={NUMBER: "x"}).blocked is not None
    assert judged({}, redacted_keys=["auth"], headers={"auth": "x"}).headers == {"auth": REDACTED}


def test_too_much_to_redact_is_blocked() -> None:
    """Thousands of places in one text would keep others waiting; so would tens of thousands of values."""
    rule = {"name": "dot", "pattern": r"\.", "action": "redact"}
    many, more = ". " * 1000, ". " * 1001
    judgement = judged({"x": many}, rules=[rule])
    assert judgement.payload is not None
    assert json.loads(judgement.payload) == {"x": f"{REDACTED} " * 1000}
    assert found(judged({"x": more}, rules=[rule])) == [("dot", "block", "payload.x")]
    assert found(judged([0] * 19_999 + ["."], rules=[rule])) == [("dot", "redact", "payload.19999")]
    assert found(judged([0] * 20_000 + ["."], rules=[rule])) == [("values", "block", "payload")]
    assert judged([0] * 20_000 + ["\\"], rules=[rule]) == CLEAN


def test_texts_that_are_found_in_one_pass_are_found_alone_too() -> None:
    """What two neighbours would only match together is no finding, and what an escape hides is one."""
    rules = [{"name": "r", "pattern": r"\ba\sb\b|\bcc\b"}]
    assert judged(["\\", "a", "b"], rules=rules) == CLEAN
    assert judged({"\\": "a", "b": "c", "d": "xcc"}, rules=rules) == CLEAN
    assert judged(["\\", "x cc", 1], rules=rules).blocked is not None
    assert judged({"\\": 1, "cc": 1}, rules=rules).blocked is not None


def test_a_key_that_holds_it_is_blocked() -> None:
    """A key cannot be replaced without harm."""
    judgement = judged({"a": {NUMBER: 1}}, rules=[CARD])
    assert found(judgement) == [("card", "block", "a key in payload.a")]


@pytest.mark.parametrize(
    ("pattern", "hit", "miss"),
    [
        ("^secret$", {"a": "secret"}, {"a": "no secret"}),
        (r"\Asecret", {"a": ["x", "secret stuff"]}, {"a": "a secret"}),
        ("a.b", {"x": "a-b"}, {"a": "b"}),
        ('","', {"x": '","'}, {"x": ["a", "b"]}),
    ],
)
def test_patterns_mean_values_and_not_the_text_between(pattern: str, hit: Any, miss: Any) -> None:
    """Anchors are the ends of a value; what only the JSON around the values would match is nothing."""
    rules = [{"name": "r", "pattern": pattern}]
    assert judged(hit, rules=rules).blocked is not None
    assert judged(miss, rules=rules) == CLEAN


# -- keys, paths, sizes


@pytest.mark.parametrize(
    "payload",
    [
        {"raw_content": 1},
        {"a": [{"raw_content": None}]},
        b'{"raw\\u005fcontent": 1}',
        b'{ "raw_content"\n:\t1}',
    ],
)
def test_blocked_keys_at_any_depth(payload: Any) -> None:
    """However they are written."""
    assert [rule for rule, _, _ in found(judged(payload))] == ["blocked-key"]


def test_blocked_paths() -> None:
    """A path names keys and indexes; * is any of them; the same key elsewhere is nothing."""
    paths = {"blocked_paths": ["customer.password", "items.*.card"]}
    assert found(judged({"customer": {"password": "x"}}, **paths)) == [
        ("blocked-path", "block", "payload.customer.password")
    ]
    assert judged({"items": [{"sku": 1}, {"card": 2}]}, **paths).blocked is not None
    assert judged({"password": "x", "customer": {"x": {"password": 1}}, "card": 1}, **paths) == CLEAN
    assert judged({"items": {"0": 1}}, blocked_paths=["items.0"]).blocked is not None
    assert judged({"a": {"b": 1}}, blocked_paths=["*.*"]).blocked is not None


def test_redacted_keys() -> None:
    """Their values are replaced, whatever they are; a second time nothing changes."""
    judgement = judged({"password": {"a": 1}, "n": 1.50}, redacted_keys=["password"])
    assert judgement.payload == b'{"password":"[redacted]","n":1.5}'
    assert judged(judgement.payload, redacted_keys=["password"]) == CLEAN


def test_what_cannot_be_looked_at_is_blocked() -> None:
    """Too large, too deep, no JSON, a key twice, half a surrogate pair: never passed over."""
    assert found(judged({"x": "y" * 2000}, max_inspected_bytes=1024)) == [("size", "block", "payload")]
    assert found(judged({"x": "y" * 2000}, max_value_bytes=1000)) == [("value-size", "block", "payload.x")]
    assert found(judged(b'{"x":' + b"[" * 70 + b'"\\n"' + b"]" * 70 + b"}")) == [
        ("depth", "block", "payload")
    ]
    for body in (b'{"a": "\\n"', b'{"a": 1, "a": "\\n"}', b'{"a": "\\ud800"}', b'{"a": NaN, "b": "\\n"}'):
        assert found(judged(body)) == [("unreadable", "block", "payload")], body


# -- secrets


@pytest.mark.parametrize(
    ("secret", "rule"),
    [
        (AWS_KEY, "aws-access-key"),
        (GITHUB, "github-token"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", "private-key"),
        ("postgresql://arqonbus:hunter2@db:5432/x", "basic-auth-credentials"),
        ("glpat-" + "x" * 20, "gitlab-token"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", "json-web-token"),
        ("q7Rk2ZxV9pLw4TnYb8HsJc6DfG3mQe5A", "random-text"),
    ],
)
def test_probable_secrets(secret: str, rule: str) -> None:
    """By the form of a service's key, or by being too random."""
    assert rule in {name for name, _, _ in found(judged({"note": f"use {secret} please"}, secrets="block"))}
    redacted = judged({"note": f"use {secret} please"}, secrets="redact")
    assert redacted.payload is not None
    assert secret.encode() not in redacted.payload
    assert judged({"note": secret}, secrets="ignore") == CLEAN
    assert judged({"note": secret}, secrets="allow").blocked is None


@pytest.mark.parametrize(
    "harmless",
    [
        "01M7ZCHGXJ15XRV4BDXE5VT4ZB",
        "550e8400-e29b-41d4-a716-446655440000",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "2030-01-31T12:00:00.000001Z",
        "https://shop.example.org/orders/2030/january",
        "the quick brown fox jumps over the lazy dog",
    ],
)
def test_what_messages_hold_every_day_is_no_secret(harmless: str) -> None:
    """Ids, digests, times and addresses."""
    assert judged({"id": harmless}, secrets="block") == CLEAN


def test_the_detectors_are_there() -> None:
    """Enough of them, each an expression that RE2 takes, none of which matches nothing."""
    assert len(secret_patterns()) >= 35
    assert len({name for name, _ in secret_patterns()}) >= 20
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
    assert random_text("short", 1.0) is None


# -- scope


def test_scope_by_room() -> None:
    """A rule holds in its rooms, the rest in policy.rooms; where neither does, nothing is looked at."""
    settings = {"rooms": ["public.*"], "rules": [{**WORD, "rooms": ["orders", "public.a"]}]}
    policy = ContentPolicy(Policy.model_validate({"mode": "enforce", **settings}))
    assert policy.of("private") is None
    assert ContentPolicy(Policy.model_validate({"mode": "off", **settings})).of("orders") is None
    assert judged({"raw_content": 1}, room="orders", **settings) == CLEAN
    assert judged({"x": "CLASSIFIED"}, room="orders", **settings).blocked is not None
    assert judged({"raw_content": 1}, room="public.b", **settings).blocked is not None
    assert judged({"x": "classified"}, room="public.b", **settings) == CLEAN


@pytest.mark.parametrize(
    "pattern", ["(", "(?=x)", r"(a)\1", "a*", "x" * 1001, "", "(" * 500, "((a{1000}){1000}){1000}"]
)
def test_a_bad_pattern_refuses_the_policy(pattern: str) -> None:
    """When the profile is read, with a sentence that does not repeat it."""
    with pytest.raises(ValidationError) as caught:
        Policy.model_validate({"rules": [{"name": "r", "pattern": pattern}]})
    assert "pattern" in str(caught.value)


def test_a_set_that_is_too_large_refuses_the_policy() -> None:
    """Each pattern alone would do. One room has all of them, and no message comes first."""
    rules = [{"name": f"r{n}", "pattern": f"{n}x.{{990}}", "rooms": ["orders"]} for n in range(150)]
    settings = Policy.model_validate({"mode": "enforce", "rooms": ["public.*"], "rules": rules})
    with pytest.raises(ValueError, match="too large together"):
        ContentPolicy(settings)
    ContentPolicy(settings.model_copy(update={"mode": "off"}))


def test_a_set_is_refused_or_finds_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the memory that RE2 may have: no set is taken that is blind."""
    monkeypatch.setattr("arqonbus.shield.pattern_sets._SET_MEMORY", 1 << 20)
    taken = 0
    for count in range(1, 30):
        rules = [{"name": f"r{n}", "pattern": f"{n}x[ab]{{900}}"} for n in range(count)]
        try:
            judgement = judged({"x": f"{count - 1}x" + "ab" * 450}, rules=rules)
        except ValueError:
            continue
        taken += 1
        assert judgement.blocked is not None
    assert 0 < taken < 29


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )
)
def test_whatever_is_redacted_is_gone_and_the_rest_stays(value: Any) -> None:
    """Beside any other content: one secret in it is replaced, and nothing else changes."""
    payload = json.dumps({"left": value, "secret": f"<{NUMBER}>"}).encode()
    try:
        payload.decode().encode()
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: blocked, see above
    judgement = judged(payload, rules=[CARD], blocked_keys=[])
    assert judgement.payload is not None
    assert NUMBER.encode() not in judgement.payload
    published = json.loads(judgement.payload)
    assert published["secret"] == f"<{REDACTED}>"
    if not re.search("4[0-9]{15}", json.dumps(value, ensure_ascii=False)):
        assert published["left"] == json.loads(payload)["left"]


@pytest.mark.parametrize("field", ["name", "content_type", "channel", "recipient", "actor", "counter"])
@pytest.mark.parametrize("action", ["redact", "block"])
def test_every_text_of_an_envelope_is_judged(field: str, action: str) -> None:
    """What stands where nothing can be replaced is blocked."""
    inspector = ContentPolicy(
        Policy.model_validate({"mode": "enforce", "rules": [{**CARD, "action": action}]})
    ).of("x")
    assert inspector is not None
    envelope = Envelope(id=new_ulid(), kind=MESSAGE)
    if field == "actor":
        envelope.clock[NUMBER] = 1
    elif field == "counter":
        envelope.clock["a"] = int(NUMBER)
    else:
        setattr(envelope, field, NUMBER)
    for _ in range(2):
        blocked = inspector.judge(envelope).blocked
        assert blocked is not None
        assert blocked.where in (field, "clock")
