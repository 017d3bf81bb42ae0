"""Strength of secrets. Pure; messages never repeat any part of one."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

from arqonbus.config.settings import Settings

LEAST_BYTES = 32  # RFC 7518, 3.2: a key of HS256 is as long as its hash
LEAST_ENTROPY = 96.0  # bits; 32 random hexadecimal digits have some 110

_WELL_KNOWN = re.compile(
    r"change|secret|password|passw0rd|example|default|placeholder|todo|replace|your[-_]?|insecure|"
    r"12345|qwerty|test[-_]?key|dev[-_]?key|abcdef",
    re.IGNORECASE,
)


def is_well_known(text: str) -> bool:
    """True if it looks like a placeholder or a secret from an example."""
    return _WELL_KNOWN.search(text) is not None


def is_patterned(text: str) -> bool:
    """True if it repeats few characters or follows the alphabet."""
    return entropy_bits(text) < LEAST_ENTROPY or _is_walk(text)


def entropy_bits(text: str) -> float:
    """Shannon's entropy of the characters times their number: an upper bound, and low for what repeats."""
    if not text:
        return 0.0
    counts = Counter(text).values()
    per_character = -sum(n / len(text) * math.log2(n / len(text)) for n in counts)
    return per_character * len(text)


def _is_walk(text: str) -> bool:
    """True if neighbours are mostly neighbours in the alphabet, or the text repeats a short piece."""
    steps = [ord(after) - ord(before) for before, after in pairwise(text)]
    walking = sum(step in (-1, 0, 1) for step in steps)
    repeats = any(text == (text[:n] * len(text))[: len(text)] for n in range(1, len(text) // 2 + 1))
    return walking > len(steps) / 2 or repeats


def demand_verification(settings: Settings) -> None:
    """Raise ValueError unless services that must show a certificate can, and, outside dev, unless tokens are
    verified with keys that cannot be guessed.

    Preflight says the same with more words; this holds where preflight was bypassed, too.
    """
    tls = settings.server.tls
    if settings.auth.service_mtls and not (tls.client_ca_file and tls.cert_file):
        raise ValueError(
            "auth.service_mtls needs server.tls.cert_file, key_file and client_ca_file; set them"
        )
    if settings.environment == "dev":
        return
    jwt = settings.auth.jwt
    if jwt.skip_validation:
        raise ValueError("auth.jwt.skip_validation is for dev alone; remove it")
    if not (jwt.secret or jwt.public_keys or jwt.jwks_url):
        raise ValueError(
            "there is nothing to verify tokens with; set auth.jwt.secret, public_keys or jwks_url"
        )
    secrets = {"auth.jwt.secret": jwt.secret, "auth.jwt.previous_secret.value": jwt.previous_secret.value}
    for name, secret in secrets.items():
        value = secret.get_secret_value() if secret else None
        if value is None:
            continue
        if len(value.encode()) < LEAST_BYTES:
            raise ValueError(f"{name} is shorter than {LEAST_BYTES} bytes; make one: openssl rand -base64 48")
        if is_well_known(value) or is_patterned(value):
            raise ValueError(f"{name} can be guessed; make a random one: openssl rand -base64 48")


__all__ = [
    "LEAST_BYTES",
    "LEAST_ENTROPY",
    "demand_verification",
    "entropy_bits",
    "is_patterned",
    "is_well_known",
]
