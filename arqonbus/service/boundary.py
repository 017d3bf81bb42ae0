"""The Reflex boundary of a profile."""

from __future__ import annotations

from arqonbus.config import Settings
from arqonbus.continuum.reflex import Boundary


def boundary(settings: Settings) -> Boundary:
    """Keys that may not cross, and the size of the values that may."""
    return Boundary(frozenset(settings.policy.blocked_keys), settings.policy.max_value_bytes)


__all__ = ["boundary"]
