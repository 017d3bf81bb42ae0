"""Grants: actions by room pattern."""

from typing import Any

import pytest

from arqonbus.config.rooms import Action
from arqonbus.shield.grants import (
    ACTIONS,
    EVERYTHING,
    MAX_GRANTS,
    NOTHING,
    Grants,
    grants_claim,
    parse_grant,
    parse_grants,
)

CLAIM = [
    {"room": "orders.*", "allow": ["publish", "subscribe"]},
    {"room": "*.public", "allow": ["subscribe", "history"]},
]


@pytest.mark.parametrize(
    ("action", "room", "allowed"),
    [
        ("publish", "orders.new", True),
        ("history", "orders.new", False),
        ("history", "orders.public", True),
        ("publish", "orders.public", True),
        ("publish", "news.public", False),
        ("subscribe", "Orders.new", False),
        ("manage", "orders.new", False),
        ("subscribe", "other", False),
    ],
)
def test_an_action_needs_one_grant_that_covers_it(action: Action, room: str, allowed: bool) -> None:
    """Grants add up, and what none of them covers is denied."""
    assert parse_grants(CLAIM).allows(action, room) is allowed


def test_there_is_everything_and_nothing() -> None:
    """Nothing is the default."""
    for action in ACTIONS:
        assert EVERYTHING.allows(action, "any")
        assert not NOTHING.allows(action, "any")
    assert Grants() == NOTHING == parse_grants([]) == parse_grants({})


@pytest.mark.parametrize(
    "short",
    [
        {"orders.*": ["publish", "subscribe"], "*.public": ["subscribe", "history"]},
        {"orders.*": "publish, subscribe", "*.public": "history,subscribe"},
    ],
)
def test_the_short_form_says_the_same(short: dict[str, Any]) -> None:
    """A map from room to actions, the actions as a list or as one text."""
    assert parse_grants(short) == parse_grants(CLAIM)


def test_a_star_stands_for_all_actions() -> None:
    """In the short form, the long form and the form that people type."""
    for grants in (parse_grants({"a": "*"}), parse_grants([{"room": "a", "allow": ["*"]}])):
        assert grants.rules == (parse_grant("a:*"),)
        assert grants.rules[0].allow == ACTIONS


def test_a_claim_comes_back_from_the_grants_that_it_gave() -> None:
    """What is minted is what is read."""
    grants = parse_grants(CLAIM)
    assert parse_grants(grants_claim(grants.rules)) == grants


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        (None, "is neither a list of {room, allow} nor a map"),
        ("orders", "is neither a list"),
        (True, "is neither a list"),
        (["orders"], "has an entry that is not {room, allow}"),
        ([{"room": "a"}], "has an entry that is not {room, allow}"),
        ([{"room": "a", "allow": ["publish"], "deny": []}], "has an entry that is not {room, allow}"),
        ([{"room": 5, "allow": ["publish"]}], "has a room that is not text"),
        ({"a b": ["publish"]}, "has a room that is not a pattern of names"),
        ({"": ["publish"]}, "has a room that is not a pattern of names"),
        ({"a" * 129: ["publish"]}, "has a room that is not a pattern of names"),
        ({"a": []}, "has actions that are not a list of words"),
        ({"a": [5]}, "has actions that are not a list of words"),
        ({"a": None}, "has actions that are not a list of words"),
        ({"a": ["fly"]}, "has an action that is none of consume, history, manage, presence, publish, "),
        ({"a": ["*", "fly"]}, "has an action that is none of"),
        ({"a": ""}, "has an action that is none of"),
        ({f"a{number}": ["publish"] for number in range(MAX_GRANTS + 1)}, "has more than 256 entries"),
    ],
)
def test_a_claim_that_is_not_understood_is_refused_as_a_whole(claim: Any, sentence: str) -> None:
    """A grant is never half read, and the sentence repeats nothing of the claim."""
    with pytest.raises(ValueError, match=r"^(is|has) ") as caught:
        parse_grants(claim)
    assert sentence in str(caught.value)
    assert "fly" not in str(caught.value)


@pytest.mark.parametrize("bad", ["orders.*", ":publish", "orders:", "orders:fly", "a b:publish"])
def test_a_grant_that_is_mistyped_is_refused(bad: str) -> None:
    """On the command line too."""
    with pytest.raises(ValueError, match=r"^(is|has) "):
        parse_grant(bad)
