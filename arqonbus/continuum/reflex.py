"""The Reflex boundary: what may cross it are references, never the memory itself. Pure.

Whatever a payload holds at any depth is looked at: keys that name a dump, values that are too large to be a
reference or a label, and bodies that stand inline where a reference belongs.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

FORBIDDEN_KEYS = frozenset({"raw_content", "episode_body", "embedding_vector", "full_state_dump"})
MAX_VALUE_BYTES = 65_536
MAX_DEPTH = 32
LONGEST_ARRAY_OF_NUMBERS = 32  # a longer one is an embedding, whatever its key says


@dataclass(frozen=True, slots=True)
class Boundary:
    """Limits of the boundary. `max_value_bytes` 0: no limit."""

    forbidden_keys: Set[str] = FORBIDDEN_KEYS
    max_value_bytes: int = MAX_VALUE_BYTES

    def faults(self, value: Any, path: str = "") -> Iterator[str]:
        """Every place that may not cross, as the end of a sentence that begins with its path."""
        yield from self._faults(value, path or "payload", 0)

    def _faults(self, value: Any, path: str, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH:
            yield f"{path} is deeper than {MAX_DEPTH} levels"
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key in self.forbidden_keys:
                    yield f"{path}.{key} is content; publish a reference to it"
                else:
                    yield from self._faults(inner, f"{path}.{key}", depth + 1)
        elif isinstance(value, (list, tuple)):
            if len(value) > LONGEST_ARRAY_OF_NUMBERS and all(
                isinstance(each, (int, float)) for each in value
            ):
                yield f"{path} is a vector of {len(value)} numbers; publish a reference to it"
                return
            for number, inner in enumerate(value):
                yield from self._faults(inner, f"{path}[{number}]", depth + 1)
        elif isinstance(value, str):
            yield from self._text_faults(value, path)

    def _text_faults(self, text: str, path: str) -> Iterator[str]:
        if text[:5].lower() == "data:":
            yield f"{path} is an inline body (data:); publish a reference to it"
        elif self.max_value_bytes and len(text.encode("utf-8", "surrogatepass")) > self.max_value_bytes:
            yield f"{path} is larger than {self.max_value_bytes} bytes; publish a reference to it"


__all__ = ["FORBIDDEN_KEYS", "MAX_DEPTH", "MAX_VALUE_BYTES", "Boundary"]
