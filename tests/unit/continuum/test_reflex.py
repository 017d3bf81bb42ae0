"""The Reflex boundary: references cross it, content does not, at any depth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.continuum.reflex import FORBIDDEN_KEYS, LONGEST_ARRAY_OF_NUMBERS, MAX_DEPTH, Boundary


def _deep(levels: int, inner: object) -> object:
    for _ in range(levels):
        inner = {"k": inner}
    return inner


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"raw_content": ""}, "payload.raw_content is content; publish a reference to it"),
        (
            [{"a": {"full_state_dump": 1}}],
            "payload[0].a.full_state_dump is content; publish a reference to it",
        ),
        (("x", {"episode_body": 1}), "payload[1].episode_body is content; publish a reference to it"),
        ("x" * 65_537, "payload is larger than 65536 bytes; publish a reference to it"),
        ("ü" * 32_769, "payload is larger than 65536 bytes; publish a reference to it"),
        ({"a": "DATA:text/plain,x"}, "payload.a is an inline body (data:); publish a reference to it"),
        ({"v": [1.0] * 33}, "payload.v is a vector of 33 numbers; publish a reference to it"),
        (_deep(MAX_DEPTH + 1, 1), "payload" + ".k" * (MAX_DEPTH + 1) + f" is deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_may_not_cross_is_named_with_its_path(value, fault):
    """One sentence for each."""
    assert list(Boundary().faults(value)) == [fault]


@pytest.mark.parametrize(
    "value",
    [
        {"content_ref": "sqlite://a", "embedding_ref": "sled://b", "page": "https://c", "hot": "ram://d"},
        "x" * 65_536,
        "raw_content",
        "database: postgres",
        [1] * LONGEST_ARRAY_OF_NUMBERS,
        [*([1] * 40), "not all are numbers"],
        _deep(MAX_DEPTH, 1),
        None,
    ],
)
def test_references_and_labels_cross(value):
    """Up to the bounds, and whatever they are called."""
    assert list(Boundary().faults(value)) == []


def test_a_profile_may_have_other_keys_and_bounds():
    """Its keys replace the usual ones, and 0 means no bound."""
    boundary = Boundary(frozenset({"secret"}), 0)
    value = {"secret": 1, "raw_content": "x" * 100_000}
    assert list(boundary.faults(value, "p")) == ["p.secret is content; publish a reference to it"]


_places = st.lists(st.sampled_from("abc") | st.integers(0, 2), max_size=8)


@given(_places, st.sampled_from(sorted(FORBIDDEN_KEYS)))
def test_a_forbidden_key_is_found_wherever_it_is(places, key):
    """In objects and arrays, and the path leads to it."""
    value: object = {key: "body"}
    path = f".{key}"
    for place in reversed(places):
        if isinstance(place, str):
            value, path = {"x": 1, place: value}, f".{place}{path}"
        else:
            value, path = [*["x"] * place, value], f"[{place}]{path}"
    (fault,) = Boundary().faults(value)
    assert fault == f"payload{path} is content; publish a reference to it"
