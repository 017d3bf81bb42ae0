"""The client's state as a program sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StateName = Literal["idle", "connecting", "online", "rejoining", "closed"]


@dataclass(frozen=True, slots=True)
class State:
    """State of a client. `reason`: one sentence about the last change, `error`: what caused it, if any.

    >>> State("idle").name
    'idle'
    """

    name: StateName
    reason: str = ""
    error: Exception | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.reason else self.name


__all__ = ["State", "StateName"]
