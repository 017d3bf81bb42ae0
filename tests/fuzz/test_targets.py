"""Each fuzz target over its seeds and over mutations of them, without a fuzzer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import profiles, seeds, shielded, targets
from tests.fuzz.corpora import kept

Target = Callable[[bytes], None]
TARGETS: dict[str, tuple[Target, Sequence[bytes]]] = {
    "protobuf_frames": (targets.protobuf_frames, seeds.PROTOBUF),
    "json_frames": (targets.json_frames, seeds.JSON),
    "session_frames": (targets.session_frames, seeds.SESSION),
    "profile_loader": (profiles.profile_loader, profiles.SEEDS),
    "jwt": (shielded.jwt, shielded.JWT),
    "policy": (shielded.policy, shielded.POLICY),
    "schema": (shielded.schema, shielded.SCHEMA),
}
TOKENS = (
    b"\x00\x01\x7f\x80\xff\x0a\x10\x22\x2a\x32\x40\x52\x6a\x72\xf5",
    b'{}[]",:\\\n\r0123456789.eE+-untf',
)


def mutated(seed: bytes, other: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, moved, doubled, cut out or taken from another seed."""
    raw = bytearray(seed)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(raw) + 1)
        match dice.randrange(5):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << dice.randrange(8)
            case 1:
                raw[at:at] = bytes((dice.choice(dice.choice(TOKENS)),))
            case 2:
                del raw[at : at + dice.randint(1, 8)]
            case 3:
                begin = dice.randrange(len(other) + 1)
                raw[at:at] = other[begin : begin + dice.randint(1, 40)]
            case _:
                raw[at:at] = raw[: dice.randint(1, 20)]
    return bytes(raw)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    """Every seed keeps the promises of its target."""
    target, starts = TARGETS[name]
    assert len(starts) > 20
    for seed in starts:
        target(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_kept(name: str) -> None:
    """So does all that a fuzzer found worth keeping."""
    target, _ = TARGETS[name]
    inputs = kept(name)
    assert inputs
    for data in inputs:
        target(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None)
@given(dice=st.randoms(use_true_random=False))
def test_mutations(name: str, dice: random.Random) -> None:
    """So does what comes of the seeds by chance."""
    target, starts = TARGETS[name]
    for _ in range(3 if name == "profile_loader" else 30):  # which reads files
        target(mutated(dice.choice(starts), dice.choice(starts), dice))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes(name: str, data: bytes) -> None:
    """And so do bytes of any kind."""
    TARGETS[name][0](data)


def test_a_broken_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target fails when the bus lets a forged sender through."""
    monkeypatch.setattr(targets.wire_protobuf, "sender_stamp", lambda tenant, sender: b"")
    with pytest.raises(targets.Broken, match="forged"):
        list(map(targets.session_frames, seeds.SESSION))
