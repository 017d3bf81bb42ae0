"""The golden corpus: named envelopes, their exact bytes and their JSON form.

`manifest.json` is committed; nothing compares itself with itself. Write it anew, after a change that is
meant, with `python -m tests.contract.protocol.corpus --write`, and read the difference line by line: a line
that changes or goes is a break of the protocol. Other languages read the same file (tests/interop).

Form of a case: `frame` is the protobuf frame in hexadecimal, `lines` are the lines of the JSON frame, and
`envelopes` are the fields of each envelope: integers of 64 bits as decimal text, bytes in hexadecimal,
unset fields left out. What is larger than 4 KiB is given as its size and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToDict

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, REPLY, SIGNAL, Envelope

MANIFEST = Path(__file__).with_name("manifest.json")
MAX_INLINE = 4096

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
UUID7 = "01890a5d-ac96-774b-bcce-b302099a8057"
TIME_US = 1_769_860_800_123_456  # 2026-01-31T12:00:00.123456Z
WIDE = {"2^53-1": 2**53 - 1, "2^53+1": 2**53 + 1, "2^63-1": 2**63 - 1, "2^64-1": 2**64 - 1}
NUMBERS = b'{"price":1.10,"far":1e400,"id":12345678901234567890123,"small":-0.0}'
MEBIBYTE = bytes(range(256)) * 4096


class Case(NamedTuple):
    """Envelopes of one frame. `unknown`: fields of a newer schema behind each envelope."""

    envelopes: list[Envelope]
    unknown: bytes = b""


def message(**fields: Any) -> Envelope:
    return Envelope(**{"id": ULID, "kind": MESSAGE, "room": "orders", "time_us": TIME_US, **fields})


def every_field() -> Envelope:
    return message(
        tenant="acme",
        channel="eu",
        sender="01BX5ZZKBKACTAV9WEVGEMMVRZ.node-1",
        name="order.placed",
        server_time_us=TIME_US + 1,
        sequence=2**53 + 1,
        epoch="01ARZ3NDEKTSV4RRFFQ69G5FAW",
        content_type="application/json",
        payload=b'{"total":1.10}',
        headers={"key": "k"},
        reply_to="01ARZ3NDEKTSV4RRFFQ69G5FAX",
        recipient="01BX5ZZKBKACTAV9WEVGEMMVS0.node-2",
        clock={"a": 2**64 - 1},
        cause=UUID7,
        trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        signature=bytes(range(64)),
        status=pb.Status(
            code="VALIDATION_ERROR", message="a sentence", retry_after_ms=250, details={"field": "x"}
        ),
        durability=pb.DURABLE,
        duplicate=True,
    )


def ack(durability: int, **fields: Any) -> Envelope:
    return Envelope(
        kind=REPLY,
        reply_to=ULID,
        epoch="01ARZ3NDEKTSV4RRFFQ69G5FAW",
        server_time_us=TIME_US,
        durability=durability,  # type: ignore[arg-type]
        status=pb.Status(code="OK"),
        **fields,
    )


def json_message(payload: bytes, **fields: Any) -> Envelope:
    return message(content_type="application/json", payload=payload, **fields)


CASES: dict[str, Case] = {
    "a message with the fewest fields": Case([message()]),
    "a message with an id of UUIDv7": Case([message(id=UUID7)]),
    "every field": Case([every_field()]),
    "a command": Case(
        [
            Envelope(
                id=ULID,
                kind=COMMAND,
                name="op.history.get",
                time_us=TIME_US,
                content_type="application/json",
                payload=b'{"room":"orders","limit":10}',
            )
        ]
    ),
    "a direct message": Case([message(room="", recipient="01BX5ZZKBKACTAV9WEVGEMMVRZ.node-1")]),
    **{f"sequence {name}": Case([message(sequence=number)]) for name, number in WIDE.items()},
    **{f"clock {name}": Case([message(clock={"a": number})]) for name, number in WIDE.items()},
    "a clock of several actors": Case([message(clock={"a": 1, "b": 2**53, "c.d-e_f": 2**64 - 1})]),
    "a clock that has not begun": Case([message(clock={"a": 0})]),
    "empty payload of type JSON": Case([json_message(b"")]),
    "empty payload of no type": Case([message(payload=b"")]),
    "binary payload": Case([message(payload=bytes(range(256)))]),
    "payload of one zero byte": Case([message(payload=b"\0")]),
    "payload of 1 MiB": Case([message(payload=MEBIBYTE)]),
    "JSON payload of 1 MiB": Case([json_message(b'"' + b"x" * (2**20 - 2) + b'"')]),
    "JSON numbers that no double holds": Case([json_message(NUMBERS)]),
    **{
        f"JSON payload {text}": Case([json_message(text.encode())])
        for text in ("null", "false", "0", "-0", '""', "[]", "{}", '"\\u0000"', "[1,[2,[3]]]", "1E5")
    },
    "payload that is JSON by name only": Case([json_message(b"{oops")]),
    "JSON payload with a key twice": Case([json_message(b'{"a":1,"a":2}')]),
    "JSON payload of another JSON type": Case(
        [message(content_type="application/vnd.acme+json; charset=utf-8", payload=b"{}")]
    ),
    "time of one microsecond": Case([message(time_us=1)]),
    "time before the last microsecond of a second": Case([message(time_us=1_769_860_800_999_999)]),
    "time without a fraction": Case([message(time_us=1_769_860_800_000_000)]),
    "last microsecond of the year 9999": Case([message(time_us=253_402_300_799_999_999)]),
    "non-ASCII in name, headers and payload": Case(
        [
            json_message(
                '{"stadt":"Zürich","表":"𝄞","\\u00e9":"é"}'.encode(),
                name="bestellung.größe.表",
                headers={"ключ": "значение 🚌"},
            )
        ]
    ),
    "non-ASCII in status": Case(
        [Envelope(kind=SIGNAL, name="error", status=pb.Status(code="X", message="né", details={"é": "🚌"}))]
    ),
    "characters that JSON escapes": Case([message(name='"\\/\b\f\n\r\t\x01\x7f\u2028')]),
    "several headers, one empty": Case([message(headers={"ack": "none", "key": "", "z": "1"})]),
    "unknown fields": Case([message()], b"\xc0\x3e\x07" + b"\xca\x3e\x03new" + b"\xd5\x3e\1\2\3\4"),
    "several envelopes in a frame": Case([message(), json_message(b"1"), every_field()]),
    "several envelopes with unknown fields": Case([message(), message(name="n")], b"\xc0\x3e\x07"),
    "ack in memory": Case([ack(pb.MEMORY, sequence=1)]),
    "ack by the engine": Case([ack(pb.HOT, sequence=300)]),
    "ack on disk": Case([ack(pb.DURABLE, sequence=2**53)]),
    "ack of a duplicate": Case([ack(pb.DURABLE, sequence=7, duplicate=True)]),
    "ack of a duplicate whose sequence is forgotten": Case([ack(pb.DURABLE, duplicate=True)]),
    "refusal": Case(
        [
            Envelope(
                kind=REPLY,
                reply_to=ULID,
                server_time_us=TIME_US,
                status=pb.Status(code="RATE_LIMITED", message="too much", retry_after_ms=2**32 - 1),
            )
        ]
    ),
    "error that answers nothing": Case(
        [
            Envelope(
                kind=SIGNAL,
                name="error",
                server_time_us=TIME_US,
                status=pb.Status(code="DECODE_ERROR", message="not readable", details={"offset": "0"}),
            )
        ]
    ),
    "signal of a gap": Case(
        [
            Envelope(
                kind=SIGNAL,
                name="gap",
                room="orders",
                server_time_us=TIME_US,
                content_type="application/json",
                payload=b'{"epoch":"01ARZ3NDEKTSV4RRFFQ69G5FAW","first":3,"last":5}',
            )
        ]
    ),
    "status without a code": Case([Envelope(kind=SIGNAL, name="x", status=pb.Status())]),
}


def frame_of(case: Case) -> bytes:
    """The protobuf frame, maps in the order of their keys."""
    parts = []
    for envelope in case.envelopes:
        raw = envelope.SerializeToString(deterministic=True) + case.unknown
        parts += [wire_protobuf.varint(len(raw)), raw]
    return b"".join(parts)


def lines_of(case: Case) -> list[str]:
    return [wire_json.encode(envelope).decode() for envelope in case.envelopes]


def fields_of(envelope: Any) -> dict[str, Any]:
    """What is set, exactly: a form that every language can compare with."""
    fields: dict[str, Any] = {}
    for field, value in envelope.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fields[field.name] = {
                key: value[key] if isinstance(value[key], str) else str(value[key]) for key in sorted(value)
            }
        elif field.message_type is not None:
            fields[field.name] = fields_of(value)
        elif field.type in (field.TYPE_INT64, field.TYPE_UINT64):
            fields[field.name] = str(value)
        elif field.type == field.TYPE_BYTES:
            fields[field.name] = value.hex()
        else:
            fields[field.name] = value
    return fields


def shortened(value: Any) -> Any:
    """The same with every text that is too long for a file that people read replaced by its digest."""
    if isinstance(value, str) and len(value) > MAX_INLINE:
        return {"size": len(value), "sha256": hashlib.sha256(value.encode()).hexdigest()}
    if isinstance(value, dict):
        return {key: shortened(member) for key, member in value.items()}
    return [shortened(member) for member in value] if isinstance(value, list) else value


def described(case: Case) -> dict[str, Any]:
    return {
        "frame": frame_of(case).hex(),
        "lines": lines_of(case),
        "envelopes": [fields_of(envelope) for envelope in case.envelopes],
        "unknown": case.unknown.hex(),
    }


def schema() -> dict[str, Any]:
    """Every number, type, label and JSON name of the schema."""
    proto = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(proto)
    found: dict[str, Any] = MessageToDict(proto)
    return found


def manifest() -> dict[str, Any]:
    return {
        "schema": schema(),
        "cases": {name: shortened(described(case)) for name, case in CASES.items()},
    }


if __name__ == "__main__":
    text = json.dumps(manifest(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--write"]:
        MANIFEST.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)
