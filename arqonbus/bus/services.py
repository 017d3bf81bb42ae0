"""Services that the process around a node offers to its commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from arqonbus.shield.revocations import Revocation
from arqonbus.storage.projection import ProjectionStore


class ProjectorStatus(Protocol):
    """State of a projector in this process: whether its store is up, and failed attempts so far."""

    @property
    def store_up(self) -> bool: ...

    @property
    def failures(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Services:
    """None stands for what this process does not offer.

    `reload` reads the profile again and gives the keys that changed; it raises BusError. `revoke` revokes
    tokens on all nodes and gives what ends their connections on this one. `projection` is the store of the
    episodes. `projector` gives the status of a projector in this process, once it runs.
    """

    reload: Callable[[], Sequence[str]] | None = None
    revoke: Callable[[Revocation], Awaitable[Callable[[], None]]] | None = None
    projection: ProjectionStore | None = None
    projector: Callable[[], ProjectorStatus | None] = lambda: None


__all__ = ["ProjectorStatus", "Services"]
