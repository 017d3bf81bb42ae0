"""All stacks by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.replicated import ClusterStack, SentinelStack
from tests.faults.single import (
    DegradedStack,
    HistoryStack,
    PostgresStack,
    SlowValkeyStack,
    SqliteStack,
    ValkeyStack,
)
from tests.faults.stack import Plan, Stack

STACKS: dict[str, Callable[[Path, Plan], Stack]] = {
    "sqlite": SqliteStack,
    "valkey": ValkeyStack,
    "degraded": DegradedStack,
    "slow": SlowValkeyStack,
    "postgres": PostgresStack,
    "history": HistoryStack,
    "sentinel": SentinelStack,
    "cluster": ClusterStack,
}

__all__ = ["STACKS"]
