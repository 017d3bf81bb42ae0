"""The whole preflight as one call, for the command line and the start check.

Reads the clock, gathers facts, queries the servers, and passes all of it to the checks.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from arqonbus.config import Resolved
from arqonbus.preflight import runner
from arqonbus.preflight.facts import Facts, Process
from arqonbus.preflight.intake import Intake
from arqonbus.preflight.model import Context, Phase
from arqonbus.preflight.receipt import ReceiptRefused, verify_receipt
from arqonbus.preflight.registry import checks
from arqonbus.preflight.runner import Loaded, Report
from arqonbus.preflight.waivers import Waivers, read_waivers

ALL_PHASES = tuple(Phase)


@dataclass(frozen=True, slots=True)
class StartDecision:
    """True if the bus may start, and why. `report` is None if a valid receipt replaced the checks;
    `refusal` says why a given receipt was not accepted."""

    allowed: bool
    report: Report | None
    refusal: str = ""


def start_check(
    resolved: Resolved,
    *,
    online: bool = True,
    receipt: Path | None = None,
    root: Path | None = None,
    process: Process = "bus",
) -> StartDecision:
    """Decide whether the bus may start. A valid receipt replaces the checks.

    Do not call this inside a running event loop: it starts its own to query the servers.
    """
    root = (root or Path.cwd()).absolute()
    refusal = ""
    if receipt is not None:
        try:
            verify_receipt(receipt, resolved, root, time.time())
            return StartDecision(True, None)
        except ReceiptRefused as error:
            refusal = str(error)
    intake = Intake(resolved, root)
    phases = ALL_PHASES if online else (Phase.STATIC, Phase.HOST)
    report = judge(intake, gathered(intake, phases, process), phases=phases)
    strict = resolved.settings.preflight.strict
    allowed = not report.failures and not (strict and report.warnings)
    return StartDecision(allowed, report, refusal)


async def online_subset(resolved: Resolved) -> Report:
    """Run the online checks, for `/readyz?verbose`."""
    from arqonbus.preflight.probes import ask

    facts = Facts(gathered_at=time.time())
    valkey, postgres, nats = await ask(resolved.settings)
    facts = dataclasses.replace(facts, valkey=valkey, postgres=postgres, nats=nats)
    return judge(Intake(resolved, Path.cwd()), facts, phases=(Phase.ONLINE,))


def gathered(intake: Intake, phases: Collection[Phase], process: Process = "bus") -> Facts:
    """Gather the facts that these phases need, now."""
    facts = Facts(gathered_at=time.time())
    if intake.unread:
        return facts
    if Phase.HOST in phases:
        from arqonbus.preflight.host import gather

        facts = dataclasses.replace(facts, host=gather(intake, process))
    if Phase.ONLINE in phases:
        from arqonbus.preflight.probes import ask

        valkey, postgres, nats = asyncio.run(ask(intake.resolved.settings))
        facts = dataclasses.replace(facts, valkey=valkey, postgres=postgres, nats=nats)
    return facts


def judge(
    intake: Intake,
    facts: Facts,
    *,
    phases: Collection[Phase] = ALL_PHASES,
    only: Collection[str] | None = None,
) -> Report:
    """Run the checks on a profile and facts."""
    resolved = intake.resolved
    context = Context(resolved, intake.findings, facts, None, facts.gathered_at)
    loaded = Loaded(
        resolved.profile,
        resolved.settings.environment,
        resolved.digest,
        {key: str(fault) for key, fault in (intake.broken or {}).items()},
        intake.unread,
        _shown(intake, intake.profile_file) if intake.profile_file else "",
    )
    # A run of the online phase alone does not check the waivers file: most waived checks do not run.
    waivers = (
        _waivers(intake) if Phase.STATIC in phases else dataclasses.replace(_waivers(intake), troubles=())
    )
    whole = set(phases) == set(ALL_PHASES) and only is None
    return runner.run(context, loaded, phases=phases, only=only, waivers=waivers, whole=whole)


def _waivers(intake: Intake) -> Waivers:
    file = intake.profile_file
    if file is None:
        return Waivers()
    path = file.with_name("waivers.yaml")
    return read_waivers(path, _shown(intake, path))


def _shown(intake: Intake, path: Path) -> str:
    return str(path.relative_to(intake.root) if path.is_relative_to(intake.root) else path)


__all__ = ["StartDecision", "checks", "gathered", "judge", "online_subset", "start_check"]
