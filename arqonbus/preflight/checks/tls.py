"""TLS: the certificate that clients see, its key, and encryption towards everything else."""

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
    "Certificate and key come as a pair",
    severity=EVERYWHERE,
    why="With one of them only, the bus either does not start or listens in the clear.",
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
    "Services that must show a certificate can be verified",
    severity=EVERYWHERE,
    why="Without the authority that signed them none can be verified, and every service is refused.",
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
    "Every TLS file is there and can be read",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus opens them at its start and does not start without them.",
    fix=("ls -l FILE", "chown root:arqonbus FILE && chmod 0640 FILE"),
    reads=_SETTINGS,
)
def files_can_be_read(context: Context) -> Outcome:
    named = [f for f in context.host.files if f.key.endswith(("cert_file", "key_file", "ca_file"))]
    bad = [file for file in named if file.state != "file"]
    remarks = [Remark(f"{file.path} {file.reason or 'is no regular file'}", (file.key,)) for file in bad]
    fix = [
        f"install -o root -g arqonbus -m 0640 YOURS {file.path}   # PEM"
        if file.state == "missing"
        else f"chown root:arqonbus {file.path} && chmod 0640 {file.path}"
        for file in bad
    ]
    return verdict(remarks, expected="regular files that the user of the bus may read", fix=fix)


def _certificates(context: Context, *keys: str) -> list[CertificateFact]:
    return [each for each in context.host.certificates if not keys or each.key in keys]


def _keys(context: Context) -> list[KeyFact]:
    return list(context.host.keys)


@check(
    "ARQ-TLS-004",
    "Certificates are where certificates belong, and keys where keys do",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="Switched or damaged files stop the start, and a key in the place of a certificate may be sent out.",
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
    why="There is nobody to type the passphrase at a start, so the bus does not start.",
    fix=("openssl pkey -in KEY -out KEY.plain && chmod 0600 KEY.plain",),
    reads=("server.tls", "datastores.valkey.tls"),
    requires=_READABLE,
)
def keys_are_plain(context: Context) -> Outcome:
    locked = [key for key in _keys(context) if key.problem == "encrypted"]
    remarks = [Remark(f"{key.path} is encrypted", (key.key,)) for key in locked]
    return verdict(remarks, expected="a key without a passphrase, protected by its mode")


@check(
    "ARQ-TLS-006",
    "Certificate and key belong together",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The TLS library refuses the pair, and the bus does not start; mostly one of two was renewed.",
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
        Remark(f"{key.path} is not the key of the certificate beside it", (key.key,)) for key in strangers
    ]
    return verdict(remarks, expected="a certificate made for this key")


def _dated(context: Context, certificates: Iterable[CertificateFact]) -> Outcome | None:
    return None if list(certificates) else skipped("the profile names no certificate")


