"""Forms of secrets: those that detect-secrets knows, and text too random to be anything else.

The expressions are those of the detectors, read when a policy is made, and run by RE2. Lookarounds, which RE2
does not have, stand at the ends of some; there a word boundary says the same for what a secret is made of.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from arqonbus.config.patterns import compile_linear

SHORTEST = 20  # characters of a text that is judged by its randomness

# Too common in messages to be taken for a secret, and judged by nothing but their form.
_NOT_SECRETS = frozenset({"Public IP (ipv4)"})
_WEIGHTS = (0.0, *(count * math.log2(count) for count in range(1, 256)))
_TOKEN = re.compile(rf"[A-Za-z0-9+/_=-]{{{SHORTEST},}}")


@lru_cache(maxsize=1)
def secret_patterns() -> tuple[tuple[str, str], ...]:
    """(name, RE2 expression) of every form that can be told by an expression alone."""
    return tuple(_patterns())


def _patterns() -> Iterator[tuple[str, str]]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    detectors: dict[str, Any] = get_mapping_from_secret_type_to_class()
    for secret_type, detector in sorted(detectors.items()):
        if secret_type in _NOT_SECRETS or not hasattr(detector, "denylist"):
            continue
        name = re.sub(r"[^a-z0-9]+", "-", secret_type.lower()).strip("-")
        for expression in detector().denylist:
            text = expression.pattern.replace(r"(?!\w)", r"\b")
            text = f"(?i){text}" if expression.flags & re.IGNORECASE else text
            try:
                compile_linear(text)
            except ValueError:  # context around a secret, which its own form does not need
                continue
            yield name, text


def entropy(text: str) -> float:
    """Shannon entropy in bits per character."""
    size = len(text)
    counts = Counter(text).values()
    if max(counts, default=0) >= len(_WEIGHTS):
        return -sum(count / size * math.log2(count / size) for count in counts)
    return math.log2(size) - sum(map(_WEIGHTS.__getitem__, counts)) / size if size else 0.0


def random_text(text: str, bits: float) -> str | None:
    """The first run of at least SHORTEST characters of base64 with so many bits per character."""
    return next((match[0] for match in _random_places(text, bits)), None)


def without_random_text(text: str, bits: float, instead: str, most: int) -> str | None:
    """The text with every such run replaced; None if there are more than `most`. One pass over the text."""
    pieces: list[str] = []
    end = 0
    for match in _random_places(text, bits):
        if len(pieces) == most:
            return None
        pieces.append(text[end : match.start()])
        end = match.end()
    return instead.join([*pieces, text[end:]])


def _random_places(text: str, bits: float) -> Iterator[re.Match[str]]:
    fewest = 2**bits  # a text of fewer different characters cannot have as many bits
    for match in _TOKEN.finditer(text):
        token = match[0]
        if len(set(token)) >= fewest and entropy(token) >= bits:
            yield match


__all__ = ["SHORTEST", "entropy", "random_text", "secret_patterns", "without_random_text"]
