"""Runs one target under a coverage-guided fuzzer, for as long as the options of libFuzzer say."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tests.fuzz.corpora import kept

WATCHED = ["arqonbus", "yaml"]  # whose branches guide the fuzzer; to watch everything takes minutes to begin


def watched() -> AbstractContextManager[Any]:
    """What is imported in here is watched, if there is a fuzzer to watch it."""
    try:
        import atheris
    except ImportError:
        return nullcontext()
    instrumented: AbstractContextManager[Any] = atheris.instrument_imports(include=WATCHED)
    return instrumented


def fuzz(target: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """Start from the seeds and from what was kept; what breaks a promise is written to the current folder.

    A folder among the options is where the fuzzer keeps what it finds, for the next time.
    """
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; install the dependency group fuzz, or run pytest tests/fuzz")
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate([*seeds, *kept(target.__name__)]):
            (Path(folder) / f"{number:04}").write_bytes(data)
        atheris.Setup([*sys.argv, folder], target)
        atheris.Fuzz()
