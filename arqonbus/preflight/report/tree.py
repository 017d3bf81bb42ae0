"""Report for people: each finding with its location, reason and fix. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from arqonbus.config import Location
from arqonbus.preflight.model import Severity, Status
from arqonbus.preflight.registry import FAMILIES
from arqonbus.preflight.report.plain import fix_of, summary
from arqonbus.preflight.runner import Report, Result, Seen

Paint = Callable[[str, str], str]


def unpainted(text: str, style: str) -> str:
    """Return the text without colours."""
    return text


def render(report: Report, paint: Paint = unpainted) -> str:
    """Render the report, with a final newline. `paint(text, style)` adds colours."""
    return "\n".join(_printable(line, paint) for line in _lines(report, paint)) + "\n"


def _printable(line: str, paint: Paint) -> str:
    # Content of files must not control the terminal; only our own colours may.
    return "".join(c if c.isprintable() or (c == "\x1b" and paint is not unpainted) else "�" for c in line)


def _lines(report: Report, paint: Paint) -> Iterator[str]:
    loaded = report.loaded
    yield paint(f"Preflight of {loaded.profile}, judged as {loaded.environment}", "bold")
    if loaded.unread:
        yield paint(f"Only the text of the profile was checked: {loaded.unread}.", "yellow")
    for family, about in FAMILIES.items():
        results = [result for result in report.results if result.check.family == family]
        if results:
            yield from _family(family, about, results, report, paint)
    yield ""
    yield from _end(report, paint)


def _family(family: str, about: str, results: list[Result], report: Report, paint: Paint) -> Iterator[str]:
    shown = [r for r in results if r.outcome.status in (Status.FAILED, Status.ERRORED)]
    passed = sum(r.outcome.status is Status.PASSED for r in results)
    skips = Counter(r.outcome.because for r in results if r.outcome.status is Status.SKIPPED)
    if not shown and not passed:
        mark = paint("-", "dim")
    elif any(r.blocks for r in shown):
        mark = paint("✗", "red")
    else:
        mark = paint("!", "yellow") if any(r.failed for r in shown) else paint("✓", "green")
    count = f"{passed} of {len(results)} passed"
    yield ""
    yield f"{mark} {paint(family, 'bold')} {about}: {count}"
    for result in shown:
        yield from _result(result, report, paint)
    for because, number in skips.items():
        yield paint(f"    {number} skipped because {because}", "dim")


def _result(result: Result, report: Report, paint: Paint) -> Iterator[str]:
    check = result.check
    if result.waiver is not None:
        mark = paint("~", "yellow")
    else:
        mark = paint("!", "yellow") if result.severity is Severity.WARNING else paint("✗", "red")
    seen, *more = result.seen or (Seen(check.title),)
    yield f"  {mark} {paint(check.id, 'bold')} {sentence(seen)}"
    for another in more:
        yield f"    {' ' * len(check.id)} {sentence(another)}"
    if result.waiver is not None:
        waiver = result.waiver
        yield f"      waived by {waiver.owner} until {waiver.expires}: {waiver.reason}"
        return
    if result.outcome.expected:
        yield f"      expected: {result.outcome.expected}"
    yield f"      why:      {check.why}"
    for number, command in enumerate(fix_of(result)):
        label = "fix:     " if number == 0 else "         "
        yield f"      {label} {paint(_for_here(command, seen, report), 'cyan')}"


def sentence(seen: Seen) -> str:
    """The finding, where its value is set, and what that overrides."""
    text = seen.text
    if seen.place is not None:
        text += f" — set by {_short(seen.place)}" if seen.key else f" — {_short(seen.place)}"
    if seen.overriding:
        text += f", overriding {', '.join(map(_short, seen.overriding))}"
    return text


def _short(place: Location) -> str:
    return f"{place.source}:{place.line}" if place.line else place.source


def _for_here(command: str, seen: Seen, report: Report) -> str:
    """The command with FILE, PROFILE and KEY filled in."""
    command = command.replace("--profile PROFILE", f"--profile {report.loaded.profile}")
    if seen.key:
        command = command.replace(" KEY ", f" {seen.key} ")
    place = seen.place
    if not command.startswith("$EDITOR FILE"):
        return command
    if place is not None and place.line:
        return command.replace("FILE", f"+{place.line} {place.source}", 1)
    if place is not None and place.layer == "environment":
        command = f"unset {place.source}; {command}"
    return command.replace("FILE", report.loaded.file or "FILE", 1)


def _end(report: Report, paint: Paint) -> Iterable[str]:
    counts = summary(report)
    parts = [
        f"{counts['failed']} failed" if counts["failed"] else "",
        _plural(counts["warnings"], "warning"),
        f"{counts['waived']} waived" if counts["waived"] else "",
        f"{counts['skipped']} skipped" if counts["skipped"] else "",
        f"{counts['passed']} passed",
    ]
    style = "red" if counts["failed"] else "yellow" if counts["warnings"] else "green"
    yield paint(f"{counts['checks']} checks: {', '.join(part for part in parts if part)}", style)
    if counts["failed"]:
        yield "Correct the first finding and run it again; for details, `arqonbus preflight --explain ID`."


def _plural(number: int, noun: str) -> str:
    return "" if not number else f"{number} {noun}" + ("" if number == 1 else "s")


__all__ = ["Paint", "render", "sentence", "unpainted"]
