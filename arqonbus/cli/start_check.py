"""Start check: outside dev, no socket is bound before preflight passes or a valid receipt is given."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.cli import Failure

if TYPE_CHECKING:
    from arqonbus.config import Resolved
    from arqonbus.preflight.facts import Process

logger = logging.getLogger(__name__)


def add_start_check_options(parser: argparse.ArgumentParser) -> None:
    """Add --receipt and --break-glass."""
    parser.add_argument(
        "--receipt",
        type=Path,
        metavar="FILE",
        help="use a fresh receipt of a passed preflight instead of running it",
    )
    parser.add_argument(
        "--break-glass",
        metavar="REASON",
        help="start even if preflight does not pass; this is logged and counted",
    )


def require_start_check(resolved: Resolved, args: argparse.Namespace, process: Process) -> bool:
    """Run the start check. True if it failed and --break-glass allows the start."""
    from arqonbus.preflight import start_check

    if resolved.settings.environment == "dev":
        return False
    decision = start_check(resolved, receipt=args.receipt, process=process)
    if decision.refusal:
        logger.warning("the receipt was not accepted", extra={"reason": decision.refusal})
    if decision.allowed:
        return False
    if args.break_glass:
        assert decision.report is not None
        failed = [result.check.id for result in decision.report.failures]
        logger.critical(
            "starting although preflight failed", extra={"reason": args.break_glass, "failed": failed}
        )
        return True
    from arqonbus.preflight.report import tree

    assert decision.report is not None
    print(tree.render(decision.report, tree.unpainted), end="", file=sys.stderr)
    raise Failure(
        f"the {process} did not start: preflight did not pass; correct its findings and start again"
    )


__all__ = ["add_start_check_options", "require_start_check"]
