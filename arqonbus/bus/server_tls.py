"""TLS of the bus's port, with files that are read again without dropping a connection.

New connections get what was read last, old ones keep what they began with. The exchange happens in the
handshake, where OpenSSL lets a server choose another context.
"""

from __future__ import annotations

import gc
import ssl
from asyncio.sslproto import SSLProtocol
from typing import Any

from arqonbus.config.network import Tls

# What asyncio reads at once, and keeps a buffer for in each connection: 256 KiB of its own accord, which was
# five sixths of what an idle client cost. Two records: with one, large messages would cost 1.3 times.
SSLProtocol.max_size = 32 * 1024
# Of TLS 1.2: forward secrecy and authenticated encryption only. Those of TLS 1.3 all have both.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
SWEEP_AFTER = 256  # connections, at least


class ReloadableTls:
    """`context` goes to the socket and stays. Raises OSError or ssl.SSLError for files that do not fit."""

    def __init__(self, tls: Tls) -> None:
        self._current = _context(tls)
        self.context = _context(tls)
        self.context.sni_callback = self._choose

    def reload(self, tls: Tls) -> None:
        """Read the files again; if they do not fit, raise and go on with those of before."""
        self._current = _context(tls)

    def _choose(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current


class Sweeper:
    """Frees what connections with TLS leave behind: each a cycle that holds 70 KB.

    The collector itself would look for them after thousands of connections, for they are few objects.
    """

    def __init__(self) -> None:
        self._opened = 0

    def count(self, clients: int) -> None:
        """One more connection comes; `clients` are connected."""
        self._opened += 1
        # A look takes longer the more there are, so it comes more seldom.
        if self._opened > max(SWEEP_AFTER, clients // 4):
            self._opened = 0
            gc.collect()


def reloadable_tls(tls: Tls) -> ReloadableTls | None:
    """TLS with the profile's certificate; None where the profile names none."""
    return ReloadableTls(tls) if tls.enabled else None


def _context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 or newer. A client may show a certificate where there is an authority that vouches for it."""
    assert tls.cert_file is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
        # A resumed session would carry a certificate that a new authority no longer vouches for.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


__all__ = ["ReloadableTls", "Sweeper", "reloadable_tls"]
