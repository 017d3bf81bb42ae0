"""SEC: what tokens are verified with, how strong secrets are, and where they come from.

Secrets are looked at and never shown: no remark holds one, or says how it begins.
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
        "Signatures of tokens are verified",
        Phase.STATIC,
        FATAL_OUTSIDE_DEV,
        "Whoever can write JSON could be anybody in any tenant. Even `false` stands one typo away from that.",
        ("unset JWT_SKIP_VALIDATION", "$EDITOR FILE   # remove auth.jwt.skip_validation"),
        judge_fault(Fault.VALIDATION_SKIPPED, expected="no such setting, whatever its value"),
        tags=("load", "tokens"),
    )
)
add(
    Check(
        "ARQ-SEC-002",
        "No secret stands in a file of the profile or on a command line",
        Phase.STATIC,
        EVERYWHERE,
        "Profiles are read by many, copied and committed; a command line shows in the process list.",
        (
            "$EDITOR FILE   # {from: credential, name: NAME}",
            f"{MAKE_SECRET}   # the old one is burnt",
        ),
        judge_fault(Fault.LITERAL_SECRET, expected="a reference to where the secret is"),
        tags=("load", "secrets"),
    )
)


def secrets_of(context: Context) -> Iterator[tuple[str, str]]:
    """The keys and values of all secrets that are set."""
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
    "No secret is a well-known one",
    severity=WARN_IN_DEV,
    why="Secrets of examples and placeholders are the first that anybody tries.",
    fix=(MAKE_SECRET,),
    tags=("secrets",),
)
def secrets_are_not_well_known(context: Context) -> Outcome:
    known = [key for key, value in secrets_of(context) if is_well_known(value)]
    remarks = [Remark(f"{key} looks like a placeholder", (key,)) for key in known]
    return verdict(remarks, expected="random characters")


@check(
    "ARQ-SEC-005",
    f"The secret of tokens has {LEAST_BYTES} bytes at least",
    severity=WARN_IN_DEV,
    why="A shorter one than its hash can be guessed from one token, without asking the bus (RFC 7518, 3.2).",
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
    "The secret of tokens is random",
    severity=WARN_IN_DEV,
    why="A long word, a sentence or a pattern is found by trying, however long it is.",
    fix=(MAKE_SECRET,),
    reads=(JWT_SECRET,),
    requires=("ARQ-SEC-005",),
    tags=("tokens", "secrets"),
)
def secret_is_random(context: Context) -> Outcome:
    secret = _jwt_secret(context)
    weak = is_patterned(secret)
    return verdict(
        ["it follows a pattern, or repeats few characters"] if weak else [], expected="random characters"
    )


@check(
    "ARQ-SEC-007",
    "No other environment has the same secret of tokens",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="A token made in staging would open production.",
    fix=(MAKE_SECRET,),
    reads=(JWT_SECRET,),
    tags=("tokens", "secrets"),
)
def secret_is_this_environments(context: Context) -> Outcome:
    secret = _jwt_secret(context)
    others = context.host.secret_fingerprints
    if not secret or not others:
        return skipped("no other environment has left a receipt or a secret beside this profile")
    own = fingerprint(secret)
    same = [name for name, other in sorted(others.items()) if other == own]
    return verdict([f"{name} has the same" for name in same], expected="a secret for each environment")


@check(
    "ARQ-SEC-011",
    "The previous secret is on its way out",
    severity=WARNING_EVERYWHERE,
    why="A rotation that is not finished leaves the secret in place that was to be replaced.",
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
        return skipped("there is no previous secret")
    until = previous.valid_until.timestamp()
    if until <= context.now:
        remarks.append(Remark("it has ended and is still there", keys))
    if until > context.now + 90 * 86_400:
        remarks.append(Remark("it goes on for more than 90 days", ("auth.jwt.previous_secret.valid_until",)))
    if jwt.secret and jwt.secret.get_secret_value() == previous.value.get_secret_value():
        remarks.append(Remark("it is the same as the current one", keys))
    return verdict(remarks, expected="another secret that ends within 90 days")


@check(
    "ARQ-SEC-016",
    "Secrets are not in the environment",
    severity=WARNING_OUTSIDE_DEV,
    why="Variables show in `docker inspect`, in /proc and in crash reports, and children inherit them.",
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
            remarks.append(Remark(f"{key} comes from the variable {place.source}", (key,)))
    return verdict(remarks, expected="the secrets directory, or a reference")


@check(
    "ARQ-SEC-017",
    "No URL holds a password",
    severity=WARN_IN_DEV,
    why="URLs are shown in errors, logs and process lists of clients.",
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
        Remark(f"{key} holds a password", (key,)) for key, url in urls.items() if url and url.holds_secret
    ]
    return verdict(remarks, expected="the password in a setting of its own")


@check(
    "ARQ-SEC-018",
    "Datastores have passwords, and long ones",
    severity=OUTSIDE_DEV,
    why="Whoever reaches the port of the store has all messages of all tenants.",
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
            remarks.append(Remark(f"{key} has less than {LEAST_PASSWORD} characters", (key,)))
    return verdict(remarks, expected=f"{LEAST_PASSWORD} random characters or more")


@check(
    "ARQ-SEC-019",
    "No secret serves twice",
    severity=WARN_IN_DEV,
    why="Whoever learns one of them has both, and one cannot be changed without the other.",
    fix=(MAKE_SECRET,),
    tags=("secrets",),
)
def secrets_serve_once(context: Context) -> Outcome:
    seen: dict[str, str] = {}
    remarks = []
    for key, value in secrets_of(context):
        if value in seen and key != "auth.jwt.previous_secret.value":
            remarks.append(Remark(f"{key} is the same as {seen[value]}", (key,)))
        seen.setdefault(value, key)
    return verdict(remarks, expected="a secret for each purpose")


@check(
    "ARQ-SEC-020",
    "One connection cannot take everything",
    severity=OUTSIDE_DEV,
    why="Without limits one client that runs wild takes the bus from all others.",
    fix=("$EDITOR FILE   # limits: {messages_per_second: 1000, bytes_per_second: 8MiB}",),
    reads=("limits.messages_per_second", "limits.bytes_per_second"),
    tags=("limits",),
)
def connections_are_limited(context: Context) -> Outcome:
    limits = context.settings.limits
    rates = {
        "limits.messages_per_second": limits.messages_per_second,
        "limits.bytes_per_second": limits.bytes_per_second,
    }
    remarks = [
        Remark(f"{key} is 0, which means no limit", (key,)) for key, rate in rates.items() if rate == 0
    ]
    return verdict(remarks, expected="limits that an honest client never meets")


@check(
    "ARQ-SEC-021",
    "Files of secrets belong to root or to the bus",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Another owner can change the secret, and read it whatever its mode.",
    fix=("chown root:arqonbus FILE && chmod 0640 FILE",),
    tags=("secrets",),
)
def secret_files_are_owned(context: Context) -> Outcome:
    host = context.host
    held = [file for file in host.files if file.key == "secret"] + [
        file for file in host.files if file.key.endswith("key_file") and file.state == "file"
    ]
    strange = [file for file in held if file.owner not in (0, host.uid)]
    remarks = [f"{file.path} belongs to the user {file.owner}" for file in strange]
    fix = [f"chown root:arqonbus {file.path} && chmod 0640 {file.path}" for file in strange]
    return verdict(remarks, expected="root, or the user that the bus runs as", fix=fix)
