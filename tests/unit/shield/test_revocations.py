"""Revocation entries: reading and matching."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arqonbus.protocol.errors import BusError, Code
from arqonbus.shield.revocations import Revocation, Revocations, entry_of, read_revocations, revocation_of
from tests.unit.bus.people import identity

ALICE = replace(identity(tenant="shop"), token_id="t1", issued_at=1000)


@pytest.mark.parametrize(
    ("entry", "revoked"),
    [
        ({"jti": "t1"}, True),
        ({"jti": "t2"}, False),
        ({"jti": "t1", "tenant": "shop"}, True),
        ({"jti": "t1", "tenant": "acme"}, False),
        ({"jti": "t1", "issued_before": 1000}, False),
        ({"tenant": "shop", "sub": "alice"}, True),
        ({"tenant": "shop", "sub": "bob"}, False),
        ({"tenant": "shop", "sub": "alice", "issued_before": 1001}, True),
        ({"tenant": "shop", "sub": "alice", "issued_before": 1000}, False),
        ({"tenant": "shop"}, True),
        ({"tenant": "acme"}, False),
        ({"tenant": "shop", "issued_before": "1970-01-01T00:16:41Z"}, True),
        ({"tenant": "shop", "issued_before": "1970-01-01T00:16:40+00:00"}, False),
    ],
)
def test_an_entry_means_what_it_names(entry: dict[str, Any], revoked: bool) -> None:
    """All that it names has to fit; a moment is compared with the token's iat."""
    assert Revocations([revocation_of(entry)]).revoked(ALICE) is revoked


def test_a_token_without_an_iat_is_old() -> None:
    """It could have been made at any time."""
    assert Revocations([Revocation("shop", issued_before=1)]).revoked(replace(ALICE, issued_at=0))


def test_the_refusal_is_a_code() -> None:
    """As for any other token that is not accepted."""
    assert Revocations().check(ALICE) is ALICE
    with pytest.raises(BusError) as caught:
        Revocations([Revocation(token_id="t1")]).check(ALICE)
    assert caught.value.code is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"sub": "alice"},
        {"jti": ""},
        {"jti": 5},
        {"jti": "x" * 257},
        {"tenant": "a/b"},
        {"jti": "a", "until": "soon"},
        {"jti": "a", "until": -1},
        {"jti": "a", "until": True},
        {"jti": "a", "when": 1},
    ],
)
def test_an_entry_that_names_nothing_is_an_error(entry: Any) -> None:
    """Never one that means everybody, or nobody."""
    with pytest.raises(ValueError, match=r"^(is not|names|has)"):
        revocation_of(entry)


def test_an_entry_reads_back() -> None:
    """As it goes to other nodes."""
    for each in (Revocation("shop", "t", "s", 5.0, 7.0), Revocation(token_id="t"), Revocation("shop")):
        assert revocation_of(entry_of(each)) == each


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """Which names the entry and repeats none of it."""
    file = tmp_path / "revoked.yaml"
    for text, says in (
        ("- {jti: a}\n- {sub: s3cret}\n", "entry 2 of auth.revoked names neither"),
        ("jti: a\n", "is not a list"),
        ("- [\n", "is not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=says) as caught:
            read_revocations(file)
        assert "s3cret" not in str(caught.value)
    file.write_text("")
    assert read_revocations(file) == []
