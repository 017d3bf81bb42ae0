"""Run all checks on a context in one pass and collect their results.

Pure: all facts were gathered before. A check that raises is `errored`, which counts as failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from arqonbus.config import Location, Redactor
from arqonbus.config.settings import EnvironmentName
from arqonbus.preflight.model import Check, Context, Outcome, Phase, Remark, Severity, Status, skipped
from arqonbus.preflight.registry import checks
from arqonbus.preflight.waivers import Ledger, Waiver, Waivers, find_waiver

_WAIVER_FAMILY = "WVR"
_TEXT_TAG = "load"  # checks of the profile's text, which need no settings


@dataclass(frozen=True, slots=True)
class Seen:
    """A remark with its locations: where the value is set, and which locations it overrides."""

    text: str
    key: str = ""
    place: Location | None = None
    overriding: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one check in this run."""

    check: Check
    severity: Severity
    outcome: Outcome
    seen: tuple[Seen, ...] = ()
    waiver: Waiver | None = None

    @property
    def failed(self) -> bool:
        """Failed or errored, and not waived."""
        return self.outcome.status in (Status.FAILED, Status.ERRORED) and self.waiver is None

    @property
    def blocks(self) -> bool:
        return self.failed and self.severity is not Severity.WARNING


@dataclass(frozen=True)
class Loaded:
    """The facts of the loaded profile that a run needs.

    `broken`: keys without a valid value. `unread`: why no settings were loaded, or empty. `file`: the
    profile's own file, for messages.
    """

    profile: str
    environment: EnvironmentName
    digest: str
    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unread: str = ""
    file: str = ""


@dataclass(frozen=True)
class Report:
    """A whole run. `at` is the time of the facts in Unix seconds."""

    loaded: Loaded
    results: tuple[Result, ...]
    at: float

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.blocks)

    @property
    def warnings(self) -> tuple[Result, ...]:
        return tuple(r for r in self.results if r.failed and r.severity is Severity.WARNING)

    def count(self, status: Status) -> int:
        return sum(result.outcome.status is status for result in self.results)

    @property
    def waived(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.waiver is not None)

    @property
    def empty(self) -> bool:
        """The check was skipped."""
        return all(result.outcome.status is Status.SKIPPED for result in self.results)


def run(
    context: Context,
    loaded: Loaded,
    *,
    phases: Collection[Phase] = tuple(Phase),
    only: Collection[str] | None = None,
    waivers: Waivers | None = None,
    whole: bool = True,
) -> Report:
    """Run every check that applies. `only` limits the run to these ids and the checks that they require.

    `whole` False: only a part of the checks runs, so waivers are not checked.
    """
    wanted = [check for check in _chosen(only) if check.phase in phases]
    return Run(context, loaded, waivers or Waivers(), whole=whole).over(wanted)


def _chosen(only: Collection[str] | None) -> Iterable[Check]:
    known = checks()
    if only is None:
        return known.values()
    wanted: set[str] = set()
    queue = list(only)
    while queue:
        each = queue.pop()
        if each not in wanted:
            wanted.add(each)
            queue += known[each].requires
    return [check for check in known.values() if check.id in wanted]


class Run:
    """A run in progress."""

    def __init__(self, context: Context, loaded: Loaded, waivers: Waivers, *, whole: bool) -> None:
        self._context = context
        self._loaded = loaded
        self._waivers = waivers
        self._whole = whole
        self._redact = Redactor(context.settings).text
        self._results: dict[str, Result] = {}
        self._used: set[Waiver] = set()

    def over(self, wanted: Iterable[Check]) -> Report:
        """Check the waivers last: only then is it known which were used."""
        applying = [each for each in wanted if each.severity[self._loaded.environment] is not Severity.OFF]
        ids = {each.id for each in applying}
        for check in applying:
            if check.family != _WAIVER_FAMILY:
                self._judge(check, ids)
        judged = tuple(w for w in self._waivers.entries if self._whole or w.id in ids or w.id not in checks())
        undecided = {id for id, r in self._results.items() if r.outcome.status is Status.SKIPPED}
        ledger = Ledger(Waivers(judged, self._waivers.troubles), frozenset(self._used), frozenset(undecided))
        self._context = dataclasses.replace(self._context, ledger=ledger)
        for check in applying:
            if check.family == _WAIVER_FAMILY:
                self._judge(check, ids)
        return Report(self._loaded, tuple(self._results.values()), self._context.now)

    def _judge(self, check: Check, ids: set[str]) -> None:
        because = self._reason_to_skip(check, ids)
        outcome = skipped(because) if because else self._ask(check)
        severity = check.severity[self._loaded.environment]
        seen = tuple(seen for remark in outcome.remarks for seen in self._seen(check, remark))
        waiver = None
        if outcome.status is Status.FAILED and severity is not Severity.FATAL:
            keys = [key for remark in outcome.remarks for key in remark.keys or check.reads]
            waiver = find_waiver(self._waivers, check.id, self._loaded.environment, keys, self._context.now)
            if waiver is not None:
                self._used.add(waiver)
        self._results[check.id] = Result(check, severity, outcome, seen, waiver)

    def _ask(self, check: Check) -> Outcome:
        try:
            return check.judge(self._context)
        except Exception as error:  # noqa: BLE001 - whatever a check raises is its result
            text = self._redact(f"the check itself failed with {type(error).__name__}: {error}")
            return Outcome(Status.ERRORED, (Remark(text),), "an answer", fix=(_REPORT_IT,))

    def _reason_to_skip(self, check: Check, ids: set[str]) -> str:
        if self._loaded.unread and _TEXT_TAG not in check.tags:
            return self._loaded.unread
        for key, culprit in sorted(self._loaded.broken.items()):
            if any(_covers(read, key) for read in check.reads):
                return f"{key} has no valid value ({culprit})"
        for required in check.requires:
            result = self._results.get(required)
            if result is not None and result.outcome.status is not Status.PASSED:
                if result.outcome.status is Status.SKIPPED:
                    return result.outcome.because
                return f"{required} failed: {checks()[required].title}"
        if check.phase is Phase.HOST and (self._context.facts is None or self._context.facts.host is None):
            return "there are no facts of the host"
        return ""

    def _seen(self, check: Check, remark: Remark) -> Iterable[Seen]:
        text = self._redact(remark.text)
        if remark.place is not None:
            return (Seen(text, ", ".join(remark.keys), remark.place),)
        keys = remark.keys or (check.reads if len(check.reads) == 1 else ())
        given = [
            (key, each.location)
            for key in keys
            for each in self._context.resolved.provenance.given(tuple(key.split(".")))
        ]
        if not given:
            return (Seen(text, ", ".join(keys)),)
        overriding = [place for key, place in given[1:] if key == given[0][0]]
        return (Seen(text, ", ".join(keys), given[0][1], tuple(overriding)),)


_REPORT_IT = "arqonbus preflight --capture ./preflight-capture   # attach it to a bug report"


def _covers(read: str, key: str) -> bool:
    return key == read or key.startswith(f"{read}.") or read.startswith(f"{key}.")


__all__ = ["Loaded", "Report", "Result", "Run", "Seen", "run"]
