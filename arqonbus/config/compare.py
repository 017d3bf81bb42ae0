"""Two profiles side by side: what differs, and what it takes to go from one to the other. Pure.

Secrets are compared by what the redactor shows of them: where a secret comes from counts as a setting,
what it is does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from arqonbus.config.findings import Location
from arqonbus.config.redaction import redact_value
from arqonbus.config.resolve import Resolved
from arqonbus.config.tree import leaves

Effort = Literal["hot", "rolling", "cold", "migration", "forbidden"]

# From least to most: the greatest among the changes is what the whole change takes.
EFFORTS: tuple[Effort, ...] = ("hot", "rolling", "cold", "migration", "forbidden")

_FORBIDDEN = {
    "environment": "a deployment never becomes another environment; make a new one from that profile",
}
_MIGRATION = {
    "storage.backend": "messages stay in the old engine; clients are told that their position is lost",
    "storage.sqlite.path": "messages stay in the old file unless it is moved while the bus is stopped",
    "state_dir": "the embedded database and the dev key stay in the old directory unless they are moved",
    "datastores.valkey.url": "messages stay in the old server unless its data is moved first",
    "datastores.valkey.cluster": "a server and a cluster do not share data; messages stay where they are",
    "datastores.postgres.url": "what Postgres holds stays in the old server unless it is moved first",
    "datastores.postgres.host": "what Postgres holds stays in the old server unless it is moved first",
    "datastores.postgres.database": "what Postgres holds stays in the old database unless it is moved first",
}


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting with two values, as they may be shown, and where each stands."""

    key: str
    left: Any
    right: Any
    left_location: Location
    right_location: Location


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that changes, what that takes, and a sentence on the consequence."""

    difference: SettingChange
    effort: Effort
    consequence: str


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """Everything that changes between two profiles of one deployment."""

    changes: Sequence[Change]

    @property
    def effort(self) -> Effort | None:
        """What the whole takes; None when nothing changes."""
        return max((change.effort for change in self.changes), key=EFFORTS.index, default=None)


def differences(left: Resolved, right: Resolved) -> list[SettingChange]:
    """The settings that differ, in the order of declaration."""
    ours, theirs = left.redacted(), right.redacted()
    found = []
    for path, leaf in leaves().items():
        one, other = _shown(left, ours, path), _shown(right, theirs, path)
        if one != other:
            found.append(
                SettingChange(leaf.key, one, other, left.location(leaf.key), right.location(leaf.key))
            )
    return found


def plan(old: Resolved, new: Resolved) -> ChangePlan:
    """What it takes to go from the old profile to the new one."""
    return ChangePlan([_change(difference, old) for difference in differences(old, new)])


def _change(difference: SettingChange, old: Resolved) -> Change:
    key = difference.key
    if key in _FORBIDDEN:
        return Change(difference, "forbidden", _FORBIDDEN[key])
    if key in _MIGRATION:
        return Change(difference, "migration", _MIGRATION[key])
    extra = leaves()[tuple(key.split("."))].field.json_schema_extra
    reload = extra["reload"] if isinstance(extra, dict) else "rolling"
    if reload == "hot":
        return Change(difference, "hot", "taken over at SIGHUP; nobody is disconnected")
    most = old.settings.server.max_connections
    if reload == "cold":
        return Change(difference, "cold", "every node stops before any starts again; all clients wait")
    return Change(
        difference,
        "rolling",
        f"each node restarts in turn and sends its clients (up to {most}) to the others; they resume",
    )


def _shown(resolved: Resolved, redacted: dict[str, Any], path: tuple[str, ...]) -> Any:
    """A setting as it may be shown; of a secret, where it comes from."""
    given = resolved.provenance.given(path)
    if leaves()[path].secrecy == "value" and given:
        return redact_value(given[0].value, "value")
    value: Any = redacted
    for part in path:
        value = value[part]
    return value


__all__ = ["EFFORTS", "Change", "ChangePlan", "Effort", "SettingChange", "differences", "plan"]
