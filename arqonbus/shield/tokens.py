"""Who a token says that somebody is: verification and minting of JSON Web Tokens (RFC 7519, 8725).

An algorithm is bound to the kind of a key, so that a public key can never be taken for a shared secret,
and a header may carry nothing but alg, typ and kid. Refusals are sentences that never repeat any part
of a token. Reads key files when it is made, and nothing afterwards.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from arqonbus.config.access import Jwt, PublicKey
from arqonbus.config.settings import Settings
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.names import is_name
from arqonbus.shield.grants import EVERYTHING, NOTHING, Grant, Grants, grants_claim, parse_grants

MAX_TOKEN_BYTES = 8192
MIN_SECRET_BYTES = 32  # RFC 7518, 3.2: a key of HS256 is no shorter than its hash
NEVER = 253_402_300_799  # the last second of the year 9999, which every date type can hold

Kind = Literal["human", "service"]
Role = Literal["user", "admin"]
_T = TypeVar("_T", bound=str)
Key = OctKey | RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end. `expires_at` is in Unix seconds; NEVER for a token without an end."""

    tenant: str
    subject: str
    kind: Kind
    role: Role
    grants: Grants
    expires_at: int
    token_id: str


@dataclass(frozen=True, slots=True)
class _TrustedKey:
    """A key, the one algorithm that it serves, and until when (Unix seconds; infinity: without end)."""

    algorithm: str
    key: Key
    key_id: str | None = None
    valid_until: float = math.inf


class _Registry(jws.JWSRegistry):
    """Only the algorithms given; joserfc's own would warn on every EdDSA token (RFC 9864 renames it)."""

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise ValueError("algorithm is not allowed")
        return self.algorithms[name]


class Verifier:
    """Verifies tokens for one profile. Raises ValueError when a key of the profile cannot be used."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        self._jwt = settings.auth.jwt
        self._require_exp = settings.auth.require_exp
        self._dev = settings.environment == "dev"
        # The loader refuses this setting outside dev; the second look costs nothing.
        self._skip_signature = self._dev and self._jwt.skip_validation
        self._now = now
        self._keys: Sequence[_TrustedKey] = _profile_keys(self._jwt)
        self._fetched: Sequence[_TrustedKey] = ()

    def use_jwks(self, document: Any) -> int:
        """Take over a fetched JWKS (RFC 7517) beside the keys of the profile; how many keys it gave.

        Shared secrets and keys of other kinds in it are passed over. Raises ValueError if it is no JWKS.
        """
        try:
            fetched = [
                _TrustedKey(_algorithm(key), key, key.kid)
                for key in KeySet.import_key_set(document).keys
                if isinstance(key, (RSAKey, ECKey, OKPKey)) and key.as_dict(private=False).get("use") != "enc"
            ]
        except (JoseError, ValueError, KeyError, TypeError, AttributeError):
            # Not chained: the cause could repeat the document.
            raise ValueError("the JWKS is not a set of keys that can be read") from None
        self._fetched = [key for key in fetched if key.algorithm in self._jwt.algorithms]
        return len(self._fetched)

    def verify(self, token: str) -> Identity:
        """The identity of a token. Raises BusError: UNAUTHENTICATED, or EXPIRED when its time is over."""
        claims = self._claims(token)
        expires_at = self._times(claims)
        self._addressee(claims)
        tenant = _text(claims, "tenant", 128)
        if not is_name(tenant):
            raise _refused("the claim tenant is not a name: 1 to 128 of A-Z a-z 0-9 . _ -")
        role: Role = _choice(claims, "role", ("user", "admin"))
        return Identity(
            tenant=tenant,
            subject=_text(claims, "sub", 256),
            kind=_choice(claims, "kind", ("human", "service")),
            role=role,
            grants=self._grants(claims, role),
            expires_at=expires_at,
            token_id=_text(claims, "jti", 256) if "jti" in claims else "",
        )

    __call__ = verify

    def _claims(self, token: str) -> dict[str, Any]:
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
        if not self._skip_signature:
            self._check_signature(token, header)
        return _json_object(parts[1], "payload")

    def _check_signature(self, token: str, header: Mapping[str, Any]) -> None:
        algorithm, key_id = header.get("alg"), header.get("kid")
        # RFC 9864 names Ed25519 what RFC 8037 named EdDSA.
        family = "EdDSA" if algorithm == "Ed25519" else algorithm
        if family not in self._jwt.algorithms:
            raise _refused("the token is signed with an algorithm that is not accepted here")
        now = self._now()
        candidates = [
            key for key in (*self._keys, *self._fetched) if key.algorithm == family and now < key.valid_until
        ]
        if key_id is not None:
            named = [key for key in candidates if key.key_id == key_id]
            candidates = named or [key for key in candidates if key.key_id is None]
        if not candidates:
            raise _refused("no key that this bus trusts fits the token")
        registry = _Registry(algorithms=[str(algorithm)])
        if not any(_is_signed_by(token, key.key, registry) for key in candidates):
            raise _refused("the token's signature is not by a key that this bus trusts")

    def _times(self, claims: Mapping[str, Any]) -> int:
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
        return NEVER if expires is None else min(int(expires), NEVER)

    def _addressee(self, claims: Mapping[str, Any]) -> None:
        if self._jwt.issuer is not None and claims.get("iss") != self._jwt.issuer:
            raise _refused("the claim iss is not the issuer that this bus trusts")
        if self._jwt.audience is not None:
            audience = claims.get("aud")
            if self._jwt.audience not in (audience if isinstance(audience, list) else [audience]):
                raise _refused("the claim aud does not name this bus")

    def _grants(self, claims: Mapping[str, Any], role: Role) -> Grants:
        try:
            given = parse_grants(claims["grants"]) if "grants" in claims else None
        except ValueError as error:
            raise _refused(f"the claim grants {error}") from None
        if role == "admin":
            return EVERYTHING
        if given is None:
            return EVERYTHING if self._dev else NOTHING
        return given


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token is to say. `ttl_seconds` counts from now."""

    tenant: str
    subject: str
    ttl_seconds: float
    kind: Kind = "human"
    role: Role = "user"
    grants: Sequence[Grant] | None = None
    token_id: str = ""


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
    secret = settings.auth.jwt.secret
    if private_pem is not None:
        key: Key = _pem_key(private_pem, "the private key")
    elif secret is not None:
        key = _secret_key(secret.get_secret_value(), "auth.jwt.secret")
    else:
        raise ValueError("the profile has no auth.jwt.secret; name a private key with --key")
    if not key.is_private:
        raise ValueError("the private key is a public one; name the file that signs")
    algorithm = _algorithm(key)
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
        "exp": math.ceil(issued + claims.ttl_seconds),
    }
    if claims.grants is not None:
        payload["grants"] = grants_claim(claims.grants)
    if claims.token_id:
        payload["jti"] = claims.token_id
    for name, value in (("iss", settings.auth.jwt.issuer), ("aud", settings.auth.jwt.audience)):
        if value is not None:
            payload[name] = value
    body = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
    token = jws.serialize_compact(
        {"alg": algorithm, "typ": "JWT"}, body, key, registry=_Registry(algorithms=[algorithm])
    )
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"the token would be longer than {MAX_TOKEN_BYTES} bytes; give it fewer grants")
    return token


