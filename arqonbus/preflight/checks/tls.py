"""TLS: the server certificate and its key, and encrypted connections to datastores."""

from __future__ import annotations

from collections.abc import Iterable

from arqonbus.preflight.checks.net import host_of, is_local
from arqonbus.preflight.facts import CertificateFact, KeyFact
from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
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

DAY = 86_400.0
EXPIRY_DAYS = 21

_SETTINGS = (
    "server.tls",
    "datastores.valkey.tls",
    "datastores.postgres.ca_file",
    "datastores.nats.tls",
    "auth.jwt.jwks_ca_file",
)
_CERT, _KEY, _CA = "server.tls.cert_file", "server.tls.key_file", "server.tls.client_ca_file"
_FILES = "ARQ-TLS-003"
_READABLE = (_FILES, "ARQ-TLS-004")


@check(
    "ARQ-TLS-001",
    "cert_file and key_file are set together",
    severity=EVERYWHERE,
    why="With only one of them, the bus does not start, or listens without TLS.",
    fix=("$EDITOR FILE   # server: {tls: {cert_file: …, key_file: …}}",),
    reads=("server.tls", "datastores.valkey.tls"),
)
def pairs_are_complete(context: Context) -> Outcome:
    remarks = []
    for name, cert, key in (
        ("server.tls", context.settings.server.tls.cert_file, context.settings.server.tls.key_file),
        (
            "datastores.valkey.tls",
            context.settings.datastores.valkey.tls.cert_file,
            context.settings.datastores.valkey.tls.key_file,
        ),
    ):
        if (cert is None) != (key is None):
            there, missing = ("key_file", "cert_file") if cert is None else ("cert_file", "key_file")
            remarks.append(Remark(f"{name}.{there} is set and {missing} is not", (f"{name}.{there}",)))
    return verdict(remarks, expected="both or neither")


@check(
    "ARQ-TLS-002",
    "auth.service_mtls has a client CA and a TLS listener",
    severity=EVERYWHERE,
    why="Without the CA, no client certificate can be verified, and every service is refused.",
    fix=("$EDITOR FILE   # server: {tls: {client_ca_file: /etc/arqonbus/tls/clients-ca.pem}}",),
    reads=("auth.service_mtls", "server.tls"),
)
def mtls_has_an_authority(context: Context) -> Outcome:
    tls = context.settings.server.tls
    remarks = []
    if context.settings.auth.service_mtls and tls.client_ca_file is None:
        remarks.append(Remark(f"auth.service_mtls is on and {_CA} is not set", ("auth.service_mtls",)))
    if context.settings.auth.service_mtls and tls.cert_file is None:
        remarks.append(Remark("auth.service_mtls is on and the bus has no TLS", ("auth.service_mtls",)))
    return verdict(remarks, expected=f"{_CA} and {_CERT}")


@check(
    _FILES,
    "Every TLS file exists and is readable",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus reads these files when it starts; without them it does not start.",
    fix=("ls -l FILE", "chown root:arqonbus FILE && chmod 0640 FILE"),
    reads=_SETTINGS,
)
def files_can_be_read(context: Context) -> Outcome:
    named = [f for f in context.host.files if f.key.endswith(("cert_file", "key_file", "ca_file"))]
    bad = [file for file in named if file.state != "file"]
    remarks = [Remark(f"{file.path} {file.reason or 'is not a regular file'}", (file.key,)) for file in bad]
    fix = [
        f"install -o root -g arqonbus -m 0640 YOURS {file.path}   # PEM"
        if file.state == "missing"
        else f"chown root:arqonbus {file.path} && chmod 0640 {file.path}"
        for file in bad
    ]
    return verdict(remarks, expected="regular files that the user of the bus can read", fix=fix)


def _certificates(context: Context, *keys: str) -> list[CertificateFact]:
    return [each for each in context.host.certificates if not keys or each.key in keys]


def _keys(context: Context) -> list[KeyFact]:
    return list(context.host.keys)


