"""With `policy.secrets: redact`, also in monitor mode, a text of 64 KiB that looks random keeps the bus busy
for seconds: each replacement begins again at the start of the text."""

from __future__ import annotations

import base64
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from arqonbus.config.policy import Policy
from arqonbus.protocol.envelope import JSON_CONTENT, Envelope
from arqonbus.shield.policy import REDACTED, ContentPolicy, Judgement

KIB = 1024


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """The number of calls, of Python and of C, in the block."""
    calls = [0]
    numbers = count(1)

    def profile(_frame: object, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            calls[0] = next(numbers)

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def tokens(size: int) -> list[str]:
    """Texts that are too random to be anything but secrets."""
    rng = random.Random(1)
    return [base64.b64encode(rng.randbytes(63)).decode() for _ in range(size // 85)]


def judged(texts: list[str], mode: str = "monitor") -> Judgement:
    inspector = ContentPolicy(Policy.model_validate({"mode": mode, "secrets": "redact"})).of("room")
    assert inspector is not None
    payload = " ".join(texts)
    return inspector.judge(Envelope(payload=payload.encode(), content_type="text/plain"))


@pytest.mark.parametrize("mode", ["monitor", "enforce"])
def test_four_times_the_text_is_four_times_the_work(mode: str) -> None:
    """And all of it is redacted."""
    judged(tokens(KIB))  # what is made once
    calls = []
    for size in (15 * KIB, 60 * KIB):
        with counted_calls() as made:
            judgement = judged(tokens(size), mode=mode)
        calls.append(made[0])
        assert judgement.payload == b" ".join([REDACTED.encode()] * len(tokens(size)))
    assert calls[1] < 6 * calls[0]


def test_a_value_that_is_too_long_is_not_worked_through() -> None:
    """It is blocked for its size, and that is all that is done about it."""
    judged(tokens(KIB))  # what the first message loads does not count
    with counted_calls() as made:
        judgement = judged(tokens(200 * KIB))
    assert judgement.blocked is not None
    assert judgement.blocked.rule == "value-size"
    assert made[0] < 20_000


def test_a_message_of_more_findings_than_are_worked_on_is_blocked() -> None:
    inspector = ContentPolicy(Policy.model_validate({"mode": "enforce", "secrets": "redact"})).of("room")
    assert inspector is not None
    text = '["' + '","'.join(tokens(150 * KIB)) + '"]'
    judgement = inspector.judge(Envelope(payload=text.encode(), content_type=JSON_CONTENT))
    assert judgement.blocked is not None
    assert judgement.blocked.rule == "values"
    assert judgement.payload is None
