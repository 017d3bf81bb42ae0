"""The keys that tokens are signed with: of a profile, of a fetched set, and the one algorithm of each.

An algorithm is bound to the kind of a key, so that a public key can never be taken for a shared secret.
Reads key files when asked to; refusals never repeat any part of a key or a token.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from arqonbus.config.access import Jwt, PublicKey

MAX_TOKEN_BYTES = 8192
MIN_SECRET_BYTES = 32  # RFC 7518, 3.2: a key of HS256 is no shorter than its hash
MAX_FETCHED_KEYS = 64

Key = OctKey | RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key, the one algorithm that it serves, and until when (Unix seconds; infinity: without end).

    `mark` tells keys apart: of a shared secret it is a hash, which is never shown either.
    """

    algorithm: str
    key: Key
    key_id: str | None = None
    valid_until: float = math.inf
    mark: str = field(init=False)

    def __post_init__(self) -> None:
        raw = self.key.raw_value if isinstance(self.key, OctKey) else self.key.as_pem(private=False)
        object.__setattr__(self, "mark", hashlib.sha256(raw).hexdigest())


class AlgorithmRegistry(jws.JWSRegistry):
    """Only the algorithms given; joserfc's own would warn on every EdDSA token (RFC 9864 renames it)."""

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise ValueError("algorithm is not allowed")
        return self.algorithms[name]


def fetched_keys(document: Any, algorithms: Sequence[str]) -> list[TrustedKey]:
    """The keys of a JWKS (RFC 7517) that serve one of the algorithms. Raises ValueError if it is no JWKS.

    Shared secrets, private keys and keys of other kinds in it are passed over.
    """
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list) or len(members) > MAX_FETCHED_KEYS:
        raise ValueError("the JWKS is not a set of keys that can be read")
    found = []
    for member in members:
        try:
            # One by one: a key of a kind that this library does not know spoils none of the others.
            key = KeySet.import_key_set({"keys": [member]}).keys[0]
            usable = isinstance(key, (RSAKey, ECKey, OKPKey)) and not key.is_private
            if not usable or key.as_dict(private=False).get("use") == "enc":
                continue
            if isinstance(key, RSAKey) and key.raw_value.key_size < 2048:
                continue
            algorithm = algorithm_of(key)
            declared = {"Ed25519": "EdDSA"}.get(str(member.get("alg")), member.get("alg"))
            if declared not in (None, algorithm):
                continue
            found.append(TrustedKey(algorithm, key, key.kid))
        except (JoseError, ValueError, KeyError, TypeError, AttributeError):
            continue
    if members and not found:
        # Nothing of the document is repeated.
        raise ValueError("the JWKS holds no RSA, P-256 or Ed25519 key that can be read")
    return [key for key in found if key.algorithm in algorithms]


def profile_keys(jwt: Jwt) -> list[TrustedKey]:
    keys: list[TrustedKey] = []
    if jwt.secret is not None:
        keys.append(TrustedKey("HS256", secret_key(jwt.secret.get_secret_value(), "auth.jwt.secret")))
    previous = jwt.previous_secret
    if previous.value is not None and previous.valid_until is not None:
        key = secret_key(previous.value.get_secret_value(), "auth.jwt.previous_secret.value")
        keys.append(TrustedKey("HS256", key, valid_until=previous.valid_until.timestamp()))
    for index, declared in enumerate(jwt.public_keys):
        key_of = f"auth.jwt.public_keys[{index}]"
        trusted = pem_key(_pem_text(declared, key_of), key_of)
        if trusted.is_private:
            raise ValueError(f"{key_of} is a private key; put the public one there")
        keys.append(TrustedKey(algorithm_of(trusted), trusted, declared.key_id))
    return keys


def _pem_text(declared: PublicKey, name: str) -> str:
    if declared.file is None:
        return declared.pem or ""
    try:
        return declared.file.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"{name} names a file that cannot be read ({error.strerror}); correct it") from error
    except UnicodeDecodeError:
        raise ValueError(f"{name} names a file that is not PEM text; write the key in PEM") from None


def secret_key(secret: str, name: str) -> OctKey:
    if "-----BEGIN" in secret:
        raise ValueError(f"{name} is a PEM key and not a shared secret; put it into auth.jwt.public_keys")
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ValueError(
            f"{name} is shorter than {MIN_SECRET_BYTES} bytes; make one: openssl rand -base64 48"
        )
    return OctKey.import_key(secret.encode())


def pem_key(pem: str, name: str) -> RSAKey | ECKey | OKPKey:
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", SecurityWarning)
                key = kind.import_key(pem)
            algorithm_of(key)
        except SecurityWarning:
            raise ValueError(f"{name} is an RSA key of fewer than 2048 bits; make a longer one") from None
        except (JoseError, ValueError, TypeError):
            # A key of another kind, or none; the sentence below says which are read.
            continue
        return key
    raise ValueError(f"{name} is not an RSA, P-256 or Ed25519 key in unencrypted PEM; write one of these")


def algorithm_of(key: object) -> str:
    """The one algorithm that a key serves. Raises ValueError for a key of a kind that is not used."""
    match key:
        case OctKey():
            return "HS256"
        case RSAKey():
            return "RS256"
        case ECKey() if key.curve_name == "P-256":
            return "ES256"
        case OKPKey() if key.curve_name == "Ed25519":
            return "EdDSA"
    raise ValueError("the key is of a kind that is not used here")


def is_signed_by(token: str, key: Key, registry: AlgorithmRegistry) -> bool:
    registry.max_header_length = registry.max_payload_length = MAX_TOKEN_BYTES
    try:
        jws.deserialize_compact(token, key, registry=registry)
    except (JoseError, ValueError, TypeError, KeyError):
        # What joserfc says could repeat the token; that it did not verify is all that matters.
        return False
    return True


__all__ = [
    "MAX_TOKEN_BYTES",
    "MIN_SECRET_BYTES",
    "AlgorithmRegistry",
    "Key",
    "TrustedKey",
    "algorithm_of",
    "fetched_keys",
    "is_signed_by",
    "pem_key",
    "profile_keys",
    "secret_key",
]
