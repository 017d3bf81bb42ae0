"""Comparison of two profiles: the differences, and the effort to change from one to the other. Pure.

Secrets are compared after redaction: the source of a secret counts as a setting, its value does not.
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

# From least to greatest; a plan needs the greatest of its changes.
EFFORTS: tuple[Effort, ...] = ("hot", "rolling", "cold", "migration", "forbidden")

_FORBIDDEN = {
    "environment": "the environment of a deployment cannot change; create a new deployment from that profile",
}
_MIGRATION = {
    "storage.backend": "messages stay in the old engine; positions of clients become invalid",
    "storage.sqlite.path": "messages stay in the old file unless it is moved while the bus is stopped",
    "state_dir": "the embedded database and the dev key stay in the old directory unless they are moved",
    "datastores.valkey.url": "messages stay in the old server unless its data is moved first",
    "datastores.valkey.cluster": "a server and a cluster do not share data; messages stay where they are",
    "datastores.postgres.url": "the data stays in the old Postgres server unless it is moved first",
    "datastores.postgres.host": "the data stays in the old Postgres server unless it is moved first",
    "datastores.postgres.database": "the data stays in the old Postgres database unless it is moved first",
}


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting with two different values, redacted, and the location of each."""

    key: str
    left: Any
    right: Any
    left_location: Location
    right_location: Location


@dataclass(frozen=True, slots=True)
class Change:
    """A changed setting, the effort to apply it, and its consequence."""

    difference: SettingChange
    effort: Effort
    consequence: str


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """All changes between two profiles of one deployment."""

    changes: Sequence[Change]

    @property
    def effort(self) -> Effort | None:
        """The greatest effort of all changes; None if nothing changes."""
        return max((change.effort for change in self.changes), key=EFFORTS.index, default=None)


def differences(left: Resolved, right: Resolved) -> list[SettingChange]:
    """Settings that differ, in the order of declaration."""
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
    """The changes from the old profile to the new one, with their effort."""
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
        return Change(difference, "hot", "applied on SIGHUP; no client is disconnected")
    most = old.settings.server.max_connections
    if reload == "cold":
        return Change(difference, "cold", "all nodes stop before the first starts again; all clients wait")
    return Change(
        difference,
        "rolling",
        f"each node restarts in turn and sends its clients (up to {most}) to the others; they resume",
    )


def _shown(resolved: Resolved, redacted: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The redacted value of a setting; of a secret, its reference."""
    given = resolved.provenance.given(path)
    if leaves()[path].secrecy == "value" and given:
        return redact_value(given[0].value, "value")
    value: Any = redacted
    for part in path:
        value = value[part]
    return value


__all__ = ["EFFORTS", "Change", "ChangePlan", "Effort", "SettingChange", "differences", "plan"]
