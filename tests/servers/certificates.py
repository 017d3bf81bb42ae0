"""A certificate authority for the time of a test, certificates of servers on loopback, and trust."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """A certificate authority, and server certificates of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._write("ca.pem", self._sign(self._name, self._key.public_key(), authority=True))

    @property
    def file(self) -> Path:
        return self.directory / "ca.pem"

    def server(
        self, name: str, address: str = "127.0.0.1", days: int = 30, host: str = ""
    ) -> tuple[Path, Path]:
        """Certificate and key for a loopback address, valid for so many days (past, if negative)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address))]
        if host:
            names.append(x509.DNSName(host))
        certificate = self._sign(subject, key.public_key(), sans=names, days=days)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self._write(f"{name}.pem", certificate), self._write_key(name, secret)

    def client(self, name: str, *names: str) -> tuple[Path, Path]:
        """Certificate and key of a client with these names: URIs, or DNS names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        general = [
            x509.UniformResourceIdentifier(each) if "://" in each else x509.DNSName(each) for each in names
        ]
        certificate = self._sign(subject, key.public_key(), sans=general)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self._write(f"{name}.pem", certificate), self._write_key(name, secret)

    def _sign(
        self,
        subject: x509.Name,
        public: Any,
        *,
        authority: bool = False,
        days: int = 30,
        sans: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        begin = now - datetime.timedelta(days=60)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(sans)), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.directory / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def _write_key(self, name: str, secret: bytes) -> Path:
        path = self.directory / f"{name}.key"
        path.write_bytes(secret)
        path.chmod(0o600)
        return path


def signed_anew(pem: str, authority: Path, ends: datetime.datetime) -> str:
    """A chain whose first certificate is signed again by its authority, good for the month before it `ends`.

    `authority` is the file of its key.
    """
    signer = serialization.load_pem_private_key(authority.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    present, *chain = x509.load_pem_x509_certificates(pem.encode())
    made = (
        x509.CertificateBuilder(extensions=list(present.extensions))
        .subject_name(present.subject)
        .issuer_name(present.issuer)
        .public_key(present.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - datetime.timedelta(days=30))
        .not_valid_after(ends)
        .sign(signer, hashes.SHA256())
    )
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in (made, *chain))


class _ByAddress(ssl.SSLContext):
    """Verifies a name whatever address is connected to."""

    name: str

    def wrap_bio(self, *arguments: Any, server_hostname: Any = None, **options: Any) -> Any:
        return super().wrap_bio(*arguments, server_hostname=self.name, **options)


def trusting(authority: str, name: str) -> ssl.SSLContext:
    """What a client trusts that reaches a server of this public name by its address. `authority`: as PEM."""
    context = _ByAddress(ssl.PROTOCOL_TLS_CLIENT)
    context.name = name
    context.load_verify_locations(cadata=authority)
    return context


__all__ = ["Authority", "signed_anew", "trusting"]
