"""Bounded reading of regular files. The checked file is the one that is read.

A pipe, a device or a directory is an error and never blocks.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


class NotRegular(Exception):
    """The path is not a regular file."""


@dataclass(frozen=True, slots=True, repr=False)
class Content:
    """The bytes of a file, at most one more than the limit, and its permission bits."""

    raw: bytes
    mode: int


def read_regular(path: Path, limit: int, *, follow_links: bool) -> Content:
    """Read a file. Raises OSError or NotRegular. More than `limit` bytes mean that the file is larger."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    handle = os.open(path, flags)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegular
        with os.fdopen(handle, "rb", closefd=False) as stream:
            return Content(stream.read(limit + 1), stat.S_IMODE(status.st_mode))
    finally:
        os.close(handle)


__all__ = ["Content", "NotRegular", "read_regular"]
