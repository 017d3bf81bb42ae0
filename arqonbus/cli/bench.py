"""`arqonbus bench`: measure throughput and latency of a running bus."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from arqonbus.cli import Failure, message_view
from arqonbus.cli.connect_options import add_connect_options, client_of, failure_of
from arqonbus.cli.table import print_table

if TYPE_CHECKING:
    from arqonbus.measure.load import LoadPlan, Measured

SUMMARY = "Measure throughput and latency of a running bus."

EPILOG = """examples:
  arqonbus bench
  arqonbus bench --subscribers 50 --in-flight 64 --seconds 10
  arqonbus bench --subscribers 10 --rate 2000
  arqonbus bench --publishers 4 --subscribers 0 --json

Latency is measured from the time at which a message was due to be sent. This one process generates the load,
so at high rates it may be the bottleneck.
exit codes: 0 done, 1 refused or no bus, 2 wrong usage"""

BAR = 30


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--room", default="bench", help="room to use; default: bench")
    parser.add_argument("--publishers", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--subscribers", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--size", type=int, default=200, metavar="BYTES", help="payload size; default: 200")
    parser.add_argument(
        "--in-flight", type=int, default=16, metavar="N", help="unacked messages per publisher; default: 16"
    )
    parser.add_argument("--rate", type=float, default=0, metavar="N", help="messages per second; 0: no limit")
    parser.add_argument("--seconds", type=float, default=5, metavar="S", help="default: 5")
    add_connect_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.client import ClientError
    from arqonbus.measure.load import LoadPlan, LoadRun

    if min(args.publishers, args.in_flight) < 1 or args.subscribers < 0 or args.seconds <= 0:
        raise Failure("publishers, in-flight and seconds must be at least 1, subscribers at least 0", 2)
    plan = LoadPlan(
        args.room, args.publishers, args.subscribers, args.size, args.in_flight, args.rate, args.seconds
    )
    try:
        measured = asyncio.run(LoadRun(plan, lambda: client_of(args)).run(_progress))
    except ClientError as error:
        raise failure_of(error, args) from error
    _clear()
    if args.json:
        message_view.print_json(_facts(plan, measured))
    else:
        _print(measured)
    return 0


def _progress(share: float, measured: Measured) -> None:
    if sys.stderr.isatty():
        bar = ("#" * round(share * BAR)).ljust(BAR)
        text = f"\r[{bar}] {share:4.0%}  {measured.published} published, {measured.delivered} delivered"
        print(text, end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _print(measured: Measured) -> None:
    from arqonbus.measure.load import percentile

    rows = []
    for name, count, latencies in (
        ("publish, acked", measured.published, measured.ack_latencies),
        ("deliver", measured.delivered, measured.delivery_latencies),
    ):
        times = [f"{percentile(latencies, share) * 1000:.2f}" for share in (0.5, 0.95, 0.99, 1.0)]
        rows.append((name, count, round(count / measured.seconds), *map(float, times)))
    print_table(("STEP", "MESSAGES", "PER SECOND", "P50 MS", "P95 MS", "P99 MS", "MAX MS"), rows)
    print(f"\n{measured.seconds:.1f} s, acks at durability {measured.durability}")


def _facts(plan: LoadPlan, measured: Measured) -> dict[str, object]:
    from dataclasses import asdict

    from arqonbus.measure.load import percentile

    def milliseconds(latencies: list[float]) -> dict[str, float]:
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        return {name: round(percentile(latencies, share) * 1000, 3) for name, share in shares.items()}

    return {
        "plan": asdict(plan),
        "seconds": round(measured.seconds, 3),
        "durability": measured.durability,
        "published": measured.published,
        "delivered": measured.delivered,
        "published_per_second": round(measured.published / measured.seconds),
        "delivered_per_second": round(measured.delivered / measured.seconds),
        "ack_ms": milliseconds(measured.ack_latencies),
        "delivery_ms": milliseconds(measured.delivery_latencies),
    }
