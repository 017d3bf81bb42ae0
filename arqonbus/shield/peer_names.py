"""Which service a client's certificate names (mTLS). Pure.

The certificate was verified by TLS before. It names a service by the URI arqonbus://<tenant>/<sub>, each part
percent-encoded where it must be, or by a DNS name that the profile maps. Several names are several services.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import unquote, urlsplit

from arqonbus.config.access import ServiceIdentity

SCHEME = "arqonbus"
Names = Sequence[tuple[str, str]]  # kind and value, as ssl.SSLSocket.getpeercert gives subjectAltName


class ServiceNames:
    """The services that certificates may name under one profile."""

    def __init__(self, identities: Iterable[ServiceIdentity]) -> None:
        self._by_dns: dict[str, set[tuple[str, str]]] = {}
        for each in identities:
            self._by_dns.setdefault(each.dns.lower(), set()).add((each.tenant, each.subject))

    def names(self, certificate: Names, tenant: str, subject: str) -> bool:
        """True if the certificate names this service."""
        wanted = (tenant, subject)
        for kind, value in certificate:
            if kind == "URI" and _of_uri(value) == wanted:
                return True
            # A wildcard is not expanded: it is looked up as written.
            if kind == "DNS" and wanted in self._by_dns.get(value.lower(), ()):
                return True
        return False


def _of_uri(uri: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme != SCHEME or parts.query or parts.fragment or parts.path.count("/") != 1:
        return None
    return unquote(parts.netloc), unquote(parts.path[1:])


__all__ = ["SCHEME", "Names", "ServiceNames"]
