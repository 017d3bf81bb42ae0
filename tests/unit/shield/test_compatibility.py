"""Compatibility of schema versions: refused, allowed, undecided."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from arqonbus.shield.compatibility import json_faults, protobuf_faults

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "note": {"type": "string", "maxLength": 10}},
    "required": ["id"],
    "additionalProperties": False,
}


def order(**properties: Any) -> dict[str, Any]:
    return {**ORDER, "properties": {**ORDER["properties"], **properties}}


@pytest.mark.parametrize(
    ("new", "backward", "forward"),
    [
        (ORDER, True, True),
        (order(extra={"type": "string"}), True, False),
        ({**order(extra={"type": "string"}), "required": ["id", "extra"]}, False, False),
        (order(note={"type": "string", "maxLength": 20}), True, False),
        (order(note={"type": "string", "maxLength": 5}), False, True),
        (order(note={"type": "integer"}), False, False),
        ({**ORDER, "required": []}, True, False),
        ({**ORDER, "additionalProperties": True}, True, False),
        (order(note={"type": "string", "maxLength": 10, "pattern": "^a"}), False, True),
    ],
)
def test_json_schemas(new: Any, backward: bool, forward: bool) -> None:
    """Each direction by itself; full is both."""
    assert (not json_faults(ORDER, new, "backward")) is backward
    assert (not json_faults(ORDER, new, "forward")) is forward
    assert (not json_faults(ORDER, new, "full")) is (backward and forward)


def test_what_is_refused_is_shown() -> None:
    """As the schema of what the other takes no more."""
    [fault] = json_faults({"enum": ["a", "b"]}, {"enum": ["a"]}, "backward")
    assert fault == 'the new schema refuses what the old one takes: {"const": "b"}'


def test_what_cannot_be_decided_is_not_let_through() -> None:
    """It is said."""
    [fault] = json_faults(
        {"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^[ab]"}, "backward"
    )
    assert fault.endswith("cannot be decided")


def message(*fields: tuple[str, int, str, str], reserved: tuple[int, ...] = (), values: int = 2) -> Any:
    """shop.Order of fields (name, number, type, label); TYPE_ENUM is an enum of so many values."""
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto2")
    declared = file.message_type.add(name="Order")
    state = file.enum_type.add(name="State")
    for number in range(values):
        state.value.add(name=f"S{number}", number=number)
    for name, number, kind, label in fields:
        field = declared.field.add(name=name, number=number, type=f"TYPE_{kind}", label=f"LABEL_{label}")
        if kind == "ENUM":
            field.type_name = ".shop.State"
        if kind == "MESSAGE":
            field.type_name = ".shop.Order"
    for number in reserved:
        declared.reserved_range.add(start=number, end=number + 1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("shop.Order")


ID = ("id", 1, "INT64", "OPTIONAL")
NOTE = ("note", 2, "STRING", "OPTIONAL")
STATE = ("state", 3, "ENUM", "OPTIONAL")
SELF = ("parent", 4, "MESSAGE", "OPTIONAL")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (message(ID, NOTE, SELF), message(ID, NOTE, SELF), None),
        (message(ID), message(ID, NOTE), None),
        (message(ID, NOTE), message(ID), "its number is not reserved"),
        (message(ID, NOTE), message(ID, reserved=(2,)), None),
        (message(ID, NOTE), message(ID, ("note", 2, "BYTES", "OPTIONAL")), "another type"),
        (
            message(ID, NOTE),
            message(ID, ("note", 2, "STRING", "REPEATED")),
            "repeated in one of the schemas only",
        ),
        (
            message(ID, NOTE),
            message(ID, ("memo", 2, "STRING", "OPTIONAL")),
            "is called note in the old schema",
        ),
        (message(ID), message(ID, ("note", 2, "STRING", "REQUIRED")), "unknown to the old one"),
        (message(ID, NOTE), message(ID, ("note", 2, "STRING", "REQUIRED")), "optional in the old one"),
        (message(STATE, values=3), message(STATE, values=2), "does not know: 2"),
        (message(STATE, values=2), message(STATE, values=3), None),
    ],
)
def test_protobuf_messages(old: Any, new: Any, said: str | None) -> None:
    """Readers of the new message get the bytes of the old one."""
    faults = protobuf_faults(old, new, "backward")
    if said is None:
        assert faults == []
    else:
        assert len(faults) == 1
        assert said in faults[0]
        assert protobuf_faults(new, old, "forward") == [
            fault.replace("new", "OLD").replace("old", "new").replace("OLD", "old") for fault in faults
        ]
