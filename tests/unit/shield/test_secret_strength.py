"""Weak keys prevent a start outside dev, whatever preflight said."""

from typing import Any

import pytest

from arqonbus.config import Settings
from arqonbus.shield.secret_strength import demand_verification

GOOD = "zK4v8QmT1xW7nR2pL9cY6hB3sD5fG0jA8uE1iO4tN7wM"


def settings(environment: str, **jwt: Any) -> Settings:
    return Settings.model_validate({"environment": environment, "auth": {"jwt": jwt}})


@pytest.mark.parametrize("environment", ["staging", "prod"])
@pytest.mark.parametrize(
    ("jwt", "says"),
    [
        ({}, "nothing to verify tokens with"),
        ({"secret": GOOD, "skip_validation": True}, "skip_validation is for dev alone"),
        ({"secret": GOOD[:31]}, "shorter than 32 bytes"),
        ({"secret": "changeme-" + GOOD}, "can be guessed"),
        ({"secret": "ab" * 40}, "can be guessed"),
        (
            {"secret": GOOD, "previous_secret": {"value": "ab" * 40, "valid_until": "2030-01-01T00:00:00Z"}},
            "previous_secret.value can be guessed",
        ),
    ],
)
def test_a_weak_key_stops_the_start(environment: str, jwt: dict[str, Any], says: str) -> None:
    """With a sentence that repeats nothing of it; in dev the same is let pass."""
    with pytest.raises(ValueError, match=says) as caught:
        demand_verification(settings(environment, **jwt))
    assert GOOD[:8] not in str(caught.value)
    demand_verification(settings("dev", **jwt))


def test_a_good_key_does_not() -> None:
    """A random secret, or the keys of an issuer."""
    demand_verification(settings("prod", secret=GOOD))
    demand_verification(settings("prod", jwks_url="https://id.example.org/jwks.json", algorithms=["ES256"]))
