"""Subjects and rooms: a bijection, and profiles whose mappings could collide are refused."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.config import ConfigError, load
from arqonbus.config.bridge import Bridge
from arqonbus.config.subjects import Address, Route, route
from arqonbus.protocol.names import is_name
from tests.servers.arqonbus import REPOSITORY

NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=128)
LITERALS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=12)
# Near the border: what the encoding uses, what NATS reserves, what no name may hold.
SUBJECTS = st.lists(st.text("aA0._-~*>$ \té", max_size=4), min_size=1, max_size=8).map(".".join)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    tokens = draw(st.lists(LITERALS, min_size=1, max_size=4))
    any_tenant = draw(st.booleans())
    if any_tenant:
        tokens.insert(draw(st.integers(0, len(tokens))), "{tenant}")
    rest = draw(st.booleans())
    room = draw(st.text("ab._-", min_size=0 if rest else 1, max_size=6)) + ("*" if rest else "")
    return route(".".join([*tokens, ">"] if rest else tokens), room, None if any_tenant else draw(NAMES))


@given(way=routes(), tenant=NAMES, tail=NAMES | st.just(""))
def test_rooms_come_back(way: Route, tenant: str, tail: str) -> None:
    """Every room of a route has one subject, which NATS takes and which stands for that room again."""
    address = Address(way.tenant or tenant, way.room + (tail if way.open else ""))
    if not is_name(address.room):
        return
    subject = way.subject(address)
    assert subject is not None
    assert all(token and not set(token) & set(" \t*>$") for token in subject.split("."))
    assert way.address(subject) == address


@given(way=routes(), subject=SUBJECTS | st.builds(".".join, st.lists(LITERALS, min_size=1, max_size=6)))
def test_subjects_come_back(way: Route, subject: str) -> None:
    """A subject that stands for a room is the only one of that room; so no two meet in one room."""
    prefix = way.filter.removesuffix(">").replace("*", "t")
    for text in (subject, prefix + subject, prefix.rstrip(".")):
        address = way.address(text)
        if address is not None:
            assert is_name(address.room)
            assert is_name(address.tenant)
            assert way.subject(address) == text


CODED = [
    ("s.{tenant}.>", "r.*", None, "a.b", "r.x.y", "s.a~b.x.y"),
    ("s.{tenant}.>", "r.*", None, "a", "r.", "s.a.~"),
    ("s.{tenant}.>", "r*", None, "a", "r.x", "s.a.~.x"),
    ("s.>", "*", "t", "t", "a..b", "s.a.~.b"),
    ("s.>", "*", "t", "t", "...", "s.~.~.~.~"),
    ("s", "r.x", "t.u", "t.u", "r.x", "s"),
    ("{tenant}", "r", None, "...", "r", "~~~"),
]


@pytest.mark.parametrize(("pattern", "rooms", "fixed", "tenant", "room", "subject"), CODED)
def test_encoding(pattern: str, rooms: str, fixed: str | None, tenant: str, room: str, subject: str) -> None:
    """Only what NATS could not carry is written otherwise."""
    way = route(pattern, rooms, fixed)
    assert way.subject(Address(tenant, room)) == subject
    assert way.address(subject) == Address(tenant, room)


NO_ROOM = [
    "s.a",
    "s",
    "s.a.",
    "s.a..x",
    "s.a.x~",
    "s.a.~~",
    "s.a.$x",
    "s.a.x y",
    "s..x",
    "x.a.b",
    "s.a." + "x" * 127,
]


@pytest.mark.parametrize("subject", NO_ROOM)
def test_no_room(subject: str) -> None:
    """What no room is written as stands for none."""
    assert route("s.{tenant}.>", "r.*", None).address(subject) is None


def mapping(subject: str, room: str, direction: str = "both", tenant: str | None = None) -> dict[str, Any]:
    return {"subject": subject, "room": room, "direction": direction} | ({"tenant": tenant} if tenant else {})


T = "{tenant}"
TWO_ROOMS = "two mappings for one subject"
TWO_SUBJECTS = "two subjects for one room"
BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "same subject": ([mapping(f"s.{T}.>", "a*"), mapping(f"s.{T}.>", "b*")], TWO_ROOMS),
    "in a rest": ([mapping(f"s.{T}.>", "a*"), mapping(f"s.{T}.x", "b")], TWO_ROOMS),
    "under a tenant": ([mapping(f"s.{T}.x", "a"), mapping("s.q.x", "b", tenant="q")], TWO_ROOMS),
    "in and out": ([mapping(f"s.{T}", "a", "in"), mapping(f"s.{T}", "b", "out")], TWO_ROOMS),
    "same room": ([mapping(f"s.{T}", "a"), mapping(f"t.{T}", "a")], TWO_SUBJECTS),
    "room in rest": ([mapping(f"s.{T}.>", "a*"), mapping(f"t.{T}", "ab")], TWO_SUBJECTS),
    "rests": ([mapping(f"s.{T}.>", "a*", "in"), mapping(f"t.{T}.>", "ab*", "in")], TWO_SUBJECTS),
    "room of tenant": ([mapping(f"s.{T}", "a"), mapping("t", "a", tenant="demo")], TWO_SUBJECTS),
    "dead letters": ([mapping(f"arqonbus.{T}", "a", "in")], "would bring in again"),
    "no rest": ([mapping(f"s.{T}.>", "a")], "use both or neither"),
    "no star": ([mapping(f"s.{T}", "a*")], "use both or neither"),
    "two tenants": ([mapping(f"s.{T}.{T}", "a")], "twice"),
    "no tenant": ([mapping("s", "a")], "either {tenant} in its subject or a tenant"),
    "tenant twice": ([mapping(f"s.{T}", "a", tenant="x")], "either {tenant} in its subject or a tenant"),
    "bad tenant": ([mapping("s", "a", tenant="a b")], "a tenant that is not a name"),
    "star in subject": ([mapping(f"s.*.{T}", "a")], "has an invalid subject"),
    "rest inside": ([mapping(f"s.>.{T}", "a")], "has an invalid subject"),
    "only rest": ([mapping(">", "*", tenant="x")], "has an invalid subject"),
    "api": ([mapping(f"$JS.{T}", "a")], "has an invalid subject"),
    "empty token": ([mapping(f"s..{T}", "a")], "has an invalid subject"),
    "bad room": ([mapping(f"s.{T}", "a b")], "a room that is not a name"),
    "star inside": ([mapping(f"s.{T}.>", "a*b*")], "a room that is not a name"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused(case: str) -> None:
    """A profile in which something could meet that must not is refused with a sentence."""
    mappings, sentence = BAD[case]
    overrides = [
        f"bridge.mappings={json.dumps(mappings)}",
        'bridge.tenants=["demo"]',
        "datastores.nats.url=nats://nats:4222",
    ]
    with pytest.raises(ConfigError) as refused:
        load("dev", root=REPOSITORY, environ={}, overrides=overrides)
    assert sentence in str(refused.value)


APART = {
    "ways": [mapping(f"c.{T}.>", "a*", "in"), mapping(f"e.{T}.>", "a*", "out")],
    "tenants": [mapping("s.x", "a", tenant="x"), mapping("s.y", "a", tenant="y")],
    "depths": [mapping(f"s.{T}", "a"), mapping(f"s.{T}.>", "b*")],
    "other tenant": [mapping(f"s.{T}", "a"), mapping("t", "a", tenant="other")],
}


@pytest.mark.parametrize("case", APART)
def test_accepted(case: str) -> None:
    """What cannot meet stands side by side."""
    assert len(Bridge.model_validate({"mappings": APART[case], "tenants": ["demo"]}).mappings) == 2


@pytest.mark.parametrize("grant", ["orders", "orders:", "orders:fly", "a b:publish", ":publish"])
def test_bad_grants(grant: str) -> None:
    """A grant is a pattern of rooms and actions."""
    with pytest.raises(ValueError, match="is not a"):
        Bridge.model_validate({"grants": [grant]})


def test_needs() -> None:
    """A bridge needs NATS, and tenants where its subjects leave them open."""
    mappings = json.dumps([mapping(f"s.{T}", "a")])
    with pytest.raises(ConfigError, match=r"no datastores\.nats\.url"):
        load(
            "dev",
            root=REPOSITORY,
            environ={},
            overrides=[f"bridge.mappings={mappings}", 'bridge.tenants=["a"]'],
        )
    with pytest.raises(ConfigError, match="no tenants"):
        load("dev", root=REPOSITORY, environ={}, overrides=[f"bridge.mappings={mappings}"])