def _profile_keys(jwt: Jwt) -> list[_TrustedKey]:
    keys: list[_TrustedKey] = []
    if jwt.secret is not None:
        keys.append(_TrustedKey("HS256", _secret_key(jwt.secret.get_secret_value(), "auth.jwt.secret")))
    previous = jwt.previous_secret
    if previous.value is not None and previous.valid_until is not None:
        key = _secret_key(previous.value.get_secret_value(), "auth.jwt.previous_secret.value")
        keys.append(_TrustedKey("HS256", key, valid_until=previous.valid_until.timestamp()))
    for index, declared in enumerate(jwt.public_keys):
        key_of = f"auth.jwt.public_keys[{index}]"
        trusted = _pem_key(_pem_text(declared, key_of), key_of)
        if trusted.is_private:
            raise ValueError(f"{key_of} is a private key; put the public one there")
        keys.append(_TrustedKey(_algorithm(trusted), trusted, declared.key_id))
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


def _secret_key(secret: str, name: str) -> OctKey:
    if "-----BEGIN" in secret:
        raise ValueError(f"{name} is a PEM key and not a shared secret; put it into auth.jwt.public_keys")
    if len(secret.encode()) < MIN_SECRET_BYTES:
        raise ValueError(
            f"{name} is shorter than {MIN_SECRET_BYTES} bytes; make one: openssl rand -base64 48"
        )
    return OctKey.import_key(secret.encode())


def _pem_key(pem: str, name: str) -> RSAKey | ECKey | OKPKey:
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", SecurityWarning)
                key = kind.import_key(pem)
            _algorithm(key)
        except SecurityWarning:
            raise ValueError(f"{name} is an RSA key of fewer than 2048 bits; make a longer one") from None
        except (JoseError, ValueError, TypeError):
            # A key of another kind, or none; the sentence below says which are read.
            continue
        return key
    raise ValueError(f"{name} is not an RSA, P-256 or Ed25519 key in unencrypted PEM; write one of these")


def _algorithm(key: object) -> str:
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


def _is_signed_by(token: str, key: Key, registry: _Registry) -> bool:
    registry.max_header_length = registry.max_payload_length = MAX_TOKEN_BYTES
    try:
        jws.deserialize_compact(token, key, registry=registry)
    except (JoseError, ValueError, TypeError, KeyError):
        # What joserfc says could repeat the token; that it did not verify is all that matters.
        return False
    return True


def _json_object(part: str, name: str) -> dict[str, Any]:
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, binascii.Error, RecursionError):
        # Not chained: the cause repeats the text.
        raise _refused(f"the token's {name} is not a JSON object in base64url") from None
    if not isinstance(value, dict):
        raise _refused(f"the token's {name} is not a JSON object in base64url")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError("not a JSON number")


def _text(claims: Mapping[str, Any], name: str, longest: int) -> str:
    value = claims.get(name)
    if value is None:
        raise _refused(f"the claim {name} is missing")
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise _refused(f"the claim {name} is not text of 1 to {longest} printable characters")
    return value


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
