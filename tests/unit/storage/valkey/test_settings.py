"""What ValkeyLog accepts before it connects anywhere."""

from __future__ import annotations

import pytest

from arqonbus.storage.ports import Durability
from arqonbus.storage.valkey.log import ValkeyLog, endpoint_of


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("valkey://engine", ("engine", 6379)),
        ("redis://127.0.0.1:7000/", ("127.0.0.1", 7000)),
        ("rediss://[::1]:1", ("::1", 1)),
        ("valkeys://engine.internal:6380", ("engine.internal", 6380)),
    ],
)
def test_url(url: str, endpoint: tuple[str, int]) -> None:
    """A URL names a host, and a port or the default one."""
    assert endpoint_of(url) == endpoint


@pytest.mark.parametrize(
    "url", ["", "engine:6379", "http://engine", "valkey://", "valkey://u:p@engine", "valkey://engine/3"]
)
def test_url_with_less_or_more(url: str) -> None:
    """A URL without a host is refused, and so is one with a secret or an option, which it would not obey."""
    with pytest.raises(ValueError, match="Valkey server") as refusal:
        endpoint_of(url)
    assert "u:p" not in str(refusal.value)


def test_tls_without_context() -> None:
    """A URL that asks for TLS is never served without."""
    with pytest.raises(ValueError, match="TLS"):
        ValkeyLog(["valkeys://engine"], node_id="node")


def test_less_than_hot() -> None:
    """Valkey cannot be declared to be memory only."""
    with pytest.raises(ValueError, match="MemoryLog"):
        ValkeyLog(["valkey://engine"], node_id="node", durability=Durability.MEMORY)
