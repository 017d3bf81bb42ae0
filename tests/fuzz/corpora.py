"""The inputs that a fuzzer found worth keeping: an archive per target, each input for code of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

FOLDER = Path(__file__).parent / "corpora"


def kept(target: str) -> Sequence[bytes]:
    """All inputs of a target, in the order of their names."""
    with ZipFile(FOLDER / f"{target}.zip") as archive:
        return [archive.read(name) for name in sorted(archive.namelist())]


__all__ = ["FOLDER", "kept"]
