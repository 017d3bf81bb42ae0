"""SEC, continued: keys and rules for verifying tokens."""

from __future__ import annotations

from arqonbus.preflight.checks.net import is_local
from arqonbus.preflight.checks.sec import JWT_SECRET, MAKE_SECRET
from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARN_IN_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check

LONGEST_DAYS = 31

_TRUSTED = (
    "server.tls.client_ca_file",
    "auth.jwt.jwks_ca_file",
    "auth.jwt.public_keys",
    "auth.signers",
    "auth.revoked",
)


@check(
    "ARQ-SEC-003",
    "A token verification key is configured",
    severity=OUTSIDE_DEV,
    why="The bus cannot verify any token, so it does not start.",
    fix=(MAKE_SECRET, "$EDITOR FILE   # auth: {jwt: {secret: {from: credential, name: jwt_secret}}}"),
    reads=(JWT_SECRET, "auth.jwt.public_keys", "auth.jwt.jwks_url"),
    tags=("tokens",),
)
def tokens_can_be_verified(context: Context) -> Outcome:
    jwt = context.settings.auth.jwt
    nothing = not (jwt.secret or jwt.public_keys or jwt.jwks_url)
    return verdict(
        [Remark("none of auth.jwt.secret, auth.jwt.public_keys and auth.jwt.jwks_url is set", (JWT_SECRET,))]
        if nothing
        else [],
        expected="a secret for HS256, or public keys",
    )


@check(
    "ARQ-SEC-008",
    "Tokens without exp are refused",
    severity=WARN_IN_DEV,
    why="A leaked token without an expiry date stays valid forever.",
    fix=("$EDITOR FILE   # auth: {require_exp: true}",),
    reads=("auth.require_exp",),
    tags=("tokens",),
)
def tokens_end(context: Context) -> Outcome:
    ends = context.settings.auth.require_exp
    return verdict([] if ends else ["auth.require_exp is false"], expected="auth.require_exp: true")


@check(
    "ARQ-SEC-009",
    "Every accepted algorithm has a key, and every key an algorithm",
    severity=EVERYWHERE,
    why="Tokens of an algorithm without a key are refused as invalid.",
    fix=("$EDITOR FILE   # auth: {jwt: {algorithms: [HS256]}}",),
    reads=("auth.jwt",),
    requires=("ARQ-SEC-003",),
    tags=("tokens",),
)
def algorithms_have_keys(context: Context) -> Outcome:
    jwt = context.settings.auth.jwt
    public = bool(jwt.public_keys or jwt.jwks_url)
    asymmetric = [name for name in jwt.algorithms if name != "HS256"]
    remarks = []
    if jwt.secret is not None and "HS256" not in jwt.algorithms:
        remarks.append(Remark("a secret is set, but HS256 is not accepted", ("auth.jwt.algorithms",)))
    if public and not asymmetric:
        remarks.append(Remark("public keys are set, but only HS256 is accepted", ("auth.jwt.algorithms",)))
    if asymmetric and not public:
        text = f"{', '.join(asymmetric)} is accepted, but no public key is set"
        remarks.append(Remark(text, ("auth.jwt.algorithms",)))
    if "HS256" in jwt.algorithms and jwt.secret is None and context.outside_dev:
        remarks.append(Remark("HS256 is accepted, but no secret is set", ("auth.jwt.algorithms",)))
    return verdict(remarks, expected="HS256 with a secret; RS256, ES256 and EdDSA with public keys")


@check(
    "ARQ-SEC-010",
    "Shared secrets and public keys are not mixed",
    severity=WARNING_OUTSIDE_DEV,
    why="A service that verifies tokens with the shared secret can also issue them.",
    fix=("$EDITOR FILE   # auth: {jwt: {algorithms: [EdDSA]}}",),
    reads=("auth.jwt.algorithms",),
    tags=("tokens",),
)
def algorithms_are_of_one_kind(context: Context) -> Outcome:
    algorithms = context.settings.auth.jwt.algorithms
    mixed = "HS256" in algorithms and len(set(algorithms)) > 1
    return verdict(
        [f"{', '.join(algorithms)} are accepted"] if mixed else [], expected="one kind of algorithm"
    )


@check(
    "ARQ-SEC-012",
    "auth.jwt.leeway is at most 60 s",
    severity=WARNING_OUTSIDE_DEV,
    why="Tokens stay valid for the leeway after they expire.",
    fix=("$EDITOR FILE   # auth: {jwt: {leeway: 5s}}",),
    reads=("auth.jwt.leeway",),
    tags=("tokens",),
)
def leeway_is_small(context: Context) -> Outcome:
    leeway = context.settings.auth.jwt.leeway
    return verdict([f"auth.jwt.leeway is {leeway:g} s"] if leeway > 60 else [], expected="at most 60 s")


@check(
    "ARQ-SEC-023",
    f"auth.jwt.max_lifetime is set and at most {LONGEST_DAYS} days",
    severity=WARNING_OUTSIDE_DEV,
    why="Without the limit, an issuer can mint tokens that stay valid for years.",
    fix=("$EDITOR FILE   # auth: {jwt: {max_lifetime: 24h}}",),
    reads=("auth.jwt.max_lifetime",),
    tags=("tokens",),
)
def life_is_bounded(context: Context) -> Outcome:
    longest = context.settings.auth.jwt.max_lifetime
    remarks = []
    if not longest:
        remarks.append("auth.jwt.max_lifetime is not set")
    elif longest > LONGEST_DAYS * 86_400:
        remarks.append(f"auth.jwt.max_lifetime is {longest / 86_400:g} days")
    return verdict(remarks, expected=f"at most {LONGEST_DAYS} days")