@check(
    "ARQ-TLS-007",
    "No certificate has expired",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="Clients refuse an expired certificate: to them the bus is down.",
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
    return _dated(context, certificates) or verdict(remarks, expected="an end in the future")


@check(
    "ARQ-TLS-008",
    f"No certificate expires within {EXPIRY_DAYS} days",
    phase=Phase.HOST,
    severity=WARNING_EVERYWHERE,
    why="A renewal that failed shows here while there is time to do it by hand.",
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
    return verdict(remarks, expected=f"{EXPIRY_DAYS} days at least")


@check(
    "ARQ-TLS-009",
    "Every certificate is valid already",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="A certificate of the future is refused; mostly it is the clock of this host that is wrong.",
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
    return verdict(remarks, expected="a beginning in the past")


@check(
    "ARQ-TLS-010",
    "The certificate is for the public name",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Clients compare the name that they connect to with the certificate, and refuse another one.",
    fix=("openssl x509 -in CERT -noout -ext subjectAltName",),
    reads=("server.tls", "server.public_url"),
    requires=_READABLE,
)
def certificate_names_the_host(context: Context) -> Outcome:
    host = host_of(context.settings.server.public_url)
    certificates = _certificates(context, _CERT)
    if not host or not certificates:
        return skipped("there is no public host, or no certificate of the bus")
    remarks = [
        Remark(f"{each.path} is for {', '.join(each.names) or 'no name'}, not for {host}", (_CERT,))
        for each in certificates
        if not any(_name_covers(name, host) for name in each.names)
    ]
    return verdict(remarks, expected=f"{host} among the subject alternative names")


def _name_covers(name: str, host: str) -> bool:
    name = name.lower()
    if name.startswith("*."):  # RFC 6125: the star stands for one whole label
        return "." in host and host.partition(".")[2] == name[2:]
    return name == host


@check(
    "ARQ-TLS-011",
    "The certificate comes with its chain",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="Clients that know only the root cannot verify this certificate; browsers hide that, SDKs fail.",
    fix=("cat server.pem intermediate.pem > CERT",),
    reads=("server.tls",),
    requires=_READABLE,
)
def chain_is_complete(context: Context) -> Outcome:
    broken = [each for each in _certificates(context, _CERT) if not each.chain_complete]
    remarks = [
        Remark(f"{each.path} does not hold the issuer of its first certificate", (_CERT,)) for each in broken
    ]
    return verdict(remarks, expected="the certificate first, then each issuer up to the root's last child")


@check(
    "ARQ-TLS-012",
    "Only the owner and the group can read private keys",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Whoever reads the key can be this server.",
    fix=("chmod 0640 KEY",),
    reads=("server.tls", "datastores.valkey.tls"),
    requires=(_FILES,),
)
def keys_are_private(context: Context) -> Outcome:
    open_keys = [key for key in _keys(context) if key.mode & 0o027]
    remarks = [Remark(f"{key.path} has mode {key.mode:04o}", (key.key,)) for key in open_keys]
    fix = [f"chmod 0640 {key.path}" for key in open_keys]
    return verdict(remarks, expected="mode 0640 or less", fix=fix)


_LEAST_BITS = {"RSA": 2048, "DSA": 2**16, "EC": 256, "Ed25519": 256, "Ed448": 256}


@check(
    "ARQ-TLS-013",
    "Keys and signatures are strong enough",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="Short keys and SHA-1 signatures can be forged, and current clients refuse them.",
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
    return verdict(remarks, expected="RSA of 2048 bits, or an elliptic curve of 256; SHA-256")


@check(
    "ARQ-TLS-014",
    "The certificate of the bus is one for servers, signed by an authority",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="A client verifies who vouches for it and what for; with neither, people switch verification off.",
    fix=("openssl x509 -in CERT -noout -purpose",),
    reads=("server.tls",),
    requires=_READABLE,
)
def certificate_is_for_servers(context: Context) -> Outcome:
    remarks = []
    for each in _certificates(context, _CERT):
        if each.self_signed:
            remarks.append(Remark(f"{each.path} is signed by itself", (_CERT,)))
        if each.authority and not each.self_signed:
            remarks.append(Remark(f"{each.path} is the certificate of an authority", (_CERT,)))
        if not each.for_servers:
            remarks.append(Remark(f"{each.path} is not made for servers", (_CERT,)))
    return verdict(remarks, expected="a certificate of an authority, with serverAuth")


@check(
    "ARQ-TLS-015",
    "Authorities are authorities",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="A certificate that may not sign verifies nobody: every connection through it fails.",
    fix=("openssl x509 -in CA -noout -ext basicConstraints   # must say CA:TRUE",),
    reads=_SETTINGS,
    requires=_READABLE,
)
def authorities_may_sign(context: Context) -> Outcome:
    remarks = [
        Remark(f"{each.path} may not sign certificates", (each.key,))
        for each in _certificates(context)
        if each.key.endswith("ca_file") and not each.authority
    ]
    return verdict(remarks, expected="CA:TRUE")


@check(
    "ARQ-TLS-016",
    "Valkey is reached over TLS",
    severity=OUTSIDE_DEV,
    why="The password and every message would cross the network in the clear.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: valkeys://…, tls: {enabled: true, ca_file: …}}}",),
    reads=("datastores.valkey.url", "datastores.valkey.tls.enabled"),
    tags=("encryption",),
)
def valkey_is_encrypted(context: Context) -> Outcome:
    valkey = context.settings.datastores.valkey
    if not valkey.configured:
        return skipped("no Valkey is configured")
    plain = not valkey.encrypted and not (valkey.url or "").startswith("unix:")
    remarks = [Remark("Valkey is reached without TLS", ("datastores.valkey.url",))] if plain else []
    return verdict(remarks, expected="valkeys://, or datastores.valkey.tls.enabled")


@check(
    "ARQ-TLS-017",
    "Postgres is reached over TLS, and verified",
    severity=OUTSIDE_DEV,
    why="Any other mode accepts a stranger in the place of the server, and gives them the data.",
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
    "NATS is reached over TLS",
    severity=OUTSIDE_DEV,
    why="Messages would cross the network in the clear.",
    fix=("$EDITOR FILE   # datastores: {nats: {url: tls://nats.your-domain:4222}}",),
    reads=("datastores.nats.url", "datastores.nats.tls.enabled"),
    tags=("encryption",),
)
def nats_is_encrypted(context: Context) -> Outcome:
    if context.settings.datastores.nats.url is None:
        return skipped("no NATS is configured")
    encrypted = context.settings.datastores.nats.encrypted
    return verdict([] if encrypted else ["NATS is reached without TLS"], expected="tls://")


@check(
    "ARQ-TLS-019",
    "Traces are sent over TLS, or stay on this host",
    severity=WARNING_OUTSIDE_DEV,
    why="Traces name tenants and rooms.",
    fix=("$EDITOR FILE   # telemetry: {otlp_endpoint: https://…}",),
    reads=("telemetry.otlp_endpoint",),
    tags=("encryption",),
)
def traces_are_encrypted(context: Context) -> Outcome:
    url = context.settings.telemetry.otlp_endpoint
    plain = url is not None and url.startswith("http://") and not is_local(host_of(url))
    return verdict([f"traces go to {host_of(url)} without TLS"] if plain else [], expected="https://")


def _days(seconds: float) -> str:
    days = int(seconds // DAY)
    return "less than a day" if days < 1 else "one day" if days == 1 else f"{days} days"


__all__ = ["EXPIRY_DAYS"]
