"""The deployment that hosts are compared with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from arqonbus.config import Resolved, Settings

SSH = 22
# Of roles/observability, which keeps the first two to its own host.
PROMETHEUS_PORT = 9090
ALERTMANAGER_PORT = 9093
LOGS_PORT = 19532

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(;)?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A resolved profile, the release that is to run, and the tree that it comes from.

    `packages` are the locked versions by name; `optional` are those that not every Python needs.
    """

    resolved: Resolved
    release: str
    tree: Path
    inventory: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    def rollout(self, verb: str) -> str:
        """The command that brings hosts back to what the profile says."""
        return f"scripts/rollout {verb} {self.inventory or self.resolved.settings.environment}"

    @property
    def settings(self) -> Settings:
        return self.resolved.settings


def locked(text: str) -> tuple[dict[str, str], frozenset[str]]:
    """The versions of a lock file, and the names that it has for some machines only."""
    pinned = [(plain(name), version, bool(marker)) for name, version, marker in _PINNED.findall(text)]
    return {name: version for name, version, _ in pinned}, frozenset(name for name, _, some in pinned if some)


def plain(name: str) -> str:
    """The name of a package as it compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


__all__ = ["ALERTMANAGER_PORT", "LOGS_PORT", "PROMETHEUS_PORT", "SSH", "Deployment", "locked", "plain"]