@check(
    "ARQ-SEC-024",
    "auth.service_identities is used only with auth.service_mtls",
    severity=WARNING_EVERYWHERE,
    why="Without auth.service_mtls, the bus ignores auth.service_identities.",
    fix=("$EDITOR FILE   # auth: {service_mtls: true}",),
    reads=("auth.service_mtls", "auth.service_identities"),
    tags=("tokens",),
)
def declared_services_are_asked(context: Context) -> Outcome:
    auth = context.settings.auth
    idle = bool(auth.service_identities) and not auth.service_mtls
    remarks = [
        Remark("auth.service_identities is set and auth.service_mtls is not", ("auth.service_identities",))
    ]
    return verdict(remarks if idle else [], expected="both or neither")


@check(
    "ARQ-SEC-013",
    "auth.jwt.issuer and auth.jwt.audience are set",
    severity=WARNING_OUTSIDE_DEV,
    why="Without them, a token that the same key signed for another service is accepted.",
    fix=("$EDITOR FILE   # auth: {jwt: {issuer: https://id.your-domain, audience: arqonbus}}",),
    reads=("auth.jwt.issuer", "auth.jwt.audience"),
    tags=("tokens",),
)
def tokens_are_addressed(context: Context) -> Outcome:
    jwt = context.settings.auth.jwt
    values = {"auth.jwt.issuer": jwt.issuer, "auth.jwt.audience": jwt.audience}
    remarks = [Remark(f"{key} is not set", (key,)) for key, value in values.items() if value is None]
    return verdict(remarks, expected="both")


@check(
    "ARQ-SEC-014",
    "auth.jwt.jwks_url uses https://",
    severity=WARN_IN_DEV,
    why="Without TLS, an attacker on the network could supply their own keys and sign tokens.",
    fix=("$EDITOR FILE   # auth: {jwt: {jwks_url: https://…}}",),
    reads=("auth.jwt.jwks_url",),
    tags=("tokens",),
)
def keys_are_fetched_safely(context: Context) -> Outcome:
    url = context.settings.auth.jwt.jwks_url
    if url is None:
        return skipped("auth.jwt.jwks_url is not set")
    return verdict(
        ["auth.jwt.jwks_url is not https://"] if not url.startswith("https://") else [], expected="https://"
    )


@check(
    "ARQ-SEC-015",
    "Signature verification is disabled on loopback listeners only",
    severity=EVERYWHERE,
    why="With skip_validation, any client that reaches the port can claim any identity.",
    fix=("$EDITOR FILE   # server: {host: 127.0.0.1}", "unset JWT_SKIP_VALIDATION"),
    reads=("auth.jwt.skip_validation", "server.host"),
    tags=("tokens",),
)
def skipping_stays_local(context: Context) -> Outcome:
    host = context.settings.server.host
    skips = context.settings.auth.jwt.skip_validation and not is_local(host)
    text = f"auth.jwt.skip_validation is on and server.host is {host}"
    return verdict(
        [Remark(text, ("auth.jwt.skip_validation",))] if skips else [], expected="verified signatures"
    )


@check(
    "ARQ-SEC-022",
    "Every public key file exists and is readable",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus reads these files when it starts; without them it does not start.",
    fix=("ls -l FILE",),
    reads=("auth.jwt.public_keys",),
    tags=("tokens",),
)
def public_keys_can_be_read(context: Context) -> Outcome:
    files = [file for file in context.host.files if file.key == "auth.jwt.public_keys"]
    bad = [file for file in files if file.state != "file"]
    remarks = [f"{file.path} {file.reason or 'is not a regular file'}" for file in bad]
    return verdict(remarks, expected="readable files")


@check(
    "ARQ-SEC-025",
    "The list of revoked tokens is valid",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus does not start without the list: revoked tokens would be accepted again.",
    fix=("ls -l FILE", "$EDITOR FILE   # - {tenant: acme, sub: alice, until: 2030-01-31T00:00:00Z}"),
    reads=("auth.revoked",),
    tags=("tokens",),
)
def revocations_can_be_read(context: Context) -> Outcome:
    problem = context.host.revocations_problem
    return verdict([problem] if problem else [], expected="a valid list of revocations; it may be empty")


@check(
    "ARQ-SEC-026",
    "Trusted keys, CAs and revocations are writable by root or the bus only",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="A user who can write one of these files can grant access to anyone.",
    fix=("chown root:arqonbus FILE && chmod 0640 FILE",),
    reads=_TRUSTED,
    tags=("tokens",),
)
def trust_is_owned(context: Context) -> Outcome:
    host = context.host
    held = [file for file in host.files if file.key in _TRUSTED and file.state == "file"]
    strange = [file for file in held if file.owner not in (0, host.uid) or file.mode & 0o022]
    remarks = [
        Remark(f"{file.path} is owned by user {file.owner} and has mode {file.mode:04o}", (file.key,))
        for file in strange
    ]
    fix = [f"chown root:arqonbus {file.path} && chmod 0640 {file.path}" for file in strange]
    return verdict(
        remarks, expected="owned by root or the user of the bus, and not writable by others", fix=fix
    )