@check(
    "ARQ-TLS-004",
    "cert_file and ca_file hold certificates, and key_file holds a key",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="With swapped or damaged files the bus does not start, and a private key could be sent to clients.",
    fix=("head -1 FILE", "$EDITOR FILE   # switch cert_file and key_file"),
    reads=_SETTINGS,
    requires=(_FILES,),
)
def files_hold_what_they_should(context: Context) -> Outcome:
    remarks = []
    for cert in _certificates(context):
        what = {"not_pem": "holds no certificate in PEM", "holds_key": "holds a private key"}
        if cert.problem:
            remarks.append(Remark(f"{cert.path} {what[cert.problem]}", (cert.key,)))
    for key in _keys(context):
        if key.problem in ("not_pem", "holds_certificate"):
            held = "holds a certificate" if key.problem == "holds_certificate" else "holds no key in PEM"
            remarks.append(Remark(f"{key.path} {held}", (key.key,)))
    return verdict(remarks, expected="certificates in cert_file and ca_file, the key in key_file")


@check(
    "ARQ-TLS-005",
    "Private keys are not encrypted",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus cannot enter a passphrase, so it does not start.",
    fix=("openssl pkey -in KEY -out KEY.plain && chmod 0600 KEY.plain",),
    reads=("server.tls", "datastores.valkey.tls"),
    requires=_READABLE,
)
def keys_are_plain(context: Context) -> Outcome:
    locked = [key for key in _keys(context) if key.problem == "encrypted"]
    remarks = [Remark(f"{key.path} is encrypted", (key.key,)) for key in locked]
    return verdict(remarks, expected="a key without a passphrase, protected by its file mode")


@check(
    "ARQ-TLS-006",
    "The private key matches the certificate",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus does not start with a mismatched pair. Usually only one of the two files was renewed.",
    fix=(
        "openssl x509 -in CERT -noout -pubkey | sha256sum",
        "openssl pkey -in KEY -pubout | sha256sum   # must print the same",
    ),
    reads=("server.tls", "datastores.valkey.tls"),
    requires=(*_READABLE, "ARQ-TLS-005"),
)
def pairs_match(context: Context) -> Outcome:
    strangers = [key for key in _keys(context) if key.matches is False]
    remarks = [
        Remark(f"{key.path} does not match the certificate in cert_file", (key.key,)) for key in strangers
    ]
    return verdict(remarks, expected="a certificate that was issued for this key")


def _dated(context: Context, certificates: Iterable[CertificateFact]) -> Outcome | None:
    return None if list(certificates) else skipped("the profile names no certificate")


@check(
    "ARQ-TLS-007",
    "No certificate has expired",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="Clients refuse an expired certificate and cannot connect.",
    fix=("openssl x509 -in CERT -noout -enddate", "see the runbook certificate renewal"),
    reads=_SETTINGS,
    requires=_READABLE,
)
def certificates_are_current(context: Context) -> Outcome:
    certificates = _certificates(context)
    remarks = [
        Remark(f"{each.path} expired {_days(context.now - each.not_after)} ago", (each.key,))
        for each in certificates
        if each.not_after <= context.now
    ]
    return _dated(context, certificates) or verdict(remarks, expected="an expiry date in the future")


@check(
    "ARQ-TLS-008",
    f"No certificate expires within {EXPIRY_DAYS} days",
    phase=Phase.HOST,
    severity=WARNING_EVERYWHERE,
    why="A failed renewal is reported while there is still time to renew by hand.",
    fix=("openssl x509 -in CERT -noout -enddate", "see the runbook certificate renewal"),
    reads=_SETTINGS,
    requires=(*_READABLE, "ARQ-TLS-007"),
)
def certificates_last(context: Context) -> Outcome:
    remarks = [
        Remark(f"{each.path} expires in {_days(each.not_after - context.now)}", (each.key,))
        for each in _certificates(context)
        if each.not_after - context.now < EXPIRY_DAYS * DAY
    ]
    return verdict(remarks, expected=f"at least {EXPIRY_DAYS} days")


@check(
    "ARQ-TLS-009",
    "Every certificate is already valid",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="A certificate that is not valid yet is refused. Usually the clock of this host is wrong.",
    fix=("date -u", "openssl x509 -in CERT -noout -startdate"),
    reads=_SETTINGS,
    requires=_READABLE,
)
def certificates_have_begun(context: Context) -> Outcome:
    remarks = [
        Remark(f"{each.path} becomes valid in {_days(each.not_before - context.now)}", (each.key,))
        for each in _certificates(context)
        if each.not_before > context.now
    ]
    return verdict(remarks, expected="a start date in the past")


