"""Limits over all nodes: how a limit is divided, and what nodes report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.bus.quotas import Quotas, part_of
from arqonbus.bus.sharing import FORGET_SECONDS, Sharing
from arqonbus.config.access import Limits

DEMANDS = st.lists(st.floats(0, 1000), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("own", "others", "part"),
    [
        (10, [], 100),
        (10, [20], 80),
        (100, [100], 50),
        (10, [500], 10),
        (500, [10], 90),
        (500, [500, 10], 45),
        (0, [500], 0),
        (60, [60, 0], 50),
    ],
)
def test_a_limit_of_100(own: float, others: list[float], part: float) -> None:
    """What nobody else needs, or else an equal part; the small get what they ask for."""
    assert part_of(100, own, others) == part


@given(limit=st.floats(1, 1000), demands=DEMANDS)
def test_parts_are_within_the_limit_and_fair(limit: float, demands: list[float]) -> None:
    """Where there is not enough, the sum is the limit, and nobody is cut below an equal part."""
    parts = [part_of(limit, own, demands[:at] + demands[at + 1 :]) for at, own in enumerate(demands)]
    if sum(demands) > limit:
        assert sum(parts) == pytest.approx(limit)
        for part, own in zip(parts, demands, strict=True):
            assert part >= min(own, limit / len(demands)) - 1e-6
    else:
        assert all(part >= own - 1e-6 for part, own in zip(parts, demands, strict=True))


def asked(quotas: Quotas, messages: int, now: float) -> int:
    """Messages of one tenant that were granted."""
    accounts = quotas.open("acme", "alice", "192.0.2.1", now)
    granted = sum(account.messages.take(messages, now) for account in accounts)
    quotas.close(accounts)
    return granted


def bus(nodes: int) -> tuple[list[Quotas], list[Sharing]]:
    limits = Limits.model_validate({"tenant": {"messages_per_second": 100, "connections": 3}, "shared": True})
    return [Quotas(limits, 1024) for _ in range(nodes)], [Sharing(f"node-{n}") for n in range(nodes)]


def second(quotas: list[Quotas], sharing: list[Sharing], now: float) -> None:
    """Every node tells, hears and settles."""
    reports = [own.report(quota) for own, quota in zip(sharing, quotas, strict=True)]
    for number, own in enumerate(sharing):
        for report in reports:
            own.heard(report, now)
        own.settle(quotas[number], now)


def test_nodes_together_grant_what_one_would() -> None:
    """However the load is spread, and whoever joins late; after a node is gone the others have it all."""
    quotas, sharing = bus(3)
    total = 0
    for now in range(60):
        for number, quota in enumerate(quotas):
            granted = asked(quota, 200 if number else 20, float(now))
            total += granted if now >= 20 else 0
        second(quotas, sharing, float(now))
    assert 0.9 * 100 * 40 <= total <= 1.1 * 100 * 40
    alone = 0
    for now in range(60, 90):
        alone += asked(quotas[1], 200, float(now)) if now >= 60 + 2 * FORGET_SECONDS else 0
        second(quotas[1:2], sharing[1:2], float(now))
    assert alone >= 0.9 * 100 * 20


def test_connections_count_everywhere() -> None:
    """Three of a tenant are allowed, wherever they are."""
    quotas, sharing = bus(2)
    for quota in quotas[:1] * 2 + quotas[1:]:
        assert quota.identity_arrival("acme", "alice", 0.0) is None
        quota.open("acme", "alice", "192.0.2.1", 0.0)
    second(quotas, sharing, 1.0)
    refusals = [quota.identity_arrival("acme", "alice", 1.0) for quota in quotas]
    assert [refusal is not None and refusal.code for refusal in refusals] == ["TOO_MANY_CONNECTIONS"] * 2


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"\xff", b'{"node": 1, "usage": {}}', b'{"node": "x", "usage": {"tenant\\nacme": [1]}}'],
)
def test_what_is_no_report_changes_nothing(data: bytes) -> None:
    """Whoever could write to the engine."""
    quotas, sharing = bus(1)
    sharing[0].heard(data, 0.0)
    second(quotas, sharing, 0.0)
    assert asked(quotas[0], 500, 1.0) == 200
