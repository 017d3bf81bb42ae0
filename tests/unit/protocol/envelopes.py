"""Strategies: any envelope, the ones a producer may send, and the bytes of each in every legal disguise."""

from __future__ import annotations

from hypothesis import strategies as st

from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol.envelope import COMMAND, MAX_TIME_US, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid, new_uuid7

UINT64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**53 - 1, 2**53 + 1, 2**63 - 1]))
TIMES = st.one_of(st.integers(1, MAX_TIME_US - 1), st.integers(1 << 49, (1 << 56) - 1))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.one_of(
    st.text("AZaz09._-", min_size=1, max_size=20), st.sampled_from(["r" * n for n in (1, 127, 128)])
)
IDS = st.one_of(st.builds(new_ulid), st.builds(new_uuid7))
JSON_TEXTS = st.sampled_from(
    ["1.10", "1e400", "12345678901234567890123", "-0", '"é\\u00e9"', '{"a": [1, 2.50]}', "null", "[]", '"𝄞"']
)
PAYLOADS = st.one_of(
    st.binary(max_size=300),
    JSON_TEXTS.map(str.encode),
    st.integers(0, 40_000).map(bytes),
    st.sampled_from([b"x" * n for n in (0, 1, 127, 128, 129, 16383, 16384)]),
)
CONTENT_TYPES = st.one_of(
    st.sampled_from(["", "application/json", "text/plain", "application/x+json; v=1", "c" * 127, "c" * 128]),
    TEXT.filter(str.isprintable),
)


@st.composite
def any_envelopes(draw: st.DrawFn) -> Envelope:
    """Every field may be set to anything that its type and the calendar allow."""
    envelope = Envelope(
        id=draw(TEXT),
        kind=draw(st.sampled_from([1, 2, 3, 4])),
        time_us=draw(TIMES),
        server_time_us=draw(st.one_of(st.just(0), TIMES)),
        sequence=draw(UINT64),
        content_type=draw(st.one_of(CONTENT_TYPES, TEXT)),
        payload=draw(PAYLOADS),
        headers=draw(st.dictionaries(TEXT, TEXT, max_size=4)),
        clock=draw(st.dictionaries(TEXT, UINT64, max_size=4)),
        signature=draw(st.binary(max_size=64)),
        durability=draw(st.sampled_from([0, 1, 2, 3])),
        duplicate=draw(st.booleans()),
        **{name: draw(TEXT) for name in ("tenant", "room", "channel", "sender", "name", "epoch", "reply_to")},
        **{name: draw(TEXT) for name in ("recipient", "cause", "trace")},
    )
    if draw(st.booleans()):
        envelope.status.CopyFrom(
            pb.Status(
                code=draw(TEXT),
                message=draw(TEXT),
                retry_after_ms=draw(st.integers(0, 2**32 - 1)),
                details=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
            )
        )
    return envelope


@st.composite
def sendable_envelopes(draw: st.DrawFn) -> Envelope:
    """What a producer may send; often only in everyday fields."""
    envelope = Envelope(
        id=draw(IDS),
        kind=draw(st.sampled_from([MESSAGE, MESSAGE, MESSAGE, COMMAND])),
        room=draw(NAMES),
        time_us=draw(TIMES),
        name=draw(st.one_of(st.just("n"), TEXT.filter(bool), st.sampled_from(["n" * 127, "é" * 100]))),
        content_type=draw(CONTENT_TYPES),
        payload=draw(PAYLOADS),
        channel=draw(st.one_of(st.just(""), NAMES)),
    )
    if draw(st.integers(0, 3)) == 0:
        envelope.headers.update(draw(st.dictionaries(TEXT, TEXT, max_size=3)))
        envelope.clock.update(draw(st.dictionaries(NAMES, UINT64, max_size=3)))
        envelope.cause = draw(IDS)
        envelope.signature = draw(st.binary(min_size=64, max_size=64))
    return envelope
