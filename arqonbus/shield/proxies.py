"""Where a client is, when proxies stand before the bus. Pure.

A header is believed hop by hop from the right, as long as the hop that added it is a proxy that the profile
trusts. What a client wrote itself stands further left and is never reached. Where the connection does not
come from a trusted proxy no header is looked at. Sources: RFC 7239 (Forwarded); X-Forwarded-For by custom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_address, ip_network

MAX_HOPS = 16
_FOR = re.compile(r'for\s*=\s*("[^"]*"|[^;,\s]+)', re.IGNORECASE)
_PORT = re.compile(r"^(?:\[(?P<six>[^\]]+)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?$", re.ASCII)


class TrustedProxies:
    """The address ranges whose headers count. Raises ValueError for a range that is none."""

    def __init__(self, ranges: Sequence[str]) -> None:
        self._ranges = [ip_network(each) for each in ranges]

    def trusts(self, address: str) -> bool:
        """Whether the address is a proxy of ours."""
        if not self._ranges:
            return False
        try:
            found = ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in each for each in self._ranges)

    def client(self, address: str, headers: Mapping[str, Sequence[str]]) -> str:
        """The client's address: the nearest hop that is no proxy of ours.

        A hop that is not an address ends the search: then the proxy that reported it is the nearest known.
        """
        if not self.trusts(address):
            return address
        for hop in reversed(_hops(headers)[-MAX_HOPS:]):
            plain = _plain(hop)
            if plain is None:
                return address
            address = plain
            if not self.trusts(address):
                return address
        return address


def network_of(address: str) -> str:
    """The IPv4 address, or the /64 of the IPv6 address: as much as one client may have for itself."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((int(found) >> 64 << 64, 64)))
    return address


def _hops(headers: Mapping[str, Sequence[str]]) -> list[str]:
    """Who was forwarded for, the nearest hop last. Forwarded has the last word where both are there."""
    forwarded = headers.get("forwarded", ())
    if forwarded:
        elements = ",".join(forwarded).split(",")
        return [match[1].strip('"') if (match := _FOR.search(element)) else "" for element in elements]
    return [hop.strip() for value in headers.get("x-forwarded-for", ()) for hop in value.split(",")]


def _plain(hop: str) -> str | None:
    """An address without its port or brackets; None for what is no address, such as `unknown`."""
    match = _PORT.match(hop)
    text = (match["six"] or match["four"]) if match else hop
    try:
        return str(ip_address(text))
    except ValueError:
        return None


__all__ = ["TrustedProxies", "network_of"]
