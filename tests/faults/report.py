"""The report of a run: one row per kind of fault, one per stack, and what was not exercised."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from tests.faults.checker import Fault
from tests.faults.rounds import Outcome
from tests.faults.stack import Plan

_COLUMNS = (*Fault,)

_NOT_EXERCISED = """\
## What this does and does not show

- Everything runs on one machine. kill -9 ends a process; the operating system keeps what it had written. A
  power cut was not exercised: at `hot` with `appendfsync everysec` it can take up to a second of what was
  acked; at `durable` it cannot, because the ack waited for the flush. Disks that fill up are small tmpfs.
- With sentinels, and here in the cluster, a durable ack also waits for the replicas that could take over. At
  `hot` it does not, and a failover can lose what was acked last.
- `unavailable` is the longest time that one producer waited for its next ack, from the begin of the fault to
  the begin of the next one: the fault's own length, the restart of what was killed, the client's backoff.
- `refused` and `unknown` are publishes that the SDK gave up on after 60 s.
"""


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Rows of a Markdown table: stacks and what was found on them."""
    head = ["stack", "rounds", "faults", "acked", "refused", "unknown", "recovered: true", *_COLUMNS]
    rows = [head, ["---", *(["--:"] * (len(head) - 1))]]
    by_stack: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_stack[outcome.stack].append(outcome)
    rows += [_row(name, of_stack) for name, of_stack in by_stack.items()]
    rows.append(_row("**all**", outcomes))
    return ["| " + " | ".join(row) + " |" for row in rows]


def _row(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    published: Counter[str] = Counter()
    for outcome in outcomes:
        published.update(outcome.published)
    found = Counter(finding.fault for outcome in outcomes for finding in outcome.findings)
    numbers: Iterable[int] = (
        len(outcomes),
        sum(len(outcome.struck) for outcome in outcomes),
        published["acked"],
        published["refused"],
        published["unknown"],
        sum(outcome.recoveries for outcome in outcomes),
        *(found[fault] for fault in _COLUMNS),
    )
    return [name, *(f"{number:,}".replace(",", " ") for number in numbers)]


def _kinds(outcomes: Sequence[Outcome]) -> list[str]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for struck in outcome.struck:
            seconds[struck.kind].append(struck.seconds)
    rows = ["| fault | times | unavailable s, median | worst |", "| --- | --: | --: | --: |"]
    for kind, times in sorted(seconds.items()):
        rows.append(f"| {kind} | {len(times)} | {median(times):.1f} | {max(times):.1f} |")
    return rows


def markdown(
    outcomes: Sequence[Outcome], plan: Plan, command: str, seed: int, seconds: float, stuck: Sequence[str]
) -> str:
    """The report."""
    skipped = sorted({sentence for outcome in outcomes for sentence in outcome.skipped})
    findings = [
        f"- {outcome.stack}, seed {outcome.seed}: {finding.fault}, {finding.sentence}"
        for outcome in outcomes
        for finding in outcome.findings[:3]
    ]
    parts = [
        "# Faults under load",
        "",
        f"Written by `{command}` in {seconds / 60:.0f} minutes on {platform.machine()}, seed {seed}, "
        f"mode `{plan.mode}`, durability `{plan.durability}`. Both wire formats; the clients are the SDK.",
        "",
        *table(outcomes),
        "",
        *_kinds(outcomes),
        "",
        _NOT_EXERCISED,
    ]
    if skipped:
        parts += ["## Skipped here", "", *(f"- {sentence}" for sentence in skipped), ""]
    if findings or stuck:
        parts += ["## Found", "", *findings, *(f"- did not come back: {each}" for each in stuck), ""]
    return "\n".join(parts)


__all__ = ["markdown", "table"]
