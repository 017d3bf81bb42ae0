"""Report as JSON: stable keys, and the same bytes for the same facts. Pure."""

from __future__ import annotations

import json

from arqonbus.preflight.report.plain import plain_report
from arqonbus.preflight.runner import Report


def render(report: Report) -> str:
    """Render the report, with a final newline."""
    return json.dumps(plain_report(report), indent=2, ensure_ascii=False) + "\n"


__all__ = ["render"]
