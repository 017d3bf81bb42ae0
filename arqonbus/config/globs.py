"""Patterns in which `*` matches any characters, including dots.

Pure. Matching takes linear time: the fixed pieces are searched from left to right, and the leftmost place of
each is always correct. No regular expression, so no backtracking.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NAME_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Glob:
    """A compiled pattern."""

    pattern: str
    _pieces: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pieces", tuple(self.pattern.split("*")))

    def matches(self, name: str) -> bool:
        first, *rest = self._pieces
        if not rest:
            return name == first
        last = rest.pop()
        if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
            return False
        at, end = len(first), len(name) - len(last)
        for piece in rest:
            at = name.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True


def name_pattern(text: str) -> str:
    """Validate a pattern of room names. Raises ValueError for one that no name can match."""
    if not _NAME_PATTERN.fullmatch(text):
        raise ValueError(
            "is not a pattern of names; write 1 to 128 of A-Z a-z 0-9 . _ - and * (any characters)"
        )
    return text


__all__ = ["Glob", "name_pattern"]
