"""Verify and mint JSON Web Tokens (RFC 7519, RFC 8725).

A header may carry nothing but alg, typ and kid, and which key may have signed follows from token_keys.
Refusals are sentences that never repeat any part of a token. Reads key files when it is made, and nothing
afterwards.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from joserfc import jws

from arqonbus.config.settings import Settings
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.names import OWN_TENANT, is_name
from arqonbus.protocol.wire_json import strict_reader
from arqonbus.shield.grants import EVERYTHING, NOTHING, Grant, Grants, grants_claim, parse_grants, role_grants
from arqonbus.shield.token_keys import (
    MAX_TOKEN_BYTES,
    MIN_SECRET_BYTES,
    AlgorithmRegistry,
    Key,
    TrustedKey,
    algorithm_of,
    fetched_keys,
    is_signed_by,
    pem_key,
    profile_keys,
    secret_key,
)

MAX_ROLES = 64
NEVER = 253_402_300_799  # the last second of the year 9999, which every date type can hold

Kind = Literal["human", "service"]
Role = Literal["user", "admin"]
_T = TypeVar("_T", bound=str)


@dataclass(frozen=True, slots=True)
class Identity:
    """The authenticated subject of a connection. Times are Unix seconds.

    `expires_at`: when the token ends, or the trust in the key that signed it; NEVER for neither. `claim`: the
    part of the grants that the token itself says, None if it says nothing; `roles` name the rest.
    """

    tenant: str
    subject: str
    kind: Kind
    role: Role
    grants: Grants
    expires_at: int
    token_id: str
    issued_at: int = 0
    token_end: int = NEVER
    key: str = ""
    claim: Grants | None = None
    roles: tuple[str, ...] = ()


class Verifier:
    """Verifies tokens for one profile. Raises ValueError when a key of the profile cannot be used."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        self._jwt = settings.auth.jwt
        self._require_exp = settings.auth.require_exp
        self._dev = settings.environment == "dev"
        # The loader refuses this setting outside dev; the second look costs nothing.
        self._skip_signature = self._dev and self._jwt.skip_validation
        self._now = now
        self._keys: Sequence[TrustedKey] = profile_keys(self._jwt)
        self._fetched: Sequence[TrustedKey] = ()
        self._role_grants = role_grants(settings.roles)
        self.on_unknown_key: Callable[[], None] = lambda: None  # a token names a kid that no key has

    def use_jwks(self, document: Any) -> int:
        """Add the keys of a fetched JWKS (RFC 7517) to those of the profile; return their number.

        Raises ValueError if it is no JWKS, and goes on with the keys of before.
        """
        self._fetched = fetched_keys(document, self._jwt.algorithms)
        return len(self._fetched)

    def drop_jwks(self) -> None:
        """Trust no fetched key any more."""
        self._fetched = ()

    def verify(self, token: str) -> Identity:
        """The identity of a token. Raises BusError: UNAUTHENTICATED, or EXPIRED when its time is over."""
        claims, key = self._claims(token)
        expires_at, issued_at = self._times(claims)
        self._addressee(claims)
        tenant = _text(claims, "tenant", 128)
        if not is_name(tenant):
            raise _refused("the claim tenant is not a name: 1 to 128 of A-Z a-z 0-9 . _ -")
        if tenant == OWN_TENANT:
            raise _refused("the claim tenant names what is the bus's own")
        role: Role = _choice(claims, "role", ("user", "admin"))
        claim, roles = _own_grants(claims), _roles(claims)
        return Identity(
            tenant=tenant,
            subject=_text(claims, "sub", 256),
            kind=_choice(claims, "kind", ("human", "service")),
            role=role,
            grants=self._grants(claim, roles, role),
            expires_at=_earlier(expires_at, key),
            token_id=_text(claims, "jti", 256) if "jti" in claims else "",
            issued_at=issued_at,
            token_end=expires_at,
            key=key.mark if key else "",
            claim=claim,
            roles=roles,
        )

    __call__ = verify

    def renewed(self, identity: Identity) -> Identity | None:
        """The identity of a connection under these keys and roles; None if its key is not trusted here."""
        key = next((key for key in (*self._keys, *self._fetched) if key.mark == identity.key), None)
        if key is None and not self._skip_signature:
            return None
        return replace(
            identity,
            grants=self._grants(identity.claim, identity.roles, identity.role),
            expires_at=_earlier(identity.token_end, key),
        )

    def _claims(self, token: str) -> tuple[dict[str, Any], TrustedKey | None]:
        if not token:
            raise _refused("there is no token")
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        parts = token.split(".") if token.isascii() else []
        if len(parts) != 3:
            raise _refused("the token is not a signed JWT")
        header = _json_object(parts[0], "header")
        if not set(header) <= {"alg", "typ", "kid"}:
            raise _refused("the token's header has parameters other than alg, typ and kid")
        if str(header.get("typ", "JWT")).lower() not in {"jwt", "at+jwt"}:
            raise _refused("the token is of another type than JWT")
        key = None if self._skip_signature else self._signer(token, header)
        return _json_object(parts[1], "payload"), key

    def _signer(self, token: str, header: Mapping[str, Any]) -> TrustedKey:
        """The key that signed the token."""
        algorithm, key_id = header.get("alg"), header.get("kid")
        # RFC 9864 names Ed25519 what RFC 8037 named EdDSA.
        family = "EdDSA" if algorithm == "Ed25519" else algorithm
        if family not in self._jwt.algorithms:
            raise _refused("the token is signed with an algorithm that is not accepted here")
        now = self._now()
        candidates = [
            key for key in (*self._keys, *self._fetched) if key.algorithm == family and now < key.valid_until
        ]
        if key_id is not None and not isinstance(key_id, str):
            raise _refused("the token's kid is not text")
        if key_id is not None:
            if all(key.key_id != key_id for key in candidates):
                self.on_unknown_key()
            named = [key for key in candidates if key.key_id == key_id]
            candidates = named or [key for key in candidates if key.key_id is None]
        if not candidates:
            raise _refused("no key that this bus trusts fits the token")
        registry = AlgorithmRegistry(algorithms=[str(algorithm)])
        for key in candidates:
            if is_signed_by(token, key.key, registry):
                return key
        raise _refused("the token's signature is not by a key that this bus trusts")

    def _times(self, claims: Mapping[str, Any]) -> tuple[int, int]:
        """Expiry and issue time of the token; 0 for a missing claim."""
        now, leeway = self._now(), self._jwt.leeway
        expires = _moment(claims, "exp")
        if expires is None and self._require_exp:
            raise _refused("the claim exp is missing")
        not_before = _moment(claims, "nbf")
        if not_before is not None and now + leeway < not_before:
            raise _refused("the token is not valid yet")
        issued = _moment(claims, "iat")
        if issued is not None and now + leeway < issued:
            raise _refused("the token was issued in the future")
        if expires is not None and now - leeway >= expires:
            raise BusError(Code.EXPIRED, "The token is past its end; get a new one.")
        longest = self._jwt.max_lifetime
        if longest:
            if expires is None or issued is None:
                raise _refused(
                    "the claims iat and exp are both needed, because this bus bounds a token's life"
                )
            if expires - issued > longest:
                raise _refused(f"the token lives longer than the {longest:g} s that this bus accepts")
        return NEVER if expires is None else min(int(expires), NEVER), int(issued or 0)

    def _addressee(self, claims: Mapping[str, Any]) -> None:
        if self._jwt.issuer is not None and claims.get("iss") != self._jwt.issuer:
            raise _refused("the claim iss is not the issuer that this bus trusts")
        if self._jwt.audience is not None:
            audience = claims.get("aud")
            if self._jwt.audience not in (audience if isinstance(audience, list) else [audience]):
                raise _refused("the claim aud does not name this bus")

    def _grants(self, claim: Grants | None, roles: Sequence[str], role: Role) -> Grants:
        if role == "admin":
            return EVERYTHING
        if claim is None and not roles:
            return EVERYTHING if self._dev else NOTHING
        rules = list(claim.rules) if claim else []
        for name in roles:  # one that the profile does not know grants nothing
            rules += self._role_grants.get(name, ())
        return Grants(tuple(rules))


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims of a token to mint. `ttl_seconds` counts from now."""

    tenant: str
    subject: str
    ttl_seconds: float
    kind: Kind = "human"
    role: Role = "user"
    grants: Sequence[Grant] | None = None
    token_id: str = ""
    roles: Sequence[str] = ()


def mint(
    settings: Settings,
    claims: Claims,
    *,
    private_pem: str | None = None,
    now: Callable[[], float] = time.time,
) -> str:
    """A signed token: by the private key if one is given, else by auth.jwt.secret.

    Raises ValueError with a sentence when there is no usable key, or a claim would not be accepted.
    """
    if not is_name(claims.tenant):
        raise ValueError("the tenant is not a name; write 1 to 128 of A-Z a-z 0-9 . _ -")
    if not 0 < len(claims.subject) <= 256 or not claims.subject.isprintable():
        raise ValueError("the subject is not 1 to 256 printable characters; name who the token is for")
    longest = settings.auth.jwt.max_lifetime
    if longest and claims.ttl_seconds > longest:
        raise ValueError(f"auth.jwt.max_lifetime is {longest:g} s; give the token a shorter life")
    secret = settings.auth.jwt.secret
    if private_pem is not None:
        key: Key = pem_key(private_pem, "the private key")
    elif secret is not None:
        key = secret_key(secret.get_secret_value(), "auth.jwt.secret")
    else:
        raise ValueError("the profile has no auth.jwt.secret; name a private key with --key")
    if not key.is_private:
        raise ValueError("the private key is a public one; name the file that signs")
    algorithm = algorithm_of(key)
    if algorithm not in settings.auth.jwt.algorithms:
        raise ValueError(
            f"{algorithm} is not in auth.jwt.algorithms of the profile, so no bus would accept it"
        )
    issued = now()
    payload: dict[str, Any] = {
        "sub": claims.subject,
        "tenant": claims.tenant,
        "kind": claims.kind,
        "role": claims.role,
        "iat": int(issued),
        "exp": int(issued) + math.ceil(claims.ttl_seconds),
    }
    if claims.grants is not None:
        payload["grants"] = grants_claim(claims.grants)
    if claims.roles:
        payload["roles"] = list(claims.roles)
    if claims.token_id:
        payload["jti"] = claims.token_id
    for name, value in (("iss", settings.auth.jwt.issuer), ("aud", settings.auth.jwt.audience)):
        if value is not None:
            payload[name] = value
    body = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
    token = jws.serialize_compact(
        {"alg": algorithm, "typ": "JWT"}, body, key, registry=AlgorithmRegistry(algorithms=[algorithm])
    )
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"the token would be longer than {MAX_TOKEN_BYTES} bytes; give it fewer grants")
    return token


_read = strict_reader()


def _json_object(part: str, name: str) -> dict[str, Any]:
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        value = _read(raw.decode("utf-8"))
    except (ValueError, binascii.Error, RecursionError):
        # Not chained: the cause repeats the text.
        raise _refused(f"the token's {name} is not a JSON object in base64url") from None
    if not isinstance(value, dict):
        raise _refused(f"the token's {name} is not a JSON object in base64url")
    return value


def _text(claims: Mapping[str, Any], name: str, longest: int) -> str:
    value = claims.get(name)
    if value is None:
        raise _refused(f"the claim {name} is missing")
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise _refused(f"the claim {name} is not text of 1 to {longest} printable characters")
    return value


def _own_grants(claims: Mapping[str, Any]) -> Grants | None:
    try:
        return parse_grants(claims["grants"]) if "grants" in claims else None
    except ValueError as error:
        raise _refused(f"the claim grants {error}") from None


def _roles(claims: Mapping[str, Any]) -> tuple[str, ...]:
    roles = claims.get("roles", [])
    if not isinstance(roles, list) or len(roles) > MAX_ROLES:
        raise _refused(f"the claim roles is not a list of at most {MAX_ROLES} names")
    if not all(isinstance(name, str) and 0 < len(name) <= 128 for name in roles):
        raise _refused("the claim roles has an entry that is not a name")
    return tuple(roles)


def _earlier(token_end: int, key: TrustedKey | None) -> int:
    """The end of the token, or of the trust in its key if that is sooner."""
    return token_end if key is None else int(min(token_end, key.valid_until))


def _choice(claims: Mapping[str, Any], name: str, choices: tuple[_T, ...]) -> _T:
    value = claims.get(name, choices[0])
    for choice in choices:
        if value == choice:
            return choice
    raise _refused(f"the claim {name} is none of {', '.join(choices)}")


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
        raise _refused(f"the claim {name} is not a number of seconds since 1970")
    return float(value)


def _refused(reason: str) -> BusError:
    return BusError(Code.UNAUTHENTICATED, f"{reason[:1].upper()}{reason[1:]}.")


__all__ = [
    "MAX_TOKEN_BYTES",
    "MIN_SECRET_BYTES",
    "NEVER",
    "Claims",
    "Identity",
    "Kind",
    "Role",
    "Verifier",
    "mint",
]
