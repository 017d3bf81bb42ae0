"""Fingerprints of secrets, to detect a shared secret without revealing it. Pure.

Slow on purpose: receipts contain fingerprints, and a weak secret could otherwise be guessed from one.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

_SALT = b"arqonbus secret of tokens"


@lru_cache(maxsize=8)
def fingerprint(secret: str) -> str:
    """A one-way fingerprint; the same secret gives the same text."""
    return hashlib.scrypt(secret.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=16).hex()


__all__ = ["fingerprint"]
