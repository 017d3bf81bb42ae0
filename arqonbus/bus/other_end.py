"""The peer of a socket, as far as the socket knows it."""

from __future__ import annotations

import asyncio

from arqonbus.shield.peer_names import Names
from arqonbus.shield.proxies import plain_address


def other_end(transport: asyncio.BaseTransport, named: str | None = None) -> tuple[str, Names]:
    """The address, which is what a proxy `named` where it did, and the names in the certificate shown."""
    certificate = transport.get_extra_info("peercert") or {}
    peername = transport.get_extra_info("peername")
    address = named or (peername[0] if isinstance(peername, tuple) else "")
    return plain_address(address), certificate.get("subjectAltName", ())


__all__ = ["other_end"]
