"""Where fuzzing starts: the golden corpus, and frames that were or could be trouble."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.contract.protocol.corpus import MANIFEST

_CASES = json.loads(MANIFEST.read_text("utf-8"))["cases"].values()
_MESSAGE = bytes.fromhex(next(iter(_CASES))["frame"])[1:]


def _frame(raw: bytes) -> bytes:
    return bytes((len(raw),)) + raw


PROTOBUF: Sequence[bytes] = [
    *(bytes.fromhex(case["frame"]) for case in _CASES if isinstance(case["frame"], str)),
    b"",
    b"\x00",
    b"\x80\x80\x80\x80\x01",
    b"\x7f" * 20,
    _frame(_MESSAGE)[:-3],
    _frame(_MESSAGE + b"\x22\x01a"),  # a second room
    _frame(_MESSAGE + b"\x6a\x00"),  # a payload of nothing
    _frame(_MESSAGE + b"\x6d\x01\x02\x03\x04"),  # a payload of another wire type
    _frame(_MESSAGE + b"\x0b\x0c"),  # a group
    _frame(_MESSAGE + b"\x72\x07\x0a\x00\x15\x01\x02\x03\x04"),  # a header with something unknown inside
    _frame(_MESSAGE + b"\x72\x0b\x0a\x03ack\x12\x04none"),
    _frame(b"\x0b" * 100),
]

_LINE = '{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","kind":"MESSAGE","room":"orders","time":"2026-01-31T12:00:00Z"'

JSON: Sequence[bytes] = [
    *(
        "\n".join(case["lines"]).encode()
        for case in _CASES
        if all(isinstance(line, str) for line in case["lines"])
    ),
    b"",
    b"{}",
    b"[]\n{}",
    (_LINE + ',"payload":{"a":1,"a":2}}').encode(),
    (_LINE + ',"payload":' + "[" * 63 + "]" * 63 + "}").encode(),
    (_LINE + ',"payload":1e400,"sequence":"18446744073709551616"}').encode(),
    (_LINE + ',"name":"\\ud800"}').encode(),
    (_LINE + ',"headers":{"ack":"none"},"clock":{"a":' + "9" * 100 + "}}").encode(),
    (_LINE + ',"status":{"code":"X","details":[["a","b"]],"retry_after_ms":1.5}}').encode(),
    (_LINE + ',"recipient":"bob","room":""}').encode(),
    b'{"time":"0001-01-01T00:00:00+23:59","server_time":"9999-12-31T23:59:59.999999-23:59"}',
]

SESSION: Sequence[bytes] = [
    *(bytes((mode,)) + seed for mode in (0, 1, 2) for seed in PROTOBUF),
    *(b"\x03" + seed for seed in JSON),
]

__all__ = ["JSON", "PROTOBUF", "SESSION"]
