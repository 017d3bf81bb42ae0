"""The `--set key=value` options as the highest layer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arqonbus.config.environment import put, value_of_text
from arqonbus.config.findings import Fault, Finding, Location, Path
from arqonbus.config.layer import Layer
from arqonbus.config.tree import leaves, sections, suggestion


def read_overrides(overrides: Sequence[str]) -> tuple[Layer, list[Finding]]:
    """The layer of the options, and their faults. The last option for a key wins."""
    findings: list[Finding] = []
    data: dict[str, Any] = {}
    places: dict[Path, Location] = {}
    for option in overrides:
        key, equals, text = option.partition("=")
        key = key.strip()
        path = tuple(key.split("."))
        place = Location("set", f"--set {key}")
        if not equals or not all(path):
            message = "--set takes key=value, such as --set server.port=9100"
            findings.append(Finding(Fault.BAD_OVERRIDE, message, Location("set", "--set")))
        elif path in sections():
            inside = ", ".join(leaf.key for leaf in leaves().values() if leaf.path[: len(path)] == path)
            message = f"--set {key} names a section; set one of {inside}"
            findings.append(Finding(Fault.BAD_OVERRIDE, message, place, key))
        elif path not in leaves():
            message = f"--set {key} names no setting; {suggestion(path)}"
            findings.append(Finding(Fault.BAD_OVERRIDE, message, place, key))
        else:
            try:
                put(data, path, value_of_text(leaves()[path], text))
            except ValueError as error:
                code = Fault.EMPTY_VALUE if text == "" else Fault.BAD_VALUE
                findings.append(Finding(code, f"{key} {error}", place, key))
            places[path] = place
    return Layer("set", "--set", data, places), findings


__all__ = ["read_overrides"]
