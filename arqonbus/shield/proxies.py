"""Addresses of clients behind proxies. Pure.

The profile names the one header that its proxies write, and no other is read. It is believed hop by hop from
the right, as long as the hop that added it is a trusted proxy: what a client wrote itself stands further left
and is never reached. Sources: RFC 7239 (Forwarded); X-Forwarded-For by custom.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice

MAX_HOPS = 16
_TOKEN = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"  # noqa: S105 - of HTTP
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_PAIR = re.compile(rf"[ \t]*(?:({_TOKEN})=({_TOKEN}|{_QUOTED}))?[ \t]*")
# A port may be hidden (RFC 7239, 6); X-Forwarded-For of some proxies has one too.
_NODE = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::(?:[0-9]{1,5}|_[-A-Za-z0-9._]+))?", re.ASCII
)


class TrustedProxies:
    """The proxies whose word counts: their address ranges, and the header that they write (in lower case).

    Without a header they say nothing about clients. Raises ValueError for a range that is none.
    """

    def __init__(self, ranges: Sequence[str], header: str | None = None) -> None:
        self._ranges = [ip_network(each) for each in ranges]
        self._header = header

    def trusts(self, address: str) -> bool:
        """True if the address is one of a trusted proxy."""
        if not self._ranges:
            return False
        found = _parsed(address)
        return found is not None and any(found in each for each in self._ranges)

    def client(self, address: str, headers: Mapping[str, Sequence[str]]) -> str:
        """The client's address: the nearest hop that is not a trusted proxy.

        A hop that is not an address ends the search: then the proxy that reported it is the nearest known.
        """
        address = plain_address(address)
        if self._header is None or not self.trusts(address):
            return address
        hops = _forwarded if self._header == "forwarded" else _forwarded_for
        for hop in islice(hops(headers.get(self._header, ())), MAX_HOPS):
            if hop is None:
                return address
            address = hop
            if not self.trusts(address):
                return address
        return address


def plain_address(text: str) -> str:
    """The usual spelling of an address, an IPv4 address mapped to IPv6 as IPv4; other text as it is."""
    found = _parsed(text)
    return text if found is None else str(found)


def network_of(address: str) -> str:
    """The IPv4 address, or the /64 of the IPv6 address: as much as one client may have for itself."""
    found = _parsed(address)
    if isinstance(found, IPv6Address):
        return str(ip_network((int(found) >> 64 << 64, 64)))
    return address if found is None else str(found)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _forwarded(lines: Sequence[str]) -> Iterator[str | None]:
    """The hops of Forwarded, the nearest first; None for one that is hidden or cannot be read."""
    for line in reversed(lines):
        elements = _elements(line)
        if elements is None:
            yield None
            return
        for element in reversed(elements):
            if element:
                yield _address(element.get("for", ""))


def _forwarded_for(lines: Sequence[str]) -> Iterator[str | None]:
    """The hops of X-Forwarded-For, the nearest first; None for one that is not an address."""
    for line in reversed(lines):
        for hop in reversed(line.split(",")):
            text = hop.strip(" \t")
            found = _parsed(text)
            yield _address(text) if found is None else str(found)


def _elements(line: str) -> list[dict[str, str]] | None:
    """The elements of a Forwarded line by the grammar of RFC 7239, section 4; None where it is not kept."""
    elements: list[dict[str, str]] = [{}]
    position = 0
    while True:
        pair = _PAIR.match(line, position)
        assert pair is not None  # it matches the empty text
        position = pair.end()
        if pair[1]:
            name = pair[1].lower()
            if name in elements[-1]:
                return None
            value = pair[2]
            elements[-1][name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
        if position == len(line):
            return elements
        separator, position = line[position], position + 1
        if separator == ",":
            elements.append({})
        elif separator != ";":
            return None


def _address(node: str) -> str | None:
    """The address of a node without brackets and port; None for what is no address, such as `unknown`."""
    found = _NODE.fullmatch(node)
    parsed = _parsed(found["six"] or found["four"]) if found else None
    if parsed is None or (found and found["six"] and ":" not in found["six"]):
        return None
    return str(parsed)


__all__ = ["TrustedProxies", "network_of", "plain_address"]
