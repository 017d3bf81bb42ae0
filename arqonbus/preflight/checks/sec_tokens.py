"""SEC, continued: what tokens are verified with, and how strictly."""

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
    "There is something to verify tokens with",
    severity=OUTSIDE_DEV,
    why="The bus would let nobody in, and does not start.",
    fix=(MAKE_SECRET, "$EDITOR FILE   # auth: {jwt: {secret: {from: credential, name: jwt_secret}}}"),
    reads=(JWT_SECRET, "auth.jwt.public_keys", "auth.jwt.jwks_url"),
    tags=("tokens",),
)
def tokens_can_be_verified(context: Context) -> Outcome:
    jwt = context.settings.auth.jwt
    nothing = not (jwt.secret or jwt.public_keys or jwt.jwks_url)
    return verdict(
        [Remark("no secret, no public key and no jwks_url is set", (JWT_SECRET,))] if nothing else [],
        expected="a secret for HS256, or public keys",
    )


@check(
    "ARQ-SEC-008",
    "Every token ends",
    severity=WARN_IN_DEV,
    why="A token without an end that leaks is a key for ever.",
    fix=("$EDITOR FILE   # auth: {require_exp: true}",),
    reads=("auth.require_exp",),
    tags=("tokens",),
)
def tokens_end(context: Context) -> Outcome:
    ends = context.settings.auth.require_exp
    return verdict([] if ends else ["tokens without exp are accepted"], expected="auth.require_exp: true")


