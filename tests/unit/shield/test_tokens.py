"""Verifying and minting JWTs."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.config import Settings
from arqonbus.protocol.errors import BusError, Code
from arqonbus.shield.grants import EVERYTHING, NOTHING, parse_grant
from arqonbus.shield.tokens import NEVER, Claims, Verifier, mint

NOW = 1_900_000_000
SECRET = "test-" + "s" * 40
OTHER = "other-" + "o" * 40
GOOD = {"sub": "alice", "tenant": "demo", "exp": NOW + 60}


def pems(key: Any) -> tuple[str, str]:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


RSA, RSA_PUBLIC = pems(rsa.generate_private_key(65537, 2048))
EC, EC_PUBLIC = pems(ec.generate_private_key(ec.SECP256R1()))
ED, ED_PUBLIC = pems(ed25519.Ed25519PrivateKey.generate())
KEYS = {"RS256": (RSA, RSA_PUBLIC), "ES256": (EC, EC_PUBLIC), "EdDSA": (ED, ED_PUBLIC)}


def profile(environment: str = "prod", require_exp: bool = True, **jwt: Any) -> Settings:
    jwt = jwt or {"secret": SECRET}
    return Settings.model_validate(
        {"environment": environment, "auth": {"jwt": jwt, "require_exp": require_exp}}
    )


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(
    claims: Any = GOOD,
    header: Any = None,
    secret: str = SECRET,
    *,
    raw_payload: bytes | None = None,
    raw_header: bytes | None = None,
) -> str:
    """A token made by hand, so that it can be wrong in every way; its HS256 signature is right."""
    head = b64(raw_header or json.dumps(header or {"alg": "HS256", "typ": "JWT"}).encode())
    body = b64(raw_payload if raw_payload is not None else json.dumps(claims).encode())
    signature = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{b64(signature)}"


def verify(token: str, settings: Settings | None = None, now: float = NOW) -> Any:
    return Verifier(settings or profile(), now=lambda: now).verify(token)


def refusal(token: str, settings: Settings | None = None, now: float = NOW) -> BusError:
    with pytest.raises(BusError) as caught:
        verify(token, settings, now)
    return caught.value


def test_a_good_token_gives_an_identity() -> None:
    """What it leaves out has the least meaning: a person, a user, no grants."""
    identity = verify(forge())
    assert (identity.tenant, identity.subject, identity.kind, identity.role) == (
        "demo",
        "alice",
        "human",
        "user",
    )
    assert (identity.expires_at, identity.token_id, identity.grants) == (NOW + 60, "", NOTHING)


def test_everything_that_a_token_says_is_in_the_identity() -> None:
    """Kind, role, grants and id."""
    claims = {**GOOD, "kind": "service", "jti": "t1", "grants": {"a.*": ["publish"]}, "iat": NOW, "nbf": NOW}
    identity = verify(forge(claims))
    assert (identity.kind, identity.token_id) == ("service", "t1")
    assert identity.grants.allows("publish", "a.b")
    assert not identity.grants.allows("publish", "b")


@pytest.mark.parametrize(
    ("environment", "extra", "grants"),
    [
        ("dev", {}, EVERYTHING),
        ("dev", {"grants": []}, NOTHING),
        ("staging", {}, NOTHING),
        ("prod", {}, NOTHING),
        ("prod", {"role": "admin"}, EVERYTHING),
        ("prod", {"role": "admin", "grants": []}, EVERYTHING),
    ],
)
def test_without_grants_a_token_may_do_nothing_except_in_dev(
    environment: str, extra: dict[str, Any], grants: Any
) -> None:
    """An admin may do everything within the tenant."""
    assert verify(forge({**GOOD, **extra}), profile(environment, secret=SECRET)).grants == grants


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "There is no token."),
        ("x", "The token is not a signed JWT."),
        ("a.b", "The token is not a signed JWT."),
        ("a.b.c.d.e", "The token is not a signed JWT."),
        ("ä.b.c", "The token is not a signed JWT."),
        ("x" * 8193, "The token is longer than 8192 bytes."),
        ("!.b.c", "The token's header is not a JSON object in base64url."),
        (forge(raw_header=b"[]"), "The token's header is not a JSON object in base64url."),
        (
            forge(raw_header=b'{"alg":"HS256","alg":"none"}'),
            "The token's header is not a JSON object in base64url.",
        ),
        (forge(raw_header=b"[" * 3000), "The token's header is not a JSON object in base64url."),
        (forge(header={"alg": "HS256", "crit": ["b64"], "b64": False}), "header has parameters other than"),
        (forge(header={"alg": "HS256", "jku": "https://evil"}), "header has parameters other than"),
        (forge(header={"alg": "HS256", "jwk": {}}), "header has parameters other than"),
        (forge(header={"alg": "HS256", "typ": "JOSE"}), "The token is of another type than JWT."),
        (forge(header={"alg": "none"}), "signed with an algorithm that is not accepted here"),
        (forge(header={"alg": "None"}), "signed with an algorithm that is not accepted here"),
        (forge(header={"typ": "JWT"}), "signed with an algorithm that is not accepted here"),
        (forge(header={"alg": ["HS256"]}), "signed with an algorithm that is not accepted here"),
        (forge(header={"alg": "HS512"}), "signed with an algorithm that is not accepted here"),
        (forge(header={"alg": "RS256"}), "signed with an algorithm that is not accepted here"),
        (forge(secret=OTHER), "signature is not by a key that this bus trusts"),
        (forge()[:-4], "signature is not by a key that this bus trusts"),
        (forge().rsplit(".", 1)[0] + ".", "signature is not by a key that this bus trusts"),
        (forge(raw_payload=b"[]"), "The token's payload is not a JSON object in base64url."),
        (forge(raw_payload=b"\xff"), "The token's payload is not a JSON object in base64url."),
        (forge(raw_payload=b'{"exp": NaN}'), "The token's payload is not a JSON object in base64url."),
        (
            forge(raw_payload=b'{"sub":"a","sub":"b"}'),
            "The token's payload is not a JSON object in base64url.",
        ),
    ],
)
def test_a_token_of_the_wrong_form_is_refused(token: str, sentence: str) -> None:
    """Each refusal has its sentence and repeats nothing of the token."""
    error = refusal(token)
    assert error.code is Code.UNAUTHENTICATED
    assert sentence in error.message


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"exp": None}, "The claim exp is not a number of seconds since 1970."),
        ({"exp": "tomorrow"}, "The claim exp is not a number of seconds since 1970."),
        ({"exp": True}, "The claim exp is not a number of seconds since 1970."),
        ({"exp": -1}, "The claim exp is not a number of seconds since 1970."),
        ({"exp": 10**30}, "The claim exp is not a number of seconds since 1970."),
        ({"nbf": NOW + 6}, "The token is not valid yet."),
        ({"nbf": "x"}, "The claim nbf is not a number of seconds since 1970."),
        ({"iat": NOW + 6}, "The token was issued in the future."),
        ({"tenant": None}, "The claim tenant is missing."),
        ({"tenant": ""}, "The claim tenant is not text of 1 to 128 printable characters."),
        ({"tenant": 5}, "The claim tenant is not text of 1 to 128 printable characters."),
        ({"tenant": "a:b"}, "The claim tenant is not a name: 1 to 128 of A-Z a-z 0-9 . _ -."),
        ({"tenant": "a" * 129}, "The claim tenant is not text of 1 to 128 printable characters."),
        ({"sub": None}, "The claim sub is missing."),
        ({"sub": ["a"]}, "The claim sub is not text of 1 to 256 printable characters."),
        ({"sub": "a\nb"}, "The claim sub is not text of 1 to 256 printable characters."),
        ({"sub": "\ud800"}, "The claim sub is not text of 1 to 256 printable characters."),
        ({"kind": "robot"}, "The claim kind is none of human, service."),
        ({"kind": None}, "The claim kind is none of human, service."),
        ({"role": "root"}, "The claim role is none of user, admin."),
        ({"role": ["admin"]}, "The claim role is none of user, admin."),
        ({"jti": 5}, "The claim jti is not text of 1 to 256 printable characters."),
        ({"grants": "all"}, "The claim grants is neither a list of {room, allow} nor a map"),
        ({"grants": {"a": "fly"}, "role": "admin"}, "The claim grants has an action that is none of"),
    ],
)
def test_a_claim_of_the_wrong_form_is_refused(claims: dict[str, Any], sentence: str) -> None:
    """The sentence names the claim and not its value."""
    error = refusal(forge({**GOOD, **claims}))
    assert error.code is Code.UNAUTHENTICATED
    assert sentence in error.message


@pytest.mark.parametrize("missing", ["sub", "tenant", "exp"])
def test_subject_tenant_and_end_must_be_there(missing: str) -> None:
    """There is no token without them."""
    claims = {name: value for name, value in GOOD.items() if name != missing}
    assert refusal(forge(claims)).message == f"The claim {missing} is missing."


def test_a_token_ends_when_it_says_with_the_leeway() -> None:
    """EXPIRED is told apart, because it has another remedy."""
    assert verify(forge(), now=NOW + 64.9)
    assert refusal(forge(), now=NOW + 65).code is Code.EXPIRED
    assert verify(forge({**GOOD, "nbf": NOW + 5, "iat": NOW + 5}))


def test_an_endless_token_needs_the_profiles_word() -> None:
    """Its end is then the last moment that there is."""
    claims = {"sub": "alice", "tenant": "demo"}
    assert verify(forge(claims), profile(require_exp=False, secret=SECRET)).expires_at == NEVER
    assert verify(forge({**GOOD, "exp": 2**52})).expires_at == NEVER


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"aud": "bus"}, "The claim iss is not the issuer"),
        ({"iss": "https://other", "aud": "bus"}, "The claim iss is not the issuer"),
        ({"iss": ["https://id"], "aud": "bus"}, "The claim iss is not the issuer"),
        ({"iss": "https://id"}, "The claim aud does not name this bus"),
        ({"iss": "https://id", "aud": "other"}, "The claim aud does not name this bus"),
        ({"iss": "https://id", "aud": ["other", {}]}, "The claim aud does not name this bus"),
        ({"iss": "https://id", "aud": {"bus": 1}}, "The claim aud does not name this bus"),
    ],
)
def test_issuer_and_audience_count_when_the_profile_names_them(claims: dict[str, Any], sentence: str) -> None:
    """A token that was made for another service does not open this one."""
    settings = profile(secret=SECRET, issuer="https://id", audience="bus")
    assert sentence in refusal(forge({**GOOD, **claims}), settings).message
    for audience in ("bus", ["other", "bus"]):
        assert verify(forge({**GOOD, "iss": "https://id", "aud": audience}), settings)


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_public_keys_verify_what_their_private_keys_sign(algorithm: str) -> None:
    """RSA serves RS256, P-256 serves ES256, Ed25519 serves EdDSA, and none of them another."""
    private, public = KEYS[algorithm]
    settings = profile(algorithms=list(KEYS), public_keys=[{"pem": public}])
    token = mint(settings, Claims("demo", "alice", 60), private_pem=private, now=lambda: NOW)
    assert verify(token, settings).subject == "alice"
    for other, (_, pem) in KEYS.items():
        if other != algorithm:
            assert refusal(token, profile(algorithms=list(KEYS), public_keys=[{"pem": pem}]))


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_a_public_key_is_never_a_shared_secret(algorithm: str) -> None:
    """A token that is signed with HS256 and the public key as the secret is refused."""
    public = KEYS[algorithm][1]
    settings = profile(algorithms=["HS256", algorithm], public_keys=[{"pem": public}])
    for secret in (public, public.strip()):
        assert "No key that this bus trusts fits" in refusal(forge(secret=secret), settings).message
        token = forge(header={"alg": algorithm}, secret=secret)
        assert "signature is not by a key" in refusal(token, settings).message


def test_an_ed25519_token_may_use_the_newer_name_of_its_algorithm() -> None:
    """RFC 9864 names Ed25519 what RFC 8037 named EdDSA."""
    from joserfc import jws
    from joserfc.jwk import OKPKey

    registry = jws.JWSRegistry(algorithms=["Ed25519"])
    token = jws.serialize_compact(
        {"alg": "Ed25519"}, json.dumps(GOOD).encode(), OKPKey.import_key(ED), registry=registry
    )
    assert verify(token, profile(algorithms=["EdDSA"], public_keys=[{"pem": ED_PUBLIC}]))


def test_the_previous_secret_holds_until_its_day() -> None:
    """A rotation does not throw anybody out."""
    old = {"value": OTHER, "valid_until": "2030-03-17T17:46:41Z"}  # one second after NOW
    settings = profile(secret=SECRET, previous_secret=old)
    assert verify(forge(secret=OTHER), settings)
    assert verify(forge(), settings)
    assert refusal(forge(secret=OTHER), settings, now=NOW + 1).code is Code.UNAUTHENTICATED


def test_a_key_id_chooses_among_keys(tmp_path: Path) -> None:
    """A token without one is tried against all; an unknown one only against keys without a name."""
    file = tmp_path / "key.pem"
    file.write_text(ED_PUBLIC)
    named = [{"file": str(file), "key_id": "a"}]
    settings = profile(algorithms=["EdDSA"], public_keys=named)
    token = mint(settings, Claims("demo", "alice", 60), private_pem=ED, now=lambda: NOW)
    assert verify(token, settings)
    from joserfc import jws
    from joserfc.jwk import OKPKey

    registry = jws.JWSRegistry(algorithms=["Ed25519"])
    for key_id, accepted in (("a", True), ("b", False)):
        body = json.dumps(GOOD).encode()
        header = {"alg": "Ed25519", "kid": key_id}
        signed = jws.serialize_compact(header, body, OKPKey.import_key(ED), registry=registry)
        if accepted:
            assert verify(signed, settings)
        else:
            assert "No key that this bus trusts fits" in refusal(signed, settings).message


def test_fetched_keys_count_beside_those_of_the_profile() -> None:
    """Shared secrets in a JWKS, and keys for encryption, are not taken over."""
    from joserfc.jwk import ECKey, OctKey, OKPKey

    settings = profile(algorithms=["HS256", "EdDSA"], jwks_url="https://id/jwks")
    verifier = Verifier(settings, now=lambda: NOW)
    token = mint(settings, Claims("demo", "alice", 60), private_pem=ED, now=lambda: NOW)
    with pytest.raises(BusError, match="No key that this bus trusts fits"):
        verifier.verify(token)
    keys = [
        OKPKey.import_key(ED_PUBLIC).as_dict(private=False),
        OctKey.import_key(SECRET).as_dict(private=True),
        ECKey.import_key(EC_PUBLIC).as_dict(private=False),
        {"kty": "future"},
    ]
    assert verifier.use_jwks({"keys": keys}) == 1
    assert verifier.verify(token).subject == "alice"
    with pytest.raises(BusError):
        verifier.verify(forge())


@pytest.mark.parametrize(
    "document", [None, [], {}, {"keys": None}, {"keys": [5]}, {"keys": [{"kty": "OKP"}]}]
)
def test_a_jwks_that_cannot_be_read_changes_nothing(document: Any) -> None:
    """The keys that were fetched before stay."""
    with pytest.raises(ValueError, match="the JWKS "):
        Verifier(profile()).use_jwks(document)


@pytest.mark.parametrize(
    ("jwt", "sentence"),
    [
        ({"secret": "short"}, "auth.jwt.secret is shorter than 32 bytes; make one: openssl rand -base64 48"),
        ({"secret": RSA_PUBLIC}, "auth.jwt.secret is a PEM key and not a shared secret"),
        (
            {"public_keys": [{"pem": "nonsense"}]},
            "auth.jwt.public_keys[0] is not an RSA, P-256 or Ed25519 key",
        ),
        (
            {"public_keys": [{"pem": ED}]},
            "auth.jwt.public_keys[0] is a private key; put the public one there",
        ),
        ({"public_keys": [{"file": "/no/such.pem"}]}, "names a file that cannot be read (No such file"),
        (
            {"public_keys": [{"pem": pems(rsa.generate_private_key(65537, 1024))[1]}]},
            "is an RSA key of fewer than 2048 bits",
        ),
        (
            {"public_keys": [{"pem": pems(ec.generate_private_key(ec.SECP384R1()))[1]}]},
            "is not an RSA, P-256",
        ),
    ],
)
def test_a_key_that_cannot_be_used_is_told_at_the_start(jwt: dict[str, Any], sentence: str) -> None:
    """The sentence names the setting and repeats nothing of the key."""
    with pytest.raises(ValueError, match=r"^auth\.jwt\.") as caught:
        Verifier(profile(**jwt))
    assert sentence in str(caught.value)


def test_a_minted_token_says_what_it_was_asked_to_say() -> None:
    """Issuer and audience of the profile are in it."""
    settings = profile(secret=SECRET, issuer="https://id", audience="bus")
    claims = Claims("demo", "billing", 60, "service", "user", [parse_grant("orders.*:publish")], "t1")
    identity = verify(mint(settings, claims, now=lambda: NOW), settings)
    assert (identity.subject, identity.kind, identity.role) == ("billing", "service", "user")
    assert (identity.expires_at, identity.token_id) == (NOW + 60, "t1")
    assert identity.grants.rules == (parse_grant("orders.*:publish"),)


@pytest.mark.parametrize(
    ("settings", "claims", "private", "sentence"),
    [
        (profile(), Claims("a b", "alice", 60), None, "the tenant is not a name"),
        (profile(), Claims("demo", "", 60), None, "the subject is not 1 to 256 printable characters"),
        (
            profile(algorithms=["HS256"]),
            Claims("demo", "a", 60),
            None,
            "has no auth.jwt.secret; name a private key",
        ),
        (profile(), Claims("demo", "a", 60), ED, "EdDSA is not in auth.jwt.algorithms of the profile"),
        (
            profile(algorithms=["EdDSA"]),
            Claims("demo", "a", 60),
            ED_PUBLIC,
            "the private key is a public one",
        ),
        (
            profile(),
            Claims("demo", "a", 60, grants=[parse_grant(f"{'r' * 120}:publish")] * 60),
            None,
            "would be longer than 8192 bytes",
        ),
    ],
    ids=["tenant", "subject", "secret", "algorithm", "public key", "length"],
)
def test_a_token_that_no_bus_would_accept_is_not_minted(
    settings: Settings, claims: Claims, private: str | None, sentence: str
) -> None:
    """The mistake is told where it is made."""
    with pytest.raises(ValueError, match="the ") as caught:
        mint(settings, claims, private_pem=private)
    assert sentence in str(caught.value)


def test_a_signature_is_skipped_in_dev_only() -> None:
    """The claims are checked all the same."""
    dev = profile("dev", secret=SECRET, skip_validation=True)
    assert verify(forge(secret=OTHER), dev)
    assert refusal(forge({}), dev)
    assert refusal(forge(secret=OTHER), profile("prod", secret=SECRET, skip_validation=True))


@given(st.text(max_size=60) | st.tuples(*[st.binary(max_size=40).map(b64)] * 3).map(".".join))
def test_any_text_is_an_identity_or_a_refusal(text: str) -> None:
    """No token makes the verifier fail in another way, and no refusal has a cause to print."""
    error = refusal(text)
    assert error.code is Code.UNAUTHENTICATED
    assert error.__cause__ is None


def test_no_refusal_holds_any_of_the_token() -> None:
    """Also not in what it was raised from."""
    canary = "canary" * 8
    for claims in (
        {**GOOD, "role": canary},
        {**GOOD, "tenant": canary * 3},
        {**GOOD, "grants": {canary: canary}},
    ):
        error = refusal(forge({**claims, "sub": canary}))
        assert "canary" not in f"{error} {error.__cause__} {error.details}"


def test_a_token_may_live_as_long_as_the_profile_says() -> None:
    """From iat to exp, both of which it must then have."""
    bounded = profile(secret=SECRET, max_lifetime=60)
    assert verify(forge({**GOOD, "iat": NOW}), bounded).expires_at == NOW + 60
    for claims in ({**GOOD, "iat": NOW - 1}, GOOD, {**GOOD, "iat": 0}):
        assert refusal(forge(claims), bounded).code is Code.UNAUTHENTICATED
    with pytest.raises(ValueError, match="max_lifetime is 60 s"):
        mint(bounded, Claims("demo", "alice", 61), now=lambda: NOW)
    assert verify(mint(bounded, Claims("demo", "alice", 60), now=lambda: NOW + 0.9), bounded)


def test_the_trust_in_a_key_bounds_the_token() -> None:
    """One of the previous secret ends with it, also where it says a later time."""
    previous = {"value": OTHER, "valid_until": "2030-03-17T17:46:50Z"}  # ten seconds from now
    settings = profile(secret=SECRET, previous_secret=previous)
    who = verify(forge(secret=OTHER), settings)
    assert (who.expires_at, who.token_end) == (NOW + 10, NOW + 60)
    assert verify(forge(), settings).expires_at == NOW + 60
    assert Verifier(profile()).renewed(who) is None
    again = Verifier(profile(secret=OTHER)).renewed(who)
    assert again is not None
    assert again.expires_at == NOW + 60


ROLES = [{"name": "reader", "grants": [{"room": "orders.*", "allow": ["subscribe"]}]}]


def test_roles_add_to_the_grants_of_a_token() -> None:
    """A name that the profile does not have adds nothing."""
    settings = Settings.model_validate(
        {"environment": "prod", "auth": {"jwt": {"secret": SECRET}}, "roles": ROLES}
    )
    who = verify(forge({**GOOD, "roles": ["reader", "other"], "grants": {"a": ["publish"]}}), settings)
    assert who.grants.allows("subscribe", "orders.eu")
    assert who.grants.allows("publish", "a")
    assert not who.grants.allows("publish", "orders.eu")
    assert verify(forge({**GOOD, "roles": ["other"]}), settings).grants == NOTHING
    dev = profile("dev", secret=SECRET)
    assert verify(forge({**GOOD, "roles": ["other"]}), dev).grants == NOTHING


@pytest.mark.parametrize("roles", ["reader", [5], [""], ["x" * 129], ["x"] * 65, None, {}])
def test_roles_are_a_list_of_names(roles: Any) -> None:
    """Anything else is refused, not read as none."""
    assert refusal(forge({**GOOD, "roles": roles})).code is Code.UNAUTHENTICATED


def test_a_key_that_is_not_known_is_asked_for() -> None:
    """Once for a token that names one; a token without a name asks for nothing."""
    asked: list[int] = []
    verifier = Verifier(profile(), now=lambda: NOW)
    verifier.on_unknown_key = lambda: asked.append(1)
    verifier.verify(forge(header={"alg": "HS256", "typ": "JWT"}))
    assert not asked
    verifier.verify(forge(header={"alg": "HS256", "typ": "JWT", "kid": "new"}))
    assert asked == [1]
    assert refusal(forge(header={"alg": "HS256", "kid": 5})).code is Code.UNAUTHENTICATED
