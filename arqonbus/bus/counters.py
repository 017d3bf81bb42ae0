"""Counters of a node. Plain integers, so that counting is cheap; telemetry reads them on scrape."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Totals since the start, unless said otherwise."""

    connections_accepted: int = 0
    connections_refused: Counter[str] = field(default_factory=Counter)  # by code
    connections_unopened: Counter[str] = field(default_factory=Counter)  # without a request, by reason
    connections_closed: Counter[int] = field(default_factory=Counter)  # by close code
    frames_in: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    duplicates: int = 0
    acks: Counter[str] = field(default_factory=Counter)  # by durability
    rejected: Counter[str] = field(default_factory=Counter)  # by code
    unknown_keys: int = 0
    commands: Counter[tuple[str, str]] = field(default_factory=Counter)  # by operation and code
    clock_skews: Counter[str] = field(default_factory=Counter)  # found in clients, by direction
    dropped: int = 0  # messages, by slow-consumer policies
    preflight_bypassed: int = 0  # 1: the bus was started although preflight did not pass
    jwks_failures: int = 0  # fetches of the issuer's keys
    jwks_fetched_at: float | None = None  # Unix time of the set in use; None where there is no issuer
    repairs: int = 0  # reads of the log because entries were missing
    gaps: int = 0  # holes that the log no longer fills
    append_seconds: list[float] = field(default_factory=list)  # since the last scrape, bounded


MAX_SAMPLES = 10_000


__all__ = ["MAX_SAMPLES", "Counters"]
