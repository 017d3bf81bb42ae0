"""`arqonbus capacity`: compute the resources of hosts and stores that a profile needs."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from arqonbus.cli import Failure
from arqonbus.cli.profile_options import add_profile_options, load_profile
from arqonbus.cli.table import print_table

if TYPE_CHECKING:
    from arqonbus.config import Settings
    from arqonbus.config.capacity import Bill, ExpectedLoad, Figures
    from arqonbus.measure.load import Measured

SUMMARY = "Compute the resources that a profile needs: memory, files, stores, CPU."

EPILOG = """examples:
  arqonbus capacity --profile prod
  arqonbus capacity --profile prod --connections 1000000 --publishes 20000 --members 50
  arqonbus capacity --profile prod --calibrate --seconds 20 --json

Memory and files depend on the profile only; preflight and the limits of the systemd unit use the same
function. The size of the stores depends on the load options. --calibrate measures the cost of a connection
and a delivery on this host; without it, documented figures are used.
exit codes: 0 done, 1 could not be measured, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("total load of all nodes")
    load.add_argument(
        "--connections", type=_count, metavar="N", help="default: server.max_connections, one node"
    )
    for name, default, what in (
        ("--publishes", 1000.0, "messages per second"),
        ("--members", 10.0, "members per room"),
        ("--events", 10.0, "episode events per second"),
    ):
        load.add_argument(
            name, type=_rate, default=default, metavar="N", help=f"{what}; default: {default:g}"
        )
    load.add_argument("--size", type=_count, default=200, metavar="BYTES", help="payload size; default: 200")
    load.add_argument("--rooms", type=_count, default=100, metavar="N", help="default: 100")
    parser.add_argument("--calibrate", action="store_true", help="measure costs on this host")
    parser.add_argument(
        "--seconds", type=_rate, default=20.0, metavar="S", help="duration of --calibrate; default: 20"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    add_profile_options(parser)


def run(args: argparse.Namespace) -> int:
    from arqonbus.config.capacity import ExpectedLoad, bill

    settings = load_profile(args, secrets_of=()).settings
    load = ExpectedLoad(
        args.connections or settings.server.max_connections,
        args.publishes,
        args.members,
        args.size,
        args.rooms,
        args.events,
    )
    figures = _figures(args)
    needed = bill(settings, load, figures)
    if args.json:
        shown = {"load": asdict(load), "figures": asdict(figures), "bill": asdict(needed)}
        print(json.dumps(shown, indent=2))
    else:
        _print(settings, load, figures, needed)
    return 0


def _figures(args: argparse.Namespace) -> Figures:
    from arqonbus.config.capacity import DOCUMENTED

    if not args.calibrate:
        return DOCUMENTED
    from arqonbus.measure.calibration import CalibrationFailed, calibrate

    try:
        return calibrate(args.seconds, _progress)
    except CalibrationFailed as error:
        raise Failure(str(error)) from error
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _progress(share: float, measured: Measured) -> None:
    if sys.stderr.isatty():
        print(f"\rmeasuring {share:4.0%}", end="", file=sys.stderr, flush=True)


def _print(settings: Settings, load: ExpectedLoad, figures: Figures, needed: Bill) -> None:
    from arqonbus.config.capacity import PROJECTOR_BATCH_BYTES, PROJECTOR_BATCHES

    server, history = settings.server, settings.storage.history
    tls = f" plus {_size(figures.tls_bytes)} for TLS" if server.tls.enabled else ""
    most = (
        _size(needed.memory_max_bytes) if needed.memory_max_bytes else "no limit: rooms are in process memory"
    )
    rows = [
        (
            "nodes of the bus",
            str(needed.nodes),
            f"{load.connections} connections, {server.max_connections} each",
        ),
        (
            "memory of a node",
            _size(needed.memory_bytes),
            f"{server.workers} × {_size(figures.worker_bytes)}, {_size(figures.connection_bytes)} a "
            f"connection{tls}, {_size(settings.limits.send_queue_bytes)} for each of 2 % slow ones",
        ),
        ("MemoryMax of the unit", most, "25 % more"),
        (
            "memory of a projector",
            _size(needed.projector_bytes),
            f"{_size(figures.projector_bytes)}, {PROJECTOR_BATCHES} batches of "
            f"{_size(PROJECTOR_BATCH_BYTES)} and one more event, {figures.batch_copies} copies each",
        ),
        ("open files of a node", str(needed.open_files), "20 % more than connections"),
        (
            "memory of Valkey",
            _size(needed.valkey_bytes) if needed.valkey_bytes is not None else "no Valkey, or unbounded",
            f"{load.rooms} rooms, {history.max_age:g} s or {history.max_messages} messages each; "
            f"{load.size} + {figures.entry_bytes} bytes per message; the host needs twice as much",
        ),
        (
            "Postgres per day",
            f"{needed.postgres_bytes_per_day / 1e9:.2f} GB",
            f"{load.events:g} events per second of {figures.event_bytes} bytes, with indexes",
        ),
        (
            "deliveries per second",
            f"{needed.deliveries:.0f}",
            f"{load.publishes:g} messages per second to {load.members:g} members",
        ),
        (
            "deliveries per core",
            f"{needed.deliveries_per_core:.0f}",
            f"{figures.delivery_us:.2f} µs each; {needed.cores:.2f} cores in total",
        ),
    ]
    print_table(("WHAT", "NEEDED", "WHY"), rows)
    if figures.source == "documented":
        print("\nDocumented figures from another host; --calibrate measures this one.")
    else:
        print(
            "\nDelivery and connection costs were measured on this host; other figures are documented ones."
        )


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 10**12:
        raise argparse.ArgumentTypeError("write a whole number of at least 1")
    return count


def _rate(text: str) -> float:
    rate = float(text)
    if not (math.isfinite(rate) and 0 < rate <= 1e12):
        raise argparse.ArgumentTypeError("write a number above 0")
    return rate


__all__ = ["EPILOG", "SUMMARY", "configure", "run"]
