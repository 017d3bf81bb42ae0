"""The one rule for names of tenants, rooms and channels: 1-128 of `A-Za-z0-9._-`. Pure.

No separator of any key, subject or path can be part of a name, so none can be smuggled.
"""

from __future__ import annotations

MAX_LENGTH = 128

OWN_TENANT = "arqonbus.shield"  # the bus's own rooms; no token is of this tenant

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


def is_name(text: str) -> bool:
    """True for a valid name in an address."""
    return 0 < len(text) <= MAX_LENGTH and not text.strip(_ALPHABET)


__all__ = ["MAX_LENGTH", "OWN_TENANT", "is_name"]
