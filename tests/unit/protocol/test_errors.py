"""The table of error codes."""

from __future__ import annotations

import pytest

from arqonbus.protocol.errors import EXPLANATIONS, BusError, Code, DecodeError, Invalid

STABLE = [
    "OK",
    "DECODE_ERROR",
    "VALIDATION_ERROR",
    "UNAUTHENTICATED",
    "TENANT_MISMATCH",
    "AUTHORIZATION_ERROR",
    "ORIGIN_REFUSED",
    "INFRA_PROTOCOL_REQUIRED",
    "SUBPROTOCOL_UNSUPPORTED",
    "NOT_FOUND",
    "CONFLICT",
    "DUPLICATE",
    "RATE_LIMITED",
    "TOO_LARGE",
    "TOO_MANY_CONNECTIONS",
    "DRAINING",
    "STORAGE_UNAVAILABLE",
    "CAPABILITY_UNAVAILABLE",
    "FEATURE_DISABLED",
    "POLICY_BLOCKED",
    "SEQUENCE_GAP",
    "SEQUENCE_REGRESSION",
    "POSITION_LOST",
    "EXPIRED",
    "TIMEOUT",
    "INTERNAL_ERROR",
]


@pytest.mark.parametrize("code", STABLE)
def test_no_code_is_lost_or_renamed(code: str) -> None:
    """A code that was once given out exists for ever, and its text is its name."""
    assert Code[code] == code


@pytest.mark.parametrize("code", Code)
def test_every_code_is_explained(code: Code) -> None:
    """Each code has a sentence for what it means and one for what to do."""
    explanation = EXPLANATIONS[code]
    assert explanation.meaning.endswith(".")
    assert explanation.remedy.endswith(".")


def test_details_name_what_is_at_fault() -> None:
    """A field that is refused and a byte that is not readable stand in the details."""
    assert Invalid("room", "bad").details == {"field": "room"}
    assert DecodeError("bad", 0).details == {"offset": "0"}
    assert DecodeError("bad").details == {}
    assert str(BusError(Code.NOT_FOUND, "nothing there")) == "nothing there"
