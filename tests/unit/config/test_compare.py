"""Comparing two profiles, and planning the change."""

from __future__ import annotations

from pathlib import Path

import pytest

from arqonbus.config import Resolved, load
from arqonbus.config.compare import EFFORTS, differences, plan

REPOSITORY = Path(__file__).resolve().parents[3]

# Staging is judged like production. These are the only settings in which they may differ.
ALLOWED = {
    "environment",
    "server.public_url",
    "server.origins",
    "datastores.valkey.url",
    "datastores.postgres.host",
    "auth.jwt.issuer",
}


def profile(name: str, *overrides: str) -> Resolved:
    return load(name, root=REPOSITORY, environ={}, overrides=overrides, secrets_of=())


def test_staging_differs_from_prod_only_where_it_may() -> None:
    """The differences between staging and prod are the names of hosts, and nothing else."""
    assert {each.key for each in differences(profile("staging"), profile("prod"))} == ALLOWED


def test_equal_profiles_have_no_differences() -> None:
    """A profile is equal to itself, and there is nothing to plan."""
    assert differences(profile("prod"), profile("prod")) == []
    assert plan(profile("prod"), profile("prod")).effort is None


def test_a_difference_tells_both_values_and_places() -> None:
    """Each side has its value and the place where it stands."""
    [found] = differences(profile("dev"), profile("dev", "server.port=9200"))
    assert (found.key, found.left, found.right) == ("server.port", 9100, 9200)
    assert str(found.left_location).startswith("profiles/base.yaml:")
    assert "--set" in str(found.right_location)


def test_a_secret_differs_by_its_origin_and_is_never_shown() -> None:
    """Another credential is a difference; the values of secrets are not part of it."""
    canary = "canary-" + "x" * 40
    [found] = differences(profile("dev"), profile("dev", f"auth.jwt.secret={canary}"))
    assert found.key == "auth.jwt.secret"
    assert canary not in repr(found)


@pytest.mark.parametrize(
    ("override", "effort"),
    [
        ("limits.messages_per_second=7", "hot"),
        ("server.port=9200", "rolling"),
        ("storage.backend=memory", "migration"),
        ("environment=staging", "forbidden"),
    ],
)
def test_each_change_has_its_effort(override: str, effort: str) -> None:
    """What a change takes follows from the setting."""
    old = profile(str(REPOSITORY / "profiles" / "dev" / "profile.yaml"))
    if effort == "forbidden":
        found = plan(profile("staging"), profile("prod"))
        assert "environment" in {c.difference.key for c in found.changes if c.effort == "forbidden"}
    else:
        found = plan(old, profile("dev", override))
        assert [change.effort for change in found.changes] == [effort]
        assert found.changes[0].consequence
    assert found.effort == effort


def test_the_greatest_effort_decides() -> None:
    """Of several changes, the one that takes most says what the whole takes."""
    found = plan(profile("dev"), profile("dev", "server.port=9200", "limits.messages_per_second=7"))
    assert found.effort == "rolling"
    assert EFFORTS.index("hot") < EFFORTS.index("rolling") < EFFORTS.index("forbidden")
