"""Aligned columns and colours for people. Colours only on a terminal, and never with NO_COLOR."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Literal, TextIO

Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def coloured(stream: TextIO | None = None) -> bool:
    """Return whether the stream (default: standard output) shows colours."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Style, stream: TextIO | None = None) -> str:
    """The text in a style, if the stream shows styles."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if coloured(stream) else text


def printable(text: str) -> str:
    """The text with control characters escaped, so that data cannot control the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, stream: TextIO | None = None
) -> None:
    """Print a table; columns of numbers are right-aligned."""
    stream = stream or sys.stdout
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headers, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        for index in range(len(headers))
    ]
    print(styled(_line(headers, widths, right), "bold", stream), file=stream)
    for shown in cells:
        print(_line(shown, widths, right), file=stream)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    return "  ".join(
        cell.rjust(width) if numeric else cell.ljust(width)
        for cell, width, numeric in zip(cells, widths, right, strict=True)
    ).rstrip()


__all__ = ["Style", "coloured", "print_table", "printable", "styled"]
