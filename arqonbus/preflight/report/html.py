"""Report as one self-contained HTML page, to attach to a ticket. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from arqonbus.preflight.model import Severity, Status
from arqonbus.preflight.registry import FAMILIES
from arqonbus.preflight.report.plain import fix_of, summary
from arqonbus.preflight.report.tree import sentence
from arqonbus.preflight.runner import Report, Result

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto; white-space: pre-wrap }
article { border-left: .3rem solid #b00020; padding-left: 1rem; margin: 1.5rem 0 }
article.warning { border-color: #b58900 } article.waived { border-color: #888 }
h3 { margin: 0 } code { font-size: .9em } .quiet { color: #555 }
@media (prefers-color-scheme: dark) { body { background: #111; color: #eee }
  pre { background: #222 } .quiet { color: #aaa } }
"""


def render(report: Report) -> str:
    """The page."""
    loaded, counts = report.loaded, summary(report)
    title = f"Preflight of {escape(loaded.profile)}, judged as {loaded.environment}"
    numbers = ", ".join(f"{number} {name}" for name, number in counts.items())
    body = "\n".join(line for family in FAMILIES for line in _family(report, family))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f'<p>{numbers}</p>\n<p class="quiet">digest <code>{escape(loaded.digest)}</code></p>\n'
        f"{body}\n</body>\n</html>\n"
    )


def _family(report: Report, family: str) -> Iterator[str]:
    results = [result for result in report.results if result.check.family == family]
    if not results:
        return
    passed = sum(result.outcome.status is Status.PASSED for result in results)
    yield f"<h2>{family} {escape(FAMILIES[family])}: {passed} of {len(results)} passed</h2>"
    for result in results:
        if result.outcome.status in (Status.FAILED, Status.ERRORED):
            yield from _result(result)
    skips = {r.outcome.because for r in results if r.outcome.status is Status.SKIPPED}
    for because in sorted(skips):
        yield f'<p class="quiet">skipped because {escape(because)}</p>'


def _result(result: Result) -> Iterator[str]:
    kind = "waived" if result.waiver else "warning" if result.severity is Severity.WARNING else "failed"
    yield f'<article class="{kind}">'
    yield f"<h3>{result.check.id} {escape(result.check.title)}</h3>"
    for seen in result.seen:
        yield f"<p>{escape(sentence(seen))}</p>"
    if result.waiver is not None:
        waiver = result.waiver
        yield f"<p>Waived by {escape(waiver.owner)} until {waiver.expires}: {escape(waiver.reason)}</p>"
    yield f'<p class="quiet">{escape(result.check.why)}</p>'
    yield f"<pre>{escape(chr(10).join(fix_of(result)))}</pre>"
    yield "</article>"


__all__ = ["render"]
