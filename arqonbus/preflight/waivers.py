"""Waivers: approved exceptions in `waivers.yaml` beside a profile, and their use in a run.

Reads one file. A waiver names a check, a reason, an owner and an expiry date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from arqonbus.config import Location
from arqonbus.config.document import MAX_BYTES, parse_inline
from arqonbus.config.regular_file import NotRegular, read_regular

KEYS = ("id", "reason", "owner", "expires", "scope")
ENVIRONMENTS = ("dev", "staging", "prod")


@dataclass(frozen=True, slots=True)
class Waiver:
    """One waiver. `scope` limits it to an environment or a setting; empty: no limit."""

    id: str
    reason: str
    owner: str
    expires: date
    scope: str
    place: Location

    @property
    def ends_at(self) -> float:
        """The time at which it expires, in Unix seconds."""
        return datetime.combine(self.expires, time.max, UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault in the file or an entry: a sentence without its full stop, and the location."""

    text: str
    place: Location


@dataclass(frozen=True, slots=True)
class Waivers:
    """The valid entries, and the faults of the others."""

    entries: tuple[Waiver, ...] = ()
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """Use of the waivers in a run. `used`: waivers that excused a failed check. `undecided`: ids of skipped
    checks, for which it is unknown whether a waiver is needed."""

    waivers: Waivers
    used: frozenset[Waiver] = frozenset()
    undecided: frozenset[str] = frozenset()


def read_waivers(path: Path, shown: str) -> Waivers:
    """Read the waivers of a file; without a file, there are none."""
    place = Location("waivers", shown)
    try:
        content = read_regular(path, MAX_BYTES, follow_links=True)
        text = content.raw.decode("utf-8-sig")
    except FileNotFoundError:
        return Waivers()
    except NotRegular:
        return Waivers((), (Trouble("is not a regular file", place),))
    except OSError as error:
        return Waivers((), (Trouble(f"cannot be read ({error.strerror})", place),))
    except UnicodeDecodeError:
        return Waivers((), (Trouble("is not UTF-8 text", place),))
    return parse_waivers(text, place)


def parse_waivers(text: str, place: Location) -> Waivers:
    """Parse waivers: a list of mappings, or such a list under the key `waivers`."""
    if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
        return Waivers()
    try:
        data = parse_inline(text) if len(text) <= MAX_BYTES else None
    except ValueError as error:
        return Waivers((), (Trouble(f"cannot be read: {error}", place),))
    if isinstance(data, dict) and set(data) == {"waivers"}:
        data = data["waivers"]
    if not isinstance(data, list):
        return Waivers((), (Trouble("does not contain a list; write each entry after a dash", place),))
    lines = _entry_lines(text)
    entries: list[Waiver] = []
    troubles: list[Trouble] = []
    for number, item in enumerate(data):
        line = lines[number] if number < len(lines) else 0
        here = Location(place.layer, place.source, line, 1 if line else 0)
        problem = _problem(item)
        if problem:
            troubles.append(Trouble(f"entry {number + 1} {problem}", here))
        else:
            entries.append(_waiver(item, here))
    return Waivers(tuple(entries), tuple(troubles))


def _entry_lines(text: str) -> Sequence[int]:
    """Numbers of the lines that begin an entry: a dash at the indentation of the first one."""
    dashed = [
        (number, len(line) - len(line.lstrip()))
        for number, line in enumerate(text.splitlines(), 1)
        if line.lstrip().startswith("- ")
    ]
    return [number for number, indent in dashed if indent == dashed[0][1]]


def _problem(item: Any) -> str:
    if not isinstance(item, Mapping):
        return "is not a mapping; write id, reason, owner and expires"
    unknown = sorted(set(map(str, item)) - set(KEYS))
    if unknown:
        return f"has the unknown key {unknown[0]}; allowed are {', '.join(KEYS)}"
    for key in ("id", "reason", "owner", "expires"):
        if not isinstance(item.get(key), str) or not item[key].strip():
            return f"has no {key}; add it as text"
    if not isinstance(item.get("scope", ""), str):
        return "has a scope that is not text; write an environment or the key of a setting"
    try:
        date.fromisoformat(item["expires"])
    except ValueError:
        return "has an invalid expires; write a date such as 2030-01-31"
    return ""


def _waiver(item: Mapping[str, Any], place: Location) -> Waiver:
    return Waiver(
        item["id"].strip().upper(),
        item["reason"].strip(),
        item["owner"].strip(),
        date.fromisoformat(item["expires"]),
        item.get("scope", "").strip(),
        place,
    )


def find_waiver(
    waivers: Waivers, check_id: str, environment: str, keys: Sequence[str], now: float
) -> Waiver | None:
    """The waiver that applies to a failed check of these settings."""
    for waiver in waivers.entries:
        if waiver.id != check_id or waiver.ends_at <= now:
            continue
        scope = waiver.scope
        if scope in ("", environment) or (scope not in ENVIRONMENTS and scope in keys):
            return waiver
    return None


__all__ = ["Ledger", "Trouble", "Waiver", "Waivers", "find_waiver", "parse_waivers", "read_waivers"]
