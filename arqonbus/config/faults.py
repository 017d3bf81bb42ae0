"""Conversion of Pydantic's errors to findings with location and suggestion.

Pure. A value is shown only if its setting is not secret.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from arqonbus.config.findings import Fault, Finding, Path, dotted
from arqonbus.config.provenance import Provenance, value_at
from arqonbus.config.tree import secrecy_at, siblings, suggestion

_SHOWN = 60
_SECTION_TYPES = {"model_type", "model_attributes_type", "dict_type"}


def validation_findings(error: ValidationError, values: Any, provenance: Provenance) -> list[Finding]:
    """Convert every error of a validation to a finding."""
    details = error.errors(include_url=False, include_input=False, include_context=True)
    return [_finding(detail, values, provenance) for detail in details]


def _finding(detail: Any, values: Any, provenance: Provenance) -> Finding:
    path: Path = tuple(detail["loc"])
    key = dotted(path)
    place = provenance.location(path)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return Finding(Fault.UNKNOWN_KEY, f"{key} is not a setting; {suggestion(path)}", place, key)
    if kind == "missing":
        return Finding(Fault.BAD_VALUE, f"{key} is missing; add it", place, key)
    value = value_at(values, path)
    if kind in _SECTION_TYPES:
        return Finding(Fault.BAD_VALUE, section_message(path, value), place, key)
    if value == "":
        return Finding(Fault.EMPTY_VALUE, f"{key} is empty; give it a value, or leave it out", place, key)
    return Finding(Fault.BAD_VALUE, f"{key} {_reason(detail)}{_found(path, value)}", place, key)


def section_message(path: Path, value: Any) -> str:
    """Message for a section whose value is not a mapping of settings."""
    key = dotted(path)
    if value is None:
        return (
            f"{key} is a section and has nothing under it; indent its settings below it, or remove the line"
        )
    return f"{key} is a section; write its settings below it: {', '.join(siblings((*path, '')))}"


def _reason(detail: Any) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context.get("error", ""))
        case "literal_error":
            return f"is not one of {context.get('expected', '')}"
        case "string_type":
            return "is not text; put it in quotes if it is meant as text"
        case "tuple_type" | "list_type":
            return "is not a list; write [one, two], or one entry per line after a dash"
        case "too_short":
            return f"has too few entries; it needs at least {context.get('min_length')}"
        case "string_pattern_mismatch":
            return f"does not have the form {context.get('pattern')}"
        case "timezone_aware":
            return "has no time zone; write it as 2030-01-31T00:00:00Z"
        case other if other.startswith("datetime"):
            return "is not a date and time; write it as 2030-01-31T00:00:00Z"
        case _:
            return _lowered(detail["msg"]).replace("input should ", "should ")


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _found(path: Path, value: Any) -> str:
    if secrecy_at(path) != "no":
        return f" (found {_shape(value)})"
    if isinstance(value, (dict, list)):
        return f" (found {_shape(value)})"
    text = "nothing" if value is None else repr(value)
    return f" (found {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'})"


def _shape(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return f"text of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "a mapping"


__all__ = ["section_message", "validation_findings"]
