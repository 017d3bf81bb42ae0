"""TLS to the servers behind the bus, verified against the profile's CA or the system's."""

from __future__ import annotations

import ssl

from arqonbus.config.stores import ClientTls


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """SSL context for a connection. Raises OSError for unusable files."""
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


__all__ = ["client_context"]
