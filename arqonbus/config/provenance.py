"""Origin of each value: the layer that sets it, and the lower layers that it overrides.

Pure. Values are not redacted; callers must redact them before they show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arqonbus.config.findings import Location, Path
from arqonbus.config.layer import Layer

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Given:
    """The value of a setting in one layer."""

    value: Any
    location: Location


@dataclass(frozen=True, slots=True)
class Provenance:
    """The layers of a profile, lowest first."""

    layers: Sequence[Layer]

    def given(self, path: Path) -> list[Given]:
        """The values of all layers at the path, the effective one first; empty if the default applies."""
        found = []
        for layer in reversed(self.layers):
            value = value_at(layer.data, path, _ABSENT)
            if value is not _ABSENT:
                found.append(Given(value, layer.place(path)))
        return found

    def location(self, path: Path) -> Location | None:
        """Location of the effective value at the path, or of the nearest parent."""
        for layer in reversed(self.layers):
            if _decides(layer.data, path):
                return layer.place(path)
        for depth in range(len(path) - 1, 0, -1):
            for layer in reversed(self.layers):
                if _decides(layer.data, path[:depth]):
                    return layer.place(path)
        return None


def _decides(data: Any, path: Path) -> bool:
    """True if a layer determines the value at the path: it sets the value, or replaces a parent."""
    listed = False
    for part in path:
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data, listed = data[part], True
        else:
            return listed or not isinstance(data, dict)
    return True


def value_at(data: Any, path: Path, absent: Any = None) -> Any:
    """The value at a path of nested mappings and lists."""
    for part in path:
        inside = data if isinstance(data, dict) else dict(enumerate(data)) if isinstance(data, list) else {}
        if part not in inside:
            return absent
        data = inside[part]
    return data


__all__ = ["Given", "Provenance", "value_at"]
