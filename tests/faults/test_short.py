"""Every stack once, briefly, with faults under load; the seed is printed. Long run: `make faults`."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import pytest

from tests.faults.network import why_not
from tests.faults.rounds import Size, run_round
from tests.faults.stack import Plan

pytestmark = [pytest.mark.servers, pytest.mark.timeout(110)]

SMALL = Size(faults=3, rooms=2, producers=2, consumers=4, window=8)


@pytest.mark.parametrize("stack", ["sqlite", "valkey", "history", "sentinel", "cluster"])
async def test_faults_under_load(stack: str, tmp_path: Path) -> None:
    """Whatever is killed, stopped, cut off or filled up: what was acked is there, once and in order."""
    seed = int(os.environ.get("FAULTS_SEED", secrets.randbelow(10**6)))
    lines = [f"the same again: FAULTS_SEED={seed} pytest tests/faults -k {stack}"]
    outcome = await run_round(stack, tmp_path / "run", Plan(), seed, SMALL, lines.append)
    sys.stdout.write("\n".join(lines))  # pytest shows it when the test fails
    assert outcome.findings == []
    assert outcome.published["acked"] > 100
    assert len(outcome.struck) == SMALL.faults


def test_hosts_can_be_made() -> None:
    """As root, which CI is, network cuts are real: never left out in silence."""
    reason = why_not()
    if os.geteuid() != 0:
        pytest.skip(reason)
    assert reason == ""
