"""SEC: token verification keys, strength of secrets, and where secrets are stored.

No remark contains a secret or a part of one.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import SecretStr

from arqonbus.config import Fault
from arqonbus.config.tree import leaves
from arqonbus.preflight.checks.cfg import judge_fault
from arqonbus.preflight.fingerprint import fingerprint
from arqonbus.preflight.model import (
    EVERYWHERE,
    FATAL_OUTSIDE_DEV,
    OUTSIDE_DEV,
    WARN_IN_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Check,
    Context,
    Outcome,
    Phase,
    Remark,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import add, check
from arqonbus.shield.secret_strength import LEAST_BYTES, is_patterned, is_well_known

LEAST_PASSWORD = 12

JWT_SECRET = "auth.jwt.secret"  # noqa: S105 - the name of a setting
MAKE_SECRET = "openssl rand -base64 48 > jwt_secret && chmod 0640 jwt_secret"  # noqa: S105 - a command

add(
    Check(
        "ARQ-SEC-001",
        "Token signatures are verified",
        Phase.STATIC,
        FATAL_OUTSIDE_DEV,
        "Without verification, any client can claim any identity in any tenant. The setting must not be "
        "present at all: even `false` is one edit away from that.",
        ("unset JWT_SKIP_VALIDATION", "$EDITOR FILE   # remove auth.jwt.skip_validation"),
        judge_fault(
            Fault.VALIDATION_SKIPPED, expected="auth.jwt.skip_validation not set at all, not even to false"
        ),
        tags=("load", "tokens"),
    )
)
add(
    Check(
        "ARQ-SEC-002",
        "No secret is in a profile file or on the command line",
        Phase.STATIC,
        EVERYWHERE,
        "Profile files are copied and committed; a command line is visible in the process list.",
        (
            "$EDITOR FILE   # {from: credential, name: NAME}",
            f"{MAKE_SECRET}   # replace the exposed secret",
        ),
        judge_fault(
            Fault.LITERAL_SECRET, expected="a reference to the secret, such as {from: credential, name: NAME}"
        ),
        tags=("load", "secrets"),
    )
)


def secrets_of(context: Context) -> Iterator[tuple[str, str]]:
    """Keys and values of all secrets that are set."""
    for path, leaf in leaves().items():
        value: object = context.settings
        for part in path:
            value = getattr(value, part, None)
        if isinstance(value, SecretStr):
            yield leaf.key, value.get_secret_value()


def _jwt_secret(context: Context) -> str:
    secret = context.settings.auth.jwt.secret
    return secret.get_secret_value() if secret else ""


@check(
    "ARQ-SEC-004",
    "No secret is a known placeholder",
    severity=WARN_IN_DEV,
    why="Attackers try the secrets from examples and placeholders first.",
    fix=(MAKE_SECRET,),
    tags=("secrets",),
)
def secrets_are_not_well_known(context: Context) -> Outcome:
    known = [key for key, value in secrets_of(context) if is_well_known(value)]
    remarks = [Remark(f"{key} looks like a placeholder", (key,)) for key in known]
    return verdict(remarks, expected="random characters")


@check(
    "ARQ-SEC-005",
    f"auth.jwt.secret has at least {LEAST_BYTES} bytes",
    severity=WARN_IN_DEV,
    why="A secret shorter than its hash can be brute-forced offline from one token (RFC 7518, 3.2).",
    fix=(MAKE_SECRET,),
    reads=(JWT_SECRET,),
    tags=("tokens", "secrets"),
)
def secret_is_long(context: Context) -> Outcome:
    secret = _jwt_secret(context)
    if not secret:
        return skipped("tokens are not verified with a secret")
    length = len(secret.encode())
    return verdict(
        [f"auth.jwt.secret has {length} bytes"] if length < LEAST_BYTES else [],
        expected=f"{LEAST_BYTES} or more",
    )


@check(
    "ARQ-SEC-006",
    "auth.jwt.secret is random",
    severity=WARN_IN_DEV,
    why="Words, sentences and patterns can be guessed, whatever their length.",
    fix=(MAKE_SECRET,),
    reads=(JWT_SECRET,),
    requires=("ARQ-SEC-005",),
    tags=("tokens", "secrets"),
)
def secret_is_random(context: Context) -> Outcome:
    secret = _jwt_secret(context)
    weak = is_patterned(secret)
    return verdict(
        ["auth.jwt.secret follows a pattern or has few different characters"] if weak else [],
        expected="random characters",
    )


@check(
    "ARQ-SEC-007",
    "auth.jwt.secret is not shared with another environment",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="A token issued in staging would be valid in production.",
    fix=(MAKE_SECRET,),
    reads=(JWT_SECRET,),
    tags=("tokens", "secrets"),
)
def secret_is_this_environments(context: Context) -> Outcome:
    secret = _jwt_secret(context)
    others = context.host.secret_fingerprints
    if not secret or not others:
        return skipped("no receipt or secret of another environment was found")
    own = fingerprint(secret)
    same = [name for name, other in sorted(others.items()) if other == own]
    return verdict(
        [f"{name} uses the same secret" for name in same], expected="a different secret in each environment"
    )


@check(
    "ARQ-SEC-011",
    "The previous token secret expires within 90 days",
    severity=WARNING_EVERYWHERE,
    why="Until the rotation is finished, the old secret remains valid.",
    fix=("$EDITOR FILE   # remove auth.jwt.previous_secret",),
    reads=("auth.jwt.secret", "auth.jwt.previous_secret"),
    tags=("tokens", "secrets"),
)
def rotation_ends(context: Context) -> Outcome:
    jwt = context.settings.auth.jwt
    previous = jwt.previous_secret
    keys = ("auth.jwt.previous_secret.value",)
    remarks = []
    if previous.value is None or previous.valid_until is None:
        return skipped("auth.jwt.previous_secret is not set")
    until = previous.valid_until.timestamp()
    if until <= context.now:
        remarks.append(Remark("auth.jwt.previous_secret has expired and is still set", keys))
    if until > context.now + 90 * 86_400:
        remarks.append(
            Remark(
                "auth.jwt.previous_secret is valid for more than 90 days",
                ("auth.jwt.previous_secret.valid_until",),
            )
        )
    if jwt.secret and jwt.secret.get_secret_value() == previous.value.get_secret_value():
        remarks.append(Remark("auth.jwt.previous_secret equals the current secret", keys))
    return verdict(remarks, expected="a different secret that expires within 90 days")


@check(
    "ARQ-SEC-016",
    "Secrets are not in environment variables",
    severity=WARNING_OUTSIDE_DEV,
    why="Variables are visible in `docker inspect`, /proc and crash reports; child processes inherit them.",
    fix=(
        "$EDITOR FILE   # {from: credential, name: NAME}",
        "systemctl edit arqonbus@   # LoadCredential=NAME:/etc/arqonbus/secrets/NAME",
    ),
    tags=("secrets",),
)
def secrets_are_not_variables(context: Context) -> Outcome:
    remarks = []
    for key, _ in secrets_of(context):
        place = context.resolved.location(key)
        if place.layer == "environment":
            remarks.append(Remark(f"{key} is set by the variable {place.source}", (key,)))
    return verdict(remarks, expected="the secrets directory, or a reference")


@check(
    "ARQ-SEC-017",
    "No URL contains a password",
    severity=WARN_IN_DEV,
    why="URLs appear in error messages, logs and process lists.",
    fix=("$EDITOR FILE   # password: {from: credential, name: NAME}",),
    reads=("datastores.valkey.url", "datastores.postgres.url", "datastores.nats.url"),
    tags=("secrets",),
)
def urls_hold_no_password(context: Context) -> Outcome:
    stores = context.settings.datastores
    urls = {
        "datastores.valkey.url": stores.valkey.url,
        "datastores.postgres.url": stores.postgres.url,
        "datastores.nats.url": stores.nats.url,
    }
    remarks = [
        Remark(f"{key} contains a password", (key,)) for key, url in urls.items() if url and url.holds_secret
    ]
    return verdict(remarks, expected="the password in its own setting")


@check(
    "ARQ-SEC-018",
    f"Datastore passwords are set and have at least {LEAST_PASSWORD} characters",
    severity=OUTSIDE_DEV,
    why="Without a strong password, any client that reaches the port can read all messages of all tenants.",
    fix=("openssl rand -base64 24 > valkey_password && chmod 0640 valkey_password",),
    reads=("datastores",),
    tags=("secrets",),
)
def passwords_are_long(context: Context) -> Outcome:
    stores = context.settings.datastores
    given = []
    if stores.valkey.url is not None and not stores.valkey.url.holds_secret:
        given.append(("datastores.valkey.password", stores.valkey.password))
    if stores.postgres.configured and not (stores.postgres.url and stores.postgres.url.holds_secret):
        given.append(("datastores.postgres.password", stores.postgres.password))
    if stores.nats.url is not None and not stores.nats.url.holds_secret:
        given.append(("datastores.nats.password", stores.nats.password))
    remarks = []
    for key, secret in given:
        if secret is None:
            remarks.append(Remark(f"{key} is not set", (key,)))
        elif len(secret.get_secret_value()) < LEAST_PASSWORD:
            remarks.append(Remark(f"{key} has fewer than {LEAST_PASSWORD} characters", (key,)))
    return verdict(remarks, expected=f"at least {LEAST_PASSWORD} random characters")


@check(
    "ARQ-SEC-019",
    "No secret is used for two purposes",
    severity=WARN_IN_DEV,
    why="If one leaks, both are exposed, and one cannot be rotated without the other.",
    fix=(MAKE_SECRET,),
    tags=("secrets",),
)
def secrets_serve_once(context: Context) -> Outcome:
    seen: dict[str, str] = {}
    remarks = []
    for key, value in secrets_of(context):
        if value in seen and key != "auth.jwt.previous_secret.value":
            remarks.append(Remark(f"{key} equals {seen[value]}", (key,)))
        seen.setdefault(value, key)
    return verdict(remarks, expected="a different secret for each purpose")


@check(
    "ARQ-SEC-020",
    "Rate limits per connection are set",
    severity=OUTSIDE_DEV,
    why="Without limits, one misbehaving client can starve all others.",
    fix=("$EDITOR FILE   # limits: {messages_per_second: 1000, bytes_per_second: 8MiB}",),
    reads=("limits.messages_per_second", "limits.bytes_per_second", "limits.failed_logins_per_minute"),
    tags=("limits",),
)
def connections_are_limited(context: Context) -> Outcome:
    limits = context.settings.limits
    rates = {
        "limits.messages_per_second": limits.messages_per_second,
        "limits.bytes_per_second": limits.bytes_per_second,
        "limits.failed_logins_per_minute": limits.failed_logins_per_minute,
    }
    remarks = [
        Remark(f"{key} is 0, which means no limit", (key,)) for key, rate in rates.items() if rate == 0
    ]
    return verdict(remarks, expected="limits above 0 that normal clients do not reach")


@check(
    "ARQ-SEC-021",
    "Secret files are owned by root or the user of the bus",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Any other owner can read and change the secret, whatever its mode.",
    fix=("chown root:arqonbus FILE && chmod 0640 FILE",),
    tags=("secrets",),
)
def secret_files_are_owned(context: Context) -> Outcome:
    host = context.host
    held = [file for file in host.files if file.key == "secret"] + [
        file for file in host.files if file.key.endswith("key_file") and file.state == "file"
    ]
    strange = [file for file in held if file.owner not in (0, host.uid)]
    remarks = [f"{file.path} is owned by user {file.owner}" for file in strange]
    fix = [f"chown root:arqonbus {file.path} && chmod 0640 {file.path}" for file in strange]
    return verdict(remarks, expected="root, or the user of the bus", fix=fix)