@check(
    "ARQ-SEC-009",
    "The accepted algorithms have their keys",
    severity=EVERYWHERE,
    why="Tokens of an algorithm without a key are refused, one by one, as if they were forged.",
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
        remarks.append(Remark("a secret is set and HS256 is not accepted", ("auth.jwt.algorithms",)))
    if public and not asymmetric:
        remarks.append(Remark("public keys are set and only HS256 is accepted", ("auth.jwt.algorithms",)))
    if asymmetric and not public:
        text = f"{', '.join(asymmetric)} is accepted and there is no public key"
        remarks.append(Remark(text, ("auth.jwt.algorithms",)))
    if "HS256" in jwt.algorithms and jwt.secret is None and context.outside_dev:
        remarks.append(Remark("HS256 is accepted and there is no secret", ("auth.jwt.algorithms",)))
    return verdict(remarks, expected="HS256 with a secret, RS256, ES256 and EdDSA with public keys")


@check(
    "ARQ-SEC-010",
    "Shared secrets and public keys are not mixed",
    severity=WARNING_OUTSIDE_DEV,
    why="With both, whoever verifies tokens elsewhere with the secret can also make them.",
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
    "Clocks are not forgiven too much",
    severity=WARNING_OUTSIDE_DEV,
    why="A token lives that much longer than it says.",
    fix=("$EDITOR FILE   # auth: {jwt: {leeway: 5s}}",),
    reads=("auth.jwt.leeway",),
    tags=("tokens",),
)
def leeway_is_small(context: Context) -> Outcome:
    leeway = context.settings.auth.jwt.leeway
    return verdict([f"leeway is {leeway:g} s"] if leeway > 60 else [], expected="60 s at most")


@check(
    "ARQ-SEC-023",
    "The life of a token is bounded",
    severity=WARNING_OUTSIDE_DEV,
    why="An issuer that makes a token for years makes a key that nobody remembers.",
    fix=("$EDITOR FILE   # auth: {jwt: {max_lifetime: 24h}}",),
    reads=("auth.jwt.max_lifetime",),
    tags=("tokens",),
)
def life_is_bounded(context: Context) -> Outcome:
    longest = context.settings.auth.jwt.max_lifetime
    remarks = []
    if not longest:
        remarks.append("max_lifetime is not set")
    elif longest > LONGEST_DAYS * 86_400:
        remarks.append(f"max_lifetime is {longest / 86_400:g} days")
    return verdict(remarks, expected=f"{LONGEST_DAYS} days at most")


@check(
    "ARQ-SEC-024",
    "Certificates of services are asked for where they are declared",
    severity=WARNING_EVERYWHERE,
    why="Without auth.service_mtls nobody looks at what service_identities says.",
    fix=("$EDITOR FILE   # auth: {service_mtls: true}",),
    reads=("auth.service_mtls", "auth.service_identities"),
    tags=("tokens",),
)
def declared_services_are_asked(context: Context) -> Outcome:
    auth = context.settings.auth
    idle = bool(auth.service_identities) and not auth.service_mtls
    remarks = [Remark("service_identities is set and service_mtls is not", ("auth.service_identities",))]
    return verdict(remarks if idle else [], expected="both or neither")


@check(
    "ARQ-SEC-013",
    "Tokens say who made them, and for whom",
    severity=WARNING_OUTSIDE_DEV,
    why="Without it a token that the same key signed for another service opens this one.",
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
    "Public keys are fetched over TLS",
    severity=WARN_IN_DEV,
    why="Whoever is on the way could send keys of their own, and sign tokens with them.",
    fix=("$EDITOR FILE   # auth: {jwt: {jwks_url: https://…}}",),
    reads=("auth.jwt.jwks_url",),
    tags=("tokens",),
)
def keys_are_fetched_safely(context: Context) -> Outcome:
    url = context.settings.auth.jwt.jwks_url
    if url is None:
        return skipped("no keys are fetched")
    return verdict(
        ["jwks_url is not https://"] if not url.startswith("https://") else [], expected="https://"
    )


@check(
    "ARQ-SEC-015",
    "Signatures are verified where others can connect",
    severity=EVERYWHERE,
    why="With skip_validation whoever reaches the port may be anybody.",
    fix=("$EDITOR FILE   # server: {host: 127.0.0.1}", "unset JWT_SKIP_VALIDATION"),
    reads=("auth.jwt.skip_validation", "server.host"),
    tags=("tokens",),
)
def skipping_stays_local(context: Context) -> Outcome:
    host = context.settings.server.host
    skips = context.settings.auth.jwt.skip_validation and not is_local(host)
    text = f"signatures are not looked at and the bus listens on {host}"
    return verdict(
        [Remark(text, ("auth.jwt.skip_validation",))] if skips else [], expected="verified signatures"
    )


@check(
    "ARQ-SEC-022",
    "Public keys are where the profile says",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus reads them at its start and does not start without them.",
    fix=("ls -l FILE",),
    reads=("auth.jwt.public_keys",),
    tags=("tokens",),
)
def public_keys_can_be_read(context: Context) -> Outcome:
    files = [file for file in context.host.files if file.key == "auth.jwt.public_keys"]
    bad = [file for file in files if file.state != "file"]
    remarks = [f"{file.path} {file.reason or 'is no regular file'}" for file in bad]
    return verdict(remarks, expected="readable files")


@check(
    "ARQ-SEC-025",
    "The list of revoked tokens can be used",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus does not start without it: tokens that were revoked would open it again.",
    fix=("ls -l FILE", "$EDITOR FILE   # - {tenant: acme, sub: alice, until: 2030-01-31T00:00:00Z}"),
    reads=("auth.revoked",),
    tags=("tokens",),
)
def revocations_can_be_read(context: Context) -> Outcome:
    problem = context.host.revocations_problem
    return verdict([problem] if problem else [], expected="a list of what is revoked, perhaps an empty one")


@check(
    "ARQ-SEC-026",
    "What decides who is let in can be written by root or the bus only",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Whoever can write a trusted key, an authority or the list of revoked tokens lets in whom they like.",
    fix=("chown root:arqonbus FILE && chmod 0640 FILE",),
    reads=_TRUSTED,
    tags=("tokens",),
)
def trust_is_owned(context: Context) -> Outcome:
    host = context.host
    held = [file for file in host.files if file.key in _TRUSTED and file.state == "file"]
    strange = [file for file in held if file.owner not in (0, host.uid) or file.mode & 0o022]
    remarks = [
        Remark(f"{file.path} belongs to the user {file.owner} and has mode {file.mode:04o}", (file.key,))
        for file in strange
    ]
    fix = [f"chown root:arqonbus {file.path} && chmod 0640 {file.path}" for file in strange]
    return verdict(remarks, expected="root or the user of the bus, and no right to write for others", fix=fix)
