"""Durability levels: the promise that an ack makes about a stored message."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

DurabilityName = Literal["memory", "hot", "durable"]


class Durability(IntEnum):
    """Durability levels of a stored message; a greater value is a stronger promise. Numbers of the wire."""

    MEMORY = 1  # this process only
    HOT = 2  # the engine has it and flushes it by its own policy; survives kill -9 of the bus
    DURABLE = 3  # flushed to disk before the ack; survives a power cut

    @classmethod
    def named(cls, name: DurabilityName) -> Durability:
        """The level of a profile's word."""
        return cls[name.upper()]


__all__ = ["Durability", "DurabilityName"]
