"""Backfill and rebuild on the command line: progress, and the cursor to resume from."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

from arqonbus.cli import Failure
from arqonbus.cli import store_options as options

if TYPE_CHECKING:
    from arqonbus.cli.store_options import Opened
    from arqonbus.continuum.control import Progress
    from arqonbus.storage.projection import Selection

LINE_SECONDS = 5.0  # between plain lines
REDRAW_SECONDS = 0.1


def add_backfill_options(parser: argparse.ArgumentParser) -> None:
    """Add the selection, --dry-run, --from-cursor and --step."""
    parser.add_argument("--agent", metavar="ID", help="only episodes of this agent")
    parser.add_argument("--from", dest="since", type=options.time, metavar="TIME", help="source_ts >= TIME")
    parser.add_argument("--to", dest="until", type=options.time, metavar="TIME", help="source_ts < TIME")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument(
        "--from-cursor",
        default="",
        metavar="CURSOR",
        help="resume an interrupted run from the cursor that it printed",
    )
    parser.add_argument(
        "--step",
        type=options.positive,
        default=500,
        metavar="N",
        help="episodes per transaction; default: 500",
    )
    options.add_store_options(parser, every_tenant=True)


async def run_backfill(opened: Opened, args: argparse.Namespace, *, rebuild: bool) -> int:
    """Run it and print its progress. Raises Failure with the cursor to resume from if it does not finish."""
    from arqonbus.continuum.control import format_cursor, parse_cursor
    from arqonbus.storage.ports import StorageError
    from arqonbus.storage.projection import Selection

    selection = Selection(opened.tenant, args.agent, args.since, args.until)
    after = parse_cursor(args.from_cursor)
    telling = _telling(args, await _total(opened, selection) if not args.from_cursor else None)
    try:
        done = await opened.control.run(
            selection,
            after,
            rebuild=rebuild,
            dry_run=args.dry_run,
            on_progress=telling.on_progress,
            step=args.step,
        )
    except asyncio.CancelledError:
        telling.interrupted(telling.cursor or args.from_cursor)
        raise
    except StorageError as error:
        cursor = telling.cursor or format_cursor(after)
        raise Failure(f"{error} Resume with: {_again(cursor)}") from error
    telling.done(done, dry_run=args.dry_run)
    return 0


async def _total(opened: Opened, selection: Selection) -> int:
    return (await opened.store.select(selection))[1]


class Telling:
    """No progress output; JSON at the end."""

    def __init__(self) -> None:
        self.cursor = ""
        self._began = time.monotonic()

    def on_progress(self, progress: Progress) -> None:
        """After each step."""
        from arqonbus.continuum.control import format_cursor

        self.cursor = format_cursor(progress.next)

    def done(self, progress: Progress, *, dry_run: bool) -> None:
        """At the end."""
        counts = progress._asdict()
        del counts["next"]
        print(json.dumps({"dry_run": dry_run, **counts, "seconds": round(self.seconds, 3)}, indent=2))

    def interrupted(self, cursor: str) -> None:
        """After Ctrl-C; completed steps are kept."""
        print(json.dumps({"interrupted": True, "cursor": cursor}, indent=2))

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began


class Lines(Telling):
    """A progress line at intervals, with the cursor to resume from if the process is killed."""

    every = LINE_SECONDS

    def __init__(self, total: int | None) -> None:
        super().__init__()
        self._total = total
        self._told = self._began

    def on_progress(self, progress: Progress) -> None:
        super().on_progress(progress)
        if (now := time.monotonic()) - self._told >= self.every:
            self._told = now
            self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        print(f"{self._line(progress)}  cursor {self.cursor}", flush=True)

    def _line(self, progress: Progress) -> str:
        seconds = max(self.seconds, 1e-6)
        rate = progress.episodes / seconds
        of = f" of {self._total:,} ({progress.episodes / self._total:.0%})" if self._total else ""
        line = f"{progress.episodes:,}{of} episodes  {progress.changed:,} changed  {rate:,.0f}/s"
        if self._total and rate:
            line += f"  eta {max(0, self._total - progress.episodes) / rate:,.0f} s"
        return line

    def done(self, progress: Progress, *, dry_run: bool) -> None:
        changed = f"{progress.changed:,} {'would change' if dry_run else 'changed'}"
        counts = f"{progress.episodes:,} episodes from {progress.events:,} events"
        print(f"{counts} in {self.seconds:.1f} s: {changed}")
        if progress.orphans:
            print(f"{progress.orphans:,} episodes are unchanged: retention has removed all their events.")

    def interrupted(self, cursor: str) -> None:
        print(f"Interrupted. Resume with: {_again(cursor)}", file=sys.stderr, flush=True)


class Bar(Lines):
    """A progress line that is redrawn in place, on a terminal."""

    every = REDRAW_SECONDS

    def _tell(self, progress: Progress) -> None:
        print(f"\r\x1b[K{self._line(progress)}", end="", flush=True)

    def done(self, progress: Progress, *, dry_run: bool) -> None:
        print("\r\x1b[K", end="")
        super().done(progress, dry_run=dry_run)

    def interrupted(self, cursor: str) -> None:
        print(flush=True)
        super().interrupted(cursor)


def _telling(args: argparse.Namespace, total: int | None) -> Telling:
    if args.json:
        return Telling()
    return Bar(total) if sys.stdout.isatty() else Lines(total)


def _again(cursor: str) -> str:
    return f"the same command with --from-cursor {cursor}" if cursor else "the same command"


__all__ = ["add_backfill_options", "run_backfill"]
