"""State of the bridge: connected or since when and why not, and its counters."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SAY_SECONDS = 10.0  # between two lines of one kind

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class BridgeTotals:
    """Totals since the start. `messages`: by direction and outcome, a code or `own` for what came from here.

    `reason` says why the bridge is not connected; empty while it is. `max_payload` is the server's, in bytes.
    """

    connected: bool = False
    reason: str = "the bridge has not been started"
    connects: int = 0
    rooms: int = 0  # that are taken out of the bus
    max_payload: int = 2**20
    messages: Counter[tuple[str, str]] = field(default_factory=Counter)
    _said: dict[str, float] = field(default_factory=dict)

    def count(self, direction: str, outcome: str) -> None:
        self.messages[direction, str(outcome)] += 1

    def say(self, kind: str, text: str, **facts: Any) -> None:
        """Warn, and say it once in SAY_SECONDS: producers make the bridge refuse as often as they like."""
        now = time.monotonic()
        if now - self._said.get(kind, -SAY_SECONDS) >= SAY_SECONDS:
            self._said[kind] = now
            logger.warning(text, extra=facts)


__all__ = ["BridgeTotals"]
