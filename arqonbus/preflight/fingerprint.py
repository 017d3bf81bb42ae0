"""A fingerprint of a secret, to see whether two environments share one without telling either. Pure.

Slow on purpose: a fingerprint lies in a receipt, where a weak secret could otherwise be guessed from it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

_SALT = b"arqonbus secret of tokens"


@lru_cache(maxsize=8)
def fingerprint(secret: str) -> str:
    """The same text for the same secret, and no way back."""
    return hashlib.scrypt(secret.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=16).hex()


__all__ = ["fingerprint"]
