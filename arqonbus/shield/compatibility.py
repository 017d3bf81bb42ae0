"""Compatibility of two versions of a schema. Pure.

backward: a reader with the new schema can read everything that was valid under the old one. forward: the
reverse. A change that cannot be decided counts as incompatible.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

Mode = Literal["backward", "forward", "full"]
MAX_SHOWN = 600


def json_faults(old: Any, new: Any, mode: Mode) -> list[str]:
    """Reasons why one JSON Schema cannot replace the other, as sentences. Raises ValueError."""
    import jsonschema_rs

    try:
        before, after = (jsonschema_rs.canonicalize(schema) for schema in (old, new))
    except jsonschema_rs.canonical.CanonicalizationError as error:
        raise ValueError(f"the schemas cannot be compared: {error}") from error
    return list(_both_ways(_uncovered, before, after, mode))


def _uncovered(wide: Any, narrow: Any, wide_is: str, narrow_is: str) -> Iterator[str]:
    verdict = str(wide.covers(narrow))
    if verdict == "yes":
        return
    if verdict != "no":
        yield f"whether the {wide_is} schema takes all that the {narrow_is} one takes cannot be decided"
        return
    rest = {key: value for key, value in narrow.subtract(wide).to_json_schema().items() if key != "$schema"}
    shown = json.dumps(rest, ensure_ascii=False)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
    yield f"the {wide_is} schema refuses what the {narrow_is} one takes: {shown}"


def protobuf_faults(old: Any, new: Any, mode: Mode) -> list[str]:
    """Reasons why one protobuf message cannot replace the other, as sentences. Both are Descriptors."""
    return sorted(set(_both_ways(_message_faults, old, new, mode)))


def _message_faults(
    reader: Any, writer: Any, reader_is: str, writer_is: str, seen: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Errors of a reader's message type with bytes of a writer's type."""
    if writer.full_name in seen:
        return
    seen |= {writer.full_name}
    theirs = {field.number: field for field in writer.fields}
    for field in reader.fields:
        place = f"{reader.full_name}.{field.name} ({field.number})"
        other = theirs.pop(field.number, None)
        if other is None:
            if field.is_required:
                yield f"{place} is required by the {reader_is} schema and unknown to the {writer_is} one"
            continue
        if _wire_kind(field) != _wire_kind(other):
            yield f"{place} has another type in the {writer_is} schema than in the {reader_is} one"
        elif field.is_repeated != other.is_repeated:
            yield f"{place} is repeated in one of the schemas only"
        elif field.is_required and not other.is_required:
            yield f"{place} is required by the {reader_is} schema and optional in the {writer_is} one"
        elif field.name != other.name:
            yield f"{place} is called {other.name} in the {writer_is} schema"
        elif field.enum_type is not None:
            missing = {v.number for v in other.enum_type.values} - {v.number for v in field.enum_type.values}
            if missing:
                numbers = ", ".join(map(str, sorted(missing)))
                yield f"{place} has values that the {reader_is} schema does not know: {numbers}"
        elif field.message_type is not None:
            yield from _message_faults(field.message_type, other.message_type, reader_is, writer_is, seen)
    for number, field in theirs.items():
        if not any(first <= number < end for first, end in _reserved(reader)):
            place = f"{writer.full_name}.{field.name} ({number})"
            yield f"{place} is gone from the {reader_is} schema and its number is not reserved"


def _wire_kind(field: Any) -> object:
    """Types that read each other's bytes without loss have one kind."""
    if field.message_type is not None:
        return ("message", field.message_type.name)
    if field.enum_type is not None:
        return "enum"
    return field.type


def _reserved(message: Any) -> list[tuple[int, int]]:
    from google.protobuf import descriptor_pb2

    declared = descriptor_pb2.DescriptorProto()
    message.CopyToProto(declared)
    return [(each.start, each.end) for each in declared.reserved_range]


def _both_ways(
    faults: Callable[[Any, Any, str, str], Iterator[str]], old: Any, new: Any, mode: Mode
) -> Iterator[str]:
    if mode in ("backward", "full"):
        yield from faults(new, old, "new", "old")
    if mode in ("forward", "full"):
        yield from faults(old, new, "old", "new")


__all__ = ["Mode", "json_faults", "protobuf_faults"]
