"""A pattern of names in which `*` stands for any run of characters, dots included.

Pure. Matching takes time linear in the name: the fixed pieces are searched from left to right, and the
leftmost place of each is always a right one. No regular expression, so nothing can backtrack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Glob:
    """A compiled pattern. Raises ValueError for one that no valid name could match."""

    pattern: str
    _pieces: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _PATTERN.fullmatch(self.pattern):
            raise ValueError(
                "is not a pattern of names; write 1 to 128 of A-Z a-z 0-9 . _ - and * (any characters)"
            )
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


__all__ = ["Glob"]
