"""The settings tree as data: existing keys, their declarations, suggestions for unknown keys.

Pure; reads only the declarations of the models.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo

from arqonbus.config.field import Secrecy, Section
from arqonbus.config.findings import Path, dotted
from arqonbus.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Leaf:
    """A setting that holds a value. `items`: the section of the entries of a list setting, if any."""

    path: tuple[str, ...]
    field: FieldInfo
    is_list: bool
    items: type[Section] | None

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def secrecy(self) -> Secrecy:
        extra = self.field.json_schema_extra
        return extra["secret"] if isinstance(extra, dict) else "no"  # type: ignore[return-value]

    @property
    def available(self) -> bool:
        """True if this version supports values other than the default."""
        extra = self.field.json_schema_extra
        return not isinstance(extra, dict) or extra.get("available") is not False


def children(kind: type[Section]) -> Mapping[str, FieldInfo]:
    """The fields of a section by their names in a profile."""
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def section_of(annotation: Any) -> type[Section] | None:
    """The section class of an annotation, also of `Section | None`; None if it is no section."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, UnionType):
        return next((found for part in get_args(annotation) if (found := section_of(part))), None)
    return None


def unit_of(field: FieldInfo) -> str:
    """The unit of a number without one (`seconds`, `bytes`); empty for a field that is not an amount."""
    marks = [*field.metadata]
    for part in get_args(field.annotation):
        marks += getattr(part, "__metadata__", ())
    schemas = [mark.json_schema for mark in marks if isinstance(mark, WithJsonSchema)]
    unit = next((str(schema["unit"]) for schema in schemas if schema and "unit" in schema), "")
    return unit if unit in ("seconds", "bytes") else ""


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def _walk(kind: type[Section], prefix: tuple[str, ...]) -> Iterator[Leaf]:
    for name, field in children(kind).items():
        path = (*prefix, name)
        inner = section_of(field.annotation)
        if inner is not None:
            yield from _walk(inner, path)
        else:
            listed = _is_list(field.annotation)
            yield Leaf(path, field, listed, section_of(get_args(field.annotation)[0]) if listed else None)


@cache
def leaves() -> Mapping[tuple[str, ...], Leaf]:
    """All settings by path, in the order of declaration, without those inside lists."""
    return {leaf.path: leaf for leaf in _walk(Settings, ())}


@cache
def sections() -> frozenset[tuple[str, ...]]:
    """The paths of all sections."""
    return frozenset(path[:depth] for path in leaves() for depth in range(1, len(path))) | {
        (name,) for name, field in children(Settings).items() if section_of(field.annotation)
    }


@cache
def reserved() -> Sequence[Leaf]:
    """Settings of which this version supports only the default."""
    return [leaf for leaf in leaves().values() if not leaf.available]


def unavailable(settings: Settings) -> Sequence[str]:
    """Keys with a value that this version does not support, in the order of declaration."""
    return [leaf.key for leaf in reserved() if reduce(getattr, leaf.path, settings) != leaf.field.default]


def siblings(path: Path) -> Mapping[str, FieldInfo]:
    """The valid keys at the level of the path's last part, also inside lists; empty if unknown."""
    kind: type[Section] | None = Settings
    for part in path[:-1]:
        if isinstance(part, int):
            continue
        field = children(kind).get(part) if kind else None
        if field is None:
            return {}
        listed = _is_list(field.annotation)
        kind = section_of(get_args(field.annotation)[0]) if listed else section_of(field.annotation)
    return children(kind) if kind else {}


def secrecy_at(path: Path) -> Secrecy:
    """Secrecy of the value at the path. An unknown key counts as secret: it may be a misspelt one."""
    leaf = leaves().get(tuple(part for part in path if isinstance(part, str)))
    if leaf is not None:
        return leaf.secrecy
    last = next((part for part in reversed(path) if isinstance(part, str)), "")
    trimmed = path[: len(path) - path[::-1].index(last)] if last else path
    field = siblings(trimmed).get(last)
    if field is None:
        return "value"
    extra = field.json_schema_extra
    return extra["secret"] if isinstance(extra, dict) else "no"  # type: ignore[return-value]


def suggestion(path: Path) -> str:
    """Suggestion for an unknown key: the probable key, or the existing ones."""
    last = str(path[-1])
    known = siblings(path)
    close = difflib.get_close_matches(last, known, 1, 0.6)
    if close:
        return f"did you mean {dotted((*path[:-1], close[0]))}?"
    elsewhere = [key for keys, leaf in leaves().items() if keys[-1] == last for key in (leaf.key,)]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:3])}?"
    if known:
        return f"there is: {', '.join(known)}"
    return "remove it"


__all__ = [
    "Leaf",
    "children",
    "leaves",
    "reserved",
    "secrecy_at",
    "section_of",
    "sections",
    "siblings",
    "suggestion",
    "unavailable",
    "unit_of",
]