@check(
    "ARQ-TLS-010",
    "The certificate covers the host of server.public_url",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Clients refuse a certificate that does not name the host to which they connect.",
    fix=("openssl x509 -in CERT -noout -ext subjectAltName",),
    reads=("server.tls", "server.public_url"),
    requires=_READABLE,
)
def certificate_names_the_host(context: Context) -> Outcome:
    host = host_of(context.settings.server.public_url)
    certificates = _certificates(context, _CERT)
    if not host or not certificates:
        return skipped("server.public_url or server.tls.cert_file is not set")
    remarks = [
        Remark(f"{each.path} covers {', '.join(each.names) or 'no name'}, not {host}", (_CERT,))
        for each in certificates
        if not any(_name_covers(name, host) for name in each.names)
    ]
    return verdict(remarks, expected=f"{host} among the subject alternative names")


def _name_covers(name: str, host: str) -> bool:
    name = name.lower()
    if name.startswith("*."):  # RFC 6125: the wildcard matches one whole label
        return "." in host and host.partition(".")[2] == name[2:]
    return name == host


@check(
    "ARQ-TLS-011",
    "cert_file holds the full certificate chain",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="Clients that have only the root CA cannot verify the certificate: browsers often can, SDKs fail.",
    fix=("cat server.pem intermediate.pem > CERT",),
    reads=("server.tls",),
    requires=_READABLE,
)
def chain_is_complete(context: Context) -> Outcome:
    broken = [each for each in _certificates(context, _CERT) if not each.chain_complete]
    remarks = [
        Remark(f"{each.path} does not contain the issuer of its first certificate", (_CERT,))
        for each in broken
    ]
    return verdict(remarks, expected="the server certificate first, then every intermediate certificate")


@check(
    "ARQ-TLS-012",
    "Private keys are readable by owner and group only",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Any user who can read the key can impersonate this server.",
    fix=("chmod 0640 KEY",),
    reads=("server.tls", "datastores.valkey.tls"),
    requires=(_FILES,),
)
def keys_are_private(context: Context) -> Outcome:
    open_keys = [key for key in _keys(context) if key.mode & 0o027]
    remarks = [Remark(f"{key.path} has mode {key.mode:04o}", (key.key,)) for key in open_keys]
    fix = [f"chmod 0640 {key.path}" for key in open_keys]
    return verdict(remarks, expected="mode 0640 or stricter", fix=fix)


_LEAST_BITS = {"RSA": 2048, "DSA": 2**16, "EC": 256, "Ed25519": 256, "Ed448": 256}


@check(
    "ARQ-TLS-013",
    "Certificates use strong keys and signatures",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Short keys and SHA-1 signatures can be forged; current clients refuse them.",
    fix=("openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout KEY -out CSR",),
    reads=("server.tls", "datastores.valkey.tls"),
    requires=_READABLE,
)
def certificates_are_strong(context: Context) -> Outcome:
    remarks = []
    for each in _certificates(context):
        if each.key_bits < _LEAST_BITS.get(each.key_kind, 0):
            remarks.append(
                Remark(f"{each.path} has a key of {each.key_bits} bits ({each.key_kind})", (each.key,))
            )
        if each.signature_hash in ("sha1", "md5"):
            remarks.append(Remark(f"{each.path} is signed with {each.signature_hash.upper()}", (each.key,)))
    return verdict(remarks, expected="RSA with 2048 bits or an elliptic curve with 256, and SHA-256")


@check(
    "ARQ-TLS-014",
    "The certificate is a server certificate signed by a CA",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Clients verify issuer and purpose; if that fails, users tend to disable verification.",
    fix=("openssl x509 -in CERT -noout -purpose",),
    reads=("server.tls",),
    requires=_READABLE,
)
def certificate_is_for_servers(context: Context) -> Outcome:
    remarks = []
    for each in _certificates(context, _CERT):
        if each.self_signed:
            remarks.append(Remark(f"{each.path} is self-signed", (_CERT,)))
        if each.authority and not each.self_signed:
            remarks.append(Remark(f"{each.path} is a CA certificate", (_CERT,)))
        if not each.for_servers:
            remarks.append(Remark(f"{each.path} lacks the purpose serverAuth", (_CERT,)))
    return verdict(remarks, expected="a certificate signed by a CA, with serverAuth")


