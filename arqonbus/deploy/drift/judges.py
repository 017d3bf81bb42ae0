"""Comparison of a host's answers with the expectations. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import zip_longest

from arqonbus.deploy.drift.model import Judge

_SIZE = re.compile(r"(\d+)(kb|mb|gb)", re.IGNORECASE)
_UNITS = {"kb": 2**10, "mb": 2**20, "gb": 2**30}
NOTHING, MISSING = "nothing", "it is missing"


def exactly(expected: str) -> Judge:
    """The answer, without the white space around it."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        if answer.strip() != expected:
            yield expected or NOTHING, answer.strip() or NOTHING

    return judge


def same_text(expected: str) -> Judge:
    """A file; of all lines that differ the first is shown."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        if answer == expected:
            return
        for number, (ours, theirs) in enumerate(
            zip_longest(expected.splitlines(), answer.splitlines()), start=1
        ):
            if ours != theirs:
                yield f"line {number}: {_line(ours)}", f"line {number}: {_line(theirs)}"
                return
        yield "the line ends as rendered", "other line ends"

    return judge


def _line(line: str | None) -> str:
    return "the end of the file" if line is None else line.strip() or "an empty line"


def same_secret(digest: str) -> Judge:
    """The SHA-256 of a secret. It is not shown, and neither is what was found."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found = answer.split()[:1]
        if found != [digest]:
            yield (
                "the secret of this deployment",
                "another one" if re.fullmatch("[0-9a-f]{64}", "".join(found)) else "no secret",
            )

    return judge


def same_lines(expected: Collection[str], *, ignored: Collection[str] = ()) -> Judge:
    """A set of lines in any order: each that is missing, each that is too many."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found = {line.strip() for line in answer.splitlines()} - {"", *ignored}
        for missing in sorted(set(expected) - found):
            yield missing, MISSING
        for foreign in sorted(found - set(expected)):
            yield NOTHING, foreign

    return judge


def same_lines_by(key: Callable[[str], str], expected: Collection[str]) -> Judge:
    """The same; a line that is missing and one that is too many are one thing if they have one key."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found = {line.strip() for line in answer.splitlines()} - {""}
        missing = {key(line): line for line in expected if line not in found}
        foreign = {key(line): line for line in found if line not in expected}
        for each in sorted(missing.keys() | foreign.keys()):
            yield missing.get(each, NOTHING), foreign.get(each, MISSING)

    return judge


def same_values(expected: Mapping[str, str]) -> Judge:
    """Lines `name=value`; others are not judged."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found = values(answer)
        for name, value in expected.items():
            if _plain(found.get(name, NOTHING)) != _plain(value):
                yield f"{name} {value or NOTHING}", f"{name} {found.get(name, 'is missing') or NOTHING}"

    return judge


def at_most(limit: float, pattern: str) -> Judge:
    """A number in the answer."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        found = re.search(pattern, answer)
        if found is None or float(found[1]) > limit:
            yield f"{limit:g} at most", found[1] if found else answer.strip() or NOTHING

    return judge


def values(answer: str) -> dict[str, str]:
    """The lines `name=value` of an answer."""
    return dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)


def _plain(value: str) -> str:
    """A value as it compares: sizes in bytes, without quotes."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1].strip()
    size = _SIZE.fullmatch(value)
    return str(int(size[1]) * _UNITS[size[2].lower()]) if size else value


__all__ = [
    "MISSING",
    "NOTHING",
    "at_most",
    "exactly",
    "same_lines",
    "same_lines_by",
    "same_secret",
    "same_text",
    "same_values",
    "values",
]
