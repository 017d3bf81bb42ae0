"""Regular expressions in profiles: RE2 only, so that no text can make one slow. Pure.

RE2 matches in time linear in the text; it has no backreferences and no lookaround.
"""

from __future__ import annotations

from typing import Any

MAX_PATTERN = 1000
MAX_MEMORY = 1 << 20  # bytes per compiled pattern


def compile_linear(text: str) -> Any:
    """Compile a pattern. Raises ValueError if RE2 does not support it."""
    import re2  # imported only if a profile has patterns

    options = re2.Options()
    options.log_errors = False  # faults are reported by the exception
    options.max_mem = MAX_MEMORY
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it cannot be read"
        shown = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(
            f"is not a valid RE2 pattern ({shown.partition(':')[0]}); it has no lookaround and no "
            "backreferences"
        ) from None


def linear_pattern(text: str) -> str:
    """Validate a pattern for RE2 that does not match the empty text. Raises ValueError."""
    if not 0 < len(text) <= MAX_PATTERN:
        raise ValueError(f"is not a pattern of 1 to {MAX_PATTERN} characters")
    if compile_linear(text).search("") is not None:
        raise ValueError("matches the empty text, and so everything; require at least one character")
    return text


__all__ = ["MAX_PATTERN", "compile_linear", "linear_pattern"]
