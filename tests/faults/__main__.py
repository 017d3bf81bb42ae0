"""The long run: `make faults`, or `python -m tests.faults --minutes 15 --seed 7`.

Rounds on every stack in turn until the time or the number of faults is reached. Ends with a table, and writes
it as benchmarks/FAULTS.md. Exit codes: 0 the bus kept its word, 1 it did not.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from pathlib import Path

from tests.faults.report import markdown, table
from tests.faults.rounds import Outcome, Size, run_round
from tests.faults.stack import Plan
from tests.faults.stacks import STACKS

REPORT = Path(__file__).resolve().parents[2] / "benchmarks" / "FAULTS.md"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else secrets.randbelow(10**6)
    plan = Plan(mode=options.mode, durability=options.durability)
    size = Size(faults=options.faults_per_round, window=options.window)
    _say(f"seed {seed}; the same again: python -m tests.faults --seed {seed}")
    began = time.monotonic()
    outcomes, stuck = _all_rounds(options, plan, size, seed, began)
    _say("\n".join(table(outcomes)))
    stacks = " ".join(options.stacks)
    command = (
        f"python -m tests.faults --seed {seed} --minutes {options.minutes:g} --jobs {options.jobs} "
        f"--faults-per-round {options.faults_per_round} --window {options.window} --mode {options.mode} "
        f"--durability {options.durability} --stacks {stacks}"
    )
    text = markdown(outcomes, plan, command, seed, time.monotonic() - began, stuck)
    options.report.write_text(text, "utf-8")
    return 1 if stuck or any(outcome.findings for outcome in outcomes) else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _all_rounds(
    options: argparse.Namespace, plan: Plan, size: Size, seed: int, began: float
) -> tuple[list[Outcome], list[str]]:
    """Rounds, `jobs` at a time, until it is enough; and sentences about those that came to no end."""
    outcomes: list[Outcome] = []
    stuck: list[str] = []
    running: dict[Future[Outcome], str] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for number in count():
            seconds = time.monotonic() - began
            enough = number >= options.rounds if options.rounds else seconds > options.minutes * 60
            if not enough:
                name = options.stacks[number % len(options.stacks)]
                future = pool.submit(_round, name, plan, seed + number, size, began)
                running[future] = f"{name}, seed {seed + number}"
            if enough and not running:
                break
            if enough or len(running) == options.jobs:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name, error = running.pop(future), future.exception()
                    if error is None:
                        outcomes.append(future.result())
                    else:
                        stuck.append(f"{name}: {error!r}")
                        _say(f"  STUCK {stuck[-1]}")
    return outcomes, stuck


def _round(name: str, plan: Plan, seed: int, size: Size, began: float) -> Outcome:
    directory = Path(tempfile.mkdtemp(prefix="arqonbus-faults-"))

    def say(text: str) -> None:
        _say(f"  {time.monotonic() - began:6.1f} s  {name}: {text}")

    say(f"round with seed {seed}")
    outcome = asyncio.run(run_round(name, directory / "run", plan, seed, size, say))
    say(f"{outcome.published['acked']} acked, {len(outcome.findings)} findings")
    for finding in outcome.findings[:5]:
        say(f"{finding.fault}, {finding.room}: {finding.sentence}")
    if not outcome.findings:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        say(f"what the servers said is kept in {directory}")
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="the same faults at the same places")
    parser.add_argument("--minutes", type=float, default=15.0, help="how long to go on (default 15)")
    parser.add_argument("--rounds", type=int, default=0, help="this many rounds instead of minutes")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at a time (default 1)")
    parser.add_argument(
        "--stacks", nargs="+", choices=STACKS, default=list(STACKS), help="which stacks, in turn"
    )
    parser.add_argument("--faults-per-round", type=int, default=14)
    parser.add_argument("--window", type=int, default=64, help="publishes outstanding per producer")
    parser.add_argument("--mode", choices=("strict", "degraded"), default="strict")
    parser.add_argument("--durability", choices=("hot", "durable"), default="durable")
    parser.add_argument("--report", type=Path, default=REPORT, help="file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
