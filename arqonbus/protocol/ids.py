"""Message ids: ULID and UUIDv7, made monotonic within this process and validated strictly.

Both begin with 48 bits of Unix milliseconds, so that ids sort by birth. Pure but for the clock and
the system's random source. Sources: ULID specification; RFC 9562, sections 5.7 and 6.2 (method 2).
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time

ULID_LENGTH = 26
UUID_LENGTH = 36

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_HEX = "0123456789abcdef"
_RANDOM_BITS = 80
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_MS_MASK = (1 << 48) - 1
_HEADROOM = 1 << 76  # a fresh random part starts below it, so that a millisecond never runs out
_STEP = 1 << 6  # a UUIDv7 has 74 of the 80 bits, so a smaller step could give the same one twice

_lock = threading.Lock()
_last_ms = 0
_last_random = 0


def _next_parts() -> tuple[int, int]:
    """Milliseconds and 80 bits that together are greater than every pair given before in this process."""
    global _last_ms, _last_random  # noqa: PLW0603  (the one piece of state that monotony needs)
    with _lock:
        now = time.time_ns() // 1_000_000
        if now > _last_ms:
            _last_ms = now
            _last_random = secrets.randbits(_RANDOM_BITS) % _HEADROOM
        else:  # same millisecond, or the clock was set back
            _last_random += _STEP + secrets.randbits(32)
        return _last_ms, _last_random & _RANDOM_MASK


def new_ulid() -> str:
    """A ULID of 26 upper-case Crockford characters, greater than every id made before in this process."""
    return _ulid(*_next_parts())


def ulid_after(earlier: str) -> str:
    """A new ULID that is greater than this one, even if its maker's clock was ahead. Empty is the least."""
    fresh = new_ulid()
    if fresh > earlier:
        return fresh
    value = 0
    for character in earlier:
        value = value << 5 | _CROCKFORD.index(character)
    value += 1
    return _ulid(value >> _RANDOM_BITS, value & _RANDOM_MASK)


def derived_ulid(born_ms: int, *parts: str | int) -> str:
    """Derive a ULID from these parts; equal parts give the same ULID."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return _ulid(born_ms & _MS_MASK, int.from_bytes(digest[:10]))


def _ulid(ms: int, random: int) -> str:
    value = (ms << _RANDOM_BITS) | random
    return "".join([_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5)])


def new_uuid7() -> str:
    """A lower-case UUIDv7, greater than every id made before in this process."""
    ms, random = _next_parts()
    top, rest = random >> 68, (random >> 6) & ((1 << 62) - 1)
    value = (ms << 80) | (0x7 << 76) | (top << 64) | (0b10 << 62) | rest
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_ulid(text: str) -> bool:
    """Canonical form only: upper case, no I L O U, at most 7ZZZZZZZZZZZZZZZZZZZZZZZZZ."""
    return len(text) == ULID_LENGTH and not text.strip(_CROCKFORD) and text[0] < "8"


def is_uuid7(text: str) -> bool:
    """Canonical form only: lower case, hyphens in place, version 7, variant 10."""
    return (
        len(text) == UUID_LENGTH
        and text[14] == "7"
        and text[19] in "89ab"
        and text[8] == text[13] == text[18] == text[23] == "-"
        and not text.replace("-", "").strip(_HEX)
        and text.count("-") == 4
    )


def is_message_id(text: str) -> bool:
    """True for a canonical ULID or UUIDv7."""
    return is_ulid(text) or is_uuid7(text)


def born_ms(message_id: str) -> int:
    """Unix milliseconds in a valid id. Raises ValueError for anything else."""
    if is_ulid(message_id):
        value = 0
        for character in message_id[:10]:
            value = value << 5 | _CROCKFORD.index(character)
        return value
    if is_uuid7(message_id):
        return int(message_id[:8] + message_id[9:13], 16)
    raise ValueError("not a ULID or UUIDv7")


__all__ = [
    "ULID_LENGTH",
    "UUID_LENGTH",
    "born_ms",
    "derived_ulid",
    "is_message_id",
    "is_ulid",
    "is_uuid7",
    "new_ulid",
    "new_uuid7",
    "ulid_after",
]