@check(
    "ARQ-TLS-015",
    "ca_file holds CA certificates",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="A certificate that is not a CA verifies no other certificate: every connection fails.",
    fix=("openssl x509 -in CA -noout -ext basicConstraints   # must say CA:TRUE",),
    reads=_SETTINGS,
    requires=_READABLE,
)
def authorities_may_sign(context: Context) -> Outcome:
    remarks = [
        Remark(f"{each.path} is not a CA certificate", (each.key,))
        for each in _certificates(context)
        if each.key.endswith("ca_file") and not each.authority
    ]
    return verdict(remarks, expected="CA:TRUE")


@check(
    "ARQ-TLS-016",
    "The connection to Valkey is configured with TLS",
    severity=OUTSIDE_DEV,
    why="Without TLS, the password and every message can be read on the network.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: valkeys://…, tls: {enabled: true, ca_file: …}}}",),
    reads=("datastores.valkey.url", "datastores.valkey.tls.enabled"),
    tags=("encryption",),
)
def valkey_is_encrypted(context: Context) -> Outcome:
    valkey = context.settings.datastores.valkey
    if not valkey.configured:
        return skipped("no Valkey is configured")
    plain = not valkey.encrypted and not (valkey.url or "").startswith("unix:")
    remarks = (
        [Remark("datastores.valkey is configured without TLS", ("datastores.valkey.url",))] if plain else []
    )
    return verdict(remarks, expected="valkeys://, or datastores.valkey.tls.enabled")


@check(
    "ARQ-TLS-017",
    "The connection to Postgres uses sslmode verify-full",
    severity=OUTSIDE_DEV,
    why="Any other mode does not verify the server: an impostor would get the data.",
    fix=("$EDITOR FILE   # datastores: {postgres: {sslmode: verify-full, ca_file: …}}",),
    reads=("datastores.postgres.sslmode", "datastores.postgres.url", "datastores.postgres.host"),
    tags=("encryption",),
)
def postgres_is_verified(context: Context) -> Outcome:
    postgres = context.settings.datastores.postgres
    if not postgres.configured:
        return skipped("no Postgres is configured")
    remarks = []
    if postgres.sslmode != "verify-full":
        text = f"sslmode is {postgres.sslmode}"
        remarks.append(Remark(text, ("datastores.postgres.sslmode",)))
    if "sslmode=" in (postgres.url or "") and "sslmode=verify-full" not in (postgres.url or ""):
        remarks.append(Remark("the URL sets another sslmode", ("datastores.postgres.url",)))
    return verdict(remarks, expected="verify-full")


@check(
    "ARQ-TLS-018",
    "The connection to NATS is configured with TLS",
    severity=OUTSIDE_DEV,
    why="Without TLS, messages can be read on the network.",
    fix=("$EDITOR FILE   # datastores: {nats: {url: tls://nats.your-domain:4222}}",),
    reads=("datastores.nats.url", "datastores.nats.tls.enabled"),
    tags=("encryption",),
)
def nats_is_encrypted(context: Context) -> Outcome:
    if context.settings.datastores.nats.url is None:
        return skipped("no NATS is configured")
    encrypted = context.settings.datastores.nats.encrypted
    return verdict([] if encrypted else ["datastores.nats is configured without TLS"], expected="tls://")


@check(
    "ARQ-TLS-019",
    "Traces are sent over TLS, or to this host",
    severity=WARNING_OUTSIDE_DEV,
    why="Traces contain tenant and room names.",
    fix=("$EDITOR FILE   # telemetry: {otlp_endpoint: https://…}",),
    reads=("telemetry.otlp_endpoint",),
    tags=("encryption",),
)
def traces_are_encrypted(context: Context) -> Outcome:
    url = context.settings.telemetry.otlp_endpoint
    plain = url is not None and url.startswith("http://") and not is_local(host_of(url))
    return verdict([f"traces are sent to {host_of(url)} without TLS"] if plain else [], expected="https://")


def _days(seconds: float) -> str:
    days = int(seconds // DAY)
    return "less than a day" if days < 1 else "one day" if days == 1 else f"{days} days"


__all__ = ["EXPIRY_DAYS"]
