"""Facts about certificate and key files, never the key itself.

Reads the given files. Invalid content is a fact, too.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from arqonbus.preflight.facts import CertificateFact, KeyFact

_KEY_MARK = b"PRIVATE KEY-----"
_CERTIFICATE_MARK = b"-----BEGIN CERTIFICATE-----"


def certificate_fact(key: str, path: Path, pem: bytes) -> CertificateFact:
    """Facts about the first certificate in a PEM text."""
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        problem = "holds_key" if _KEY_MARK in pem else "not_pem"
        return CertificateFact(key=key, path=str(path), problem=problem)  # type: ignore[arg-type]
    first = chain[0]
    kind, bits = _key_size(first)
    own = first.issuer == first.subject
    return CertificateFact(
        key=key,
        path=str(path),
        subject=first.subject.rfc4514_string(),
        names=_names(first),
        not_before=_seconds(first.not_valid_before_utc),
        not_after=_seconds(first.not_valid_after_utc),
        authority=_is_authority(first),
        self_signed=own,
        chain_complete=own or _has_issuer(first, chain[1:]),
        for_servers=_is_for_servers(first),
        key_kind=kind,
        key_bits=bits,
        signature_hash=_hash(first),
    )


def key_fact(
    key: str, path: Path, pem: bytes, *, mode: int, owner: int, certificate: bytes | None
) -> KeyFact:
    """Facts about a private key in PEM, and whether it matches the certificate."""
    fact = {"key": key, "path": str(path), "mode": mode, "owner": owner}
    if _KEY_MARK not in pem:
        problem = "holds_certificate" if _CERTIFICATE_MARK in pem else "not_pem"
        return KeyFact(**fact, problem=problem)  # type: ignore[arg-type]
    try:
        private = load_pem_private_key(pem, None)
    except TypeError:
        return KeyFact(**fact, problem="encrypted")  # type: ignore[arg-type]
    except (ValueError, UnsupportedAlgorithm):
        return KeyFact(**fact, problem="not_pem")  # type: ignore[arg-type]
    return KeyFact(**fact, matches=_matches(_public_bytes(private.public_key()), certificate))  # type: ignore[arg-type]


def _matches(public: bytes, certificate: bytes | None) -> bool | None:
    if certificate is None:
        return None
    try:
        return _public_bytes(x509.load_pem_x509_certificate(certificate).public_key()) == public
    except (ValueError, UnsupportedAlgorithm):
        return None


def _public_bytes(public: object) -> bytes:
    raw: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return raw


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        # Clients ignore the common name (RFC 9110, 4.3.4): it is reported, but matches no host.
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return tuple(f"CN={each.value!s}" for each in common)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _is_for_servers(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _has_issuer(certificate: x509.Certificate, others: list[x509.Certificate]) -> bool:
    for other in others:
        try:
            certificate.verify_directly_issued_by(other)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def _key_size(certificate: x509.Certificate) -> tuple[str, int]:
    try:
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "unknown", 0
    match public:
        case rsa.RSAPublicKey():
            return "RSA", public.key_size
        case dsa.DSAPublicKey():
            return "DSA", public.key_size
        case ec.EllipticCurvePublicKey():
            return "EC", public.key_size
        case ed25519.Ed25519PublicKey():
            return "Ed25519", 256
        case ed448.Ed448PublicKey():
            return "Ed448", 456
        case _:
            return "unknown", 0


def _hash(certificate: x509.Certificate) -> str:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "unknown"
    return algorithm.name if algorithm else ""


__all__ = ["certificate_fact", "key_fact"]
