"""Turns the runs of `benchmarks.run` into benchmarks/RESULTS.md and a plot: medians, least and most."""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
BASE = "nats-server"
TITLES = {
    "fan-50": "1 room, 50 members, 64 in flight",
    "fan-500": "1 room, 500 members, 16 in flight",
    "rooms-50x5-w4": "50 rooms of 5 members, 4 in flight each",
    "rooms-50x5-w1": "50 rooms of 5 members, 1 in flight each",
    "fan-10": "1 room, 10 members, 64 in flight",
    "one-to-one": "1 room, 1 member, 512 in flight",
    "paced-2000x10": "1 room, 10 members, 2 000 messages/s",
    "idle-10000": "10 000 idle connections in 100 rooms",
}

Runs = dict[str, dict[str, list[dict[str, Any]]]]


def grouped(path: Path) -> tuple[dict[str, Any], Runs]:
    document = json.loads(path.read_text())
    runs: Runs = defaultdict(lambda: defaultdict(list))
    for run in document["runs"]:
        runs[run["case"]][run["server"]].append(run)
    return document, runs


def spread(runs: list[dict[str, Any]], key: str, form: str) -> str:
    """`median (least–most)`."""
    values = [run[key] for run in runs]
    shown = [format(value, form) for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]}–{shown[2]})"


def ratio(runs: dict[str, list[dict[str, Any]]], server: str, key: str) -> str:
    """nats-server's figure over the server's, round by round; above 1 the server is cheaper."""
    base = {run["round"]: run[key] for run in runs.get(BASE, [])}
    pairs = [base[run["round"]] / run[key] for run in runs[server] if run["round"] in base and run[key]]
    return f"{statistics.median(pairs):.2f}" if pairs else ""


def table(case: str, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    if case.startswith("idle"):
        lines = ["| server | KiB per connection |", "|---|---|"]
        return lines + [
            f"| {s} | {spread(found, 'kib_per_connection', '.1f')} |" for s, found in runs.items()
        ]
    lines = [
        "| server | CPU µs per delivery | nats-server ÷ it | deliveries/s | p50 µs | p99 µs |",
        "|---|---|---|---|---|---|",
    ]
    for server, found in runs.items():
        lines.append(
            f"| {server} | {spread(found, 'cpu_us_per_delivery', '.2f')} "
            f"| {ratio(runs, server, 'cpu_us_per_delivery')} "
            f"| {spread(found, 'deliveries_per_second', ',.0f')} "
            f"| {spread(found, 'p50_us', '.0f')} | {spread(found, 'p99_us', '.0f')} |"
        )
    return lines


def plot(runs: Runs, path: Path) -> None:
    cases = [case for case in TITLES if case in runs and not case.startswith("idle")]
    servers = list(dict.fromkeys(server for case in cases for server in runs[case]))
    figure, axes = plt.subplots(figsize=(11, 5.5))
    width = 0.85 / len(servers)
    for index, server in enumerate(servers):
        heights = [
            statistics.median([run["cpu_us_per_delivery"] for run in runs[case].get(server, [])] or [0])
            for case in cases
        ]
        places = [place + index * width for place in range(len(cases))]
        axes.bar(places, heights, width, label=server)
    axes.set_yscale("log")
    axes.set_ylabel("server CPU, µs per delivery (log)")
    axes.set_xticks([place + 0.4 for place in range(len(cases))], cases, rotation=15)
    axes.legend(fontsize=8, ncols=3)
    axes.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    document, runs = grouped(HERE / "results" / "fanout.json")
    rounds = 1 + max(run["round"] for run in document["runs"])
    lines = [
        "# Fan-out, compared",
        "",
        "Made by `make bench`; do not edit. Every server is pinned to one processor and the generator to",
        "the other; servers take turns within a round, so that a ratio holds when the machine's speed",
        "drifts. ArqonBus does its whole work here: the token was checked, every message is validated, gets",
        "a sequence, is looked up for dedup, kept in the history unless it says otherwise, and is acked to",
        "its producer. nats-server, mosquitto and the small servers of ws, Socket.IO and websockets forward",
        "without acks, sequences or history. Valkey speaks TCP, not WebSocket: it stands for a bound.",
        "",
        f"{document['when']}, {rounds} rounds, Python {document['machine']['python']}, "
        f"{document['machine']['processors']} shared",
        "processors. Median (least–most). Differences below 20 % are noise on such a machine. The payload",
        "has 200 bytes; KiB per connection are those of the server's resident memory.",
        "",
        "![CPU per delivery](results/fanout.svg)",
        "",
    ]
    for case, title in TITLES.items():
        if case in runs:
            lines += [f"## {title} (`{case}`)", "", *table(case, runs[case]), ""]
    plot(runs, HERE / "results" / "fanout.svg")
    (HERE / "RESULTS.md").write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
