"""Names of places in a message for its sender: short, printable, and without the value."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_PART, LONGEST_PLACE = 64, 512


def shown(part: str | int) -> str:
    """A key or an index of the message's own, safe to repeat."""
    return "".join(c if c.isprintable() else "?" for c in str(part)[:LONGEST_PART])


def place_in_payload(path: Iterable[str | int]) -> str:
    """`payload.items.0.card`."""
    return ".".join(("payload", *map(shown, path)))[:LONGEST_PLACE]


__all__ = ["place_in_payload", "shown"]
