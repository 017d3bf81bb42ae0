"""A certificate on a host, and what is served with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from posixpath import dirname

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from arqonbus.deploy.drift.hosts import belongs
from arqonbus.deploy.drift.model import Expectation, Judge

# The rollout renews what has fewer left.
RENEW_DAYS = 30
_SECONDS = 5


def certificate(
    path: str,
    group: str,
    authority: Path,
    names: tuple[str, ...],
    endpoint: str,
    mend: str,
    *,
    protocol: str = "",
) -> Iterator[Expectation]:
    """The file is of the authority, for these names, valid for a while; the endpoint serves it."""
    directory = dirname(path)
    yield belongs(f"{directory}/server.key", "root", group, "0640", mend)
    connect = f"openssl s_client {protocol} -connect {endpoint} -servername {names[0]}"
    yield Expectation(
        "ARQ-DRF-024",
        path,
        f"cat {path}; echo ===; timeout {_SECONDS} {connect} 2>/dev/null",
        is_valid(authority.read_bytes(), names, datetime.now(UTC)),
        mend,
    )


def is_valid(authority: bytes, names: tuple[str, ...], now: datetime) -> Judge:
    """The certificate in the file and the one that was served, with === between."""
    issuer = x509.load_pem_x509_certificate(authority)

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        kept, _, served = answer.partition("===")
        certificate = _first(kept)
        if certificate is None:
            yield "a certificate", "none that can be read"
            return
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            yield (
                "issued by the authority of the deployment",
                f"issued by {certificate.issuer.rfc4514_string()}",
            )
        missing = [name for name in names if name not in _names(certificate)]
        if missing:
            yield f"for {', '.join(missing)}", f"for {', '.join(sorted(_names(certificate))) or 'no name'}"
        ends = certificate.not_valid_after_utc
        if ends < now + timedelta(days=RENEW_DAYS):
            yield f"valid for {RENEW_DAYS} days", f"{'ended' if ends < now else 'ends'} {ends:%Y-%m-%d}"
        if _first(served) != certificate:
            yield "served", "another one is served" if _first(served) else "none is served"

    return judge


def _first(text: str) -> x509.Certificate | None:
    begin = text.find("-----BEGIN CERTIFICATE-----")
    end = text.find("-----END CERTIFICATE-----", begin)
    if begin < 0 or end < 0:
        return None
    try:
        return x509.load_pem_x509_certificate(text[begin : end + 25].encode() + b"\n")
    except ValueError:
        return None


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return set(found.value.get_values_for_type(x509.DNSName))


__all__ = ["certificate", "is_valid"]
