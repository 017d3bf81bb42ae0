"""Regular expressions that a profile may hold: RE2 only, so that no text can make one slow. Pure.

RE2 matches in time linear in the text, whatever the pattern; it has no backreferences and no lookaround.
"""

from __future__ import annotations

from typing import Any

MAX_PATTERN = 1000
MAX_MEMORY = 1 << 20  # bytes that one compiled pattern may take


def compile_linear(text: str) -> Any:
    """The compiled pattern. Raises ValueError for one that RE2 does not take."""
    import re2  # a profile without patterns does not wait for it

    options = re2.Options()
    options.log_errors = False  # what is wrong with a pattern is said by whoever reads the error
    options.max_mem = MAX_MEMORY
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it cannot be read"
        shown = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(
            f"is not a pattern that RE2 reads ({shown.partition(':')[0]}); it has no lookaround and no "
            "backreferences"
        ) from None


def linear_pattern(text: str) -> str:
    """The text, if RE2 takes it and it does not match the empty text. Raises ValueError."""
    if not 0 < len(text) <= MAX_PATTERN:
        raise ValueError(f"is not a pattern of 1 to {MAX_PATTERN} characters")
    if compile_linear(text).search("") is not None:
        raise ValueError("matches the empty text, and so everything; ask for at least one character")
    return text


__all__ = ["MAX_PATTERN", "compile_linear", "linear_pattern"]
