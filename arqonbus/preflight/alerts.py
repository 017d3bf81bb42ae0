"""The alerts in the rules beside the profiles, and whether their runbooks exist. Reads files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arqonbus.config.document import MAX_BYTES, parse_inline
from arqonbus.config.regular_file import NotRegular, read_regular
from arqonbus.preflight.facts import AlertFact


def alerts_below(root: Path) -> tuple[AlertFact, ...] | None:
    """The alerts in `observability/` of a directory; None if it does not exist."""
    rules = root / "observability"
    if not rules.is_dir():
        return None
    return tuple(_alerts(root, sorted([*rules.rglob("*.yml"), *rules.rglob("*.yaml")])))


def _alerts(root: Path, files: list[Path]) -> Iterator[AlertFact]:
    for file in files:
        for rule in _rules(file):
            name = rule.get("alert")
            annotations = rule.get("annotations")
            if not isinstance(name, str):
                continue
            url = str(annotations.get("runbook_url", "")) if isinstance(annotations, dict) else ""
            shown = url.partition("runbooks/")[2]
            path = root / "runbooks" / shown if shown else root / "runbooks/alerts" / f"{name}.md"
            exists = bool(url) and path.is_file()
            yield AlertFact(name=name, file=str(file.relative_to(root)), runbook=url, exists=exists)


def _rules(file: Path) -> Iterator[dict[str, Any]]:
    try:
        text = read_regular(file, MAX_BYTES, follow_links=True).raw.decode("utf-8")
        data = parse_inline(text)
    except (OSError, NotRegular, ValueError):
        return  # promtool reports it; only the alerts matter here
    groups = data.get("groups") if isinstance(data, dict) else None
    for group in groups if isinstance(groups, list) else ():
        rules = group.get("rules") if isinstance(group, dict) else None
        yield from (rule for rule in (rules if isinstance(rules, list) else ()) if isinstance(rule, dict))


__all__ = ["alerts_below"]
