"""Report as JUnit XML with one test case per check, for CI servers. Pure."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from arqonbus.preflight.model import Severity, Status
from arqonbus.preflight.registry import FAMILIES
from arqonbus.preflight.report.plain import fix_of
from arqonbus.preflight.report.tree import sentence
from arqonbus.preflight.runner import Report, Result


def render(report: Report) -> str:
    """Render the report. A warning is a passed case with output, because JUnit has no warnings."""
    root = ET.Element("testsuites", name=f"preflight {report.loaded.profile}")
    for family, about in FAMILIES.items():
        results = [result for result in report.results if result.check.family == family]
        if results:
            _suite(root, f"{family} {about}", results)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _suite(root: ET.Element, name: str, results: list[Result]) -> None:
    counts = {
        "tests": len(results),
        "failures": sum(r.blocks and r.outcome.status is Status.FAILED for r in results),
        "errors": sum(r.blocks and r.outcome.status is Status.ERRORED for r in results),
        "skipped": sum(r.outcome.status is Status.SKIPPED for r in results),
    }
    suite = ET.SubElement(root, "testsuite", {"name": name, **{key: str(n) for key, n in counts.items()}})
    for result in results:
        _case(suite, result)


def _case(suite: ET.Element, result: Result) -> None:
    check, outcome = result.check, result.outcome
    seconds = f"{(outcome.latency_ms or 0) / 1000:.3f}"
    case = ET.SubElement(
        suite, "testcase", classname=check.family, name=f"{check.id} {check.title}", time=seconds
    )
    text = _xml("\n".join([*map(sentence, result.seen), f"why: {check.why}", *fix_of(result)]))
    message = _xml("; ".join(seen.text for seen in result.seen))
    if outcome.status is Status.SKIPPED:
        ET.SubElement(case, "skipped", message=_xml(outcome.because))
    elif result.blocks:
        kind = "error" if outcome.status is Status.ERRORED else "failure"
        ET.SubElement(case, kind, message=message, type=result.severity.value).text = text
    elif result.waiver is not None:
        ET.SubElement(case, "system-out").text = f"waived until {result.waiver.expires}\n{text}"
    elif result.severity is Severity.WARNING and result.failed:
        ET.SubElement(case, "system-out").text = f"warning: {text}"


def _xml(text: str) -> str:
    """Remove characters that XML does not allow."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


__all__ = ["render"]
