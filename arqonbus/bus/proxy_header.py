"""The header with which a TCP proxy says who is behind it: PROXY protocol, versions 1 and 2.

Read from the socket byte by byte as it is counted, never more, so that what follows (TLS, or HTTP) is whole.
Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1 = 107
MAX_V2 = 1024  # bytes behind the first 16; addresses are at most 36, the rest are options that are not read

_FAMILIES = {0x11: (4, IPv4Address), 0x21: (16, IPv6Address)}  # TCP over IPv4 and over IPv6


async def read_proxy_header(connection: socket.socket) -> str | None:
    """The address that the proxy names, None if it speaks for itself. Raises ValueError without one."""
    head = await _exactly(connection, 1)
    if head == b"P":
        return _version_1(await _line(connection, head))
    head += await _exactly(connection, 15)
    if head[:12] != SIGNATURE:
        raise ValueError("it does not begin with a PROXY header")
    version, family, length = struct.unpack("!BBH", head[12:])
    if version >> 4 != 2 or length > MAX_V2:
        raise ValueError("its PROXY header is of another version, or too long")
    rest = await _exactly(connection, length)
    if version & 0xF == 0:  # LOCAL: a health check of the proxy
        return None
    if version & 0xF != 1 or family not in _FAMILIES:
        raise ValueError("its PROXY header is not about TCP")
    size, kind = _FAMILIES[family]
    if length < 2 * size + 4:
        raise ValueError("its PROXY header is too short")
    return str(kind(rest[:size]))


def _version_1(line: bytes) -> str | None:
    words = line.decode("ascii", "replace").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return None
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in ("TCP4", "TCP6"):
        raise ValueError("its PROXY header cannot be read")
    return str(ip_address(words[2]))


async def _line(connection: socket.socket, line: bytes) -> bytes:
    while not line.endswith(b"\r\n"):
        if len(line) >= MAX_V1:
            raise ValueError("its PROXY header does not end")
        line += await _exactly(connection, 1)
    return line[:-2]


async def _exactly(connection: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < count:
        part = await loop.sock_recv(connection, count - len(found))
        if not part:
            raise ValueError("it ended before its PROXY header did")
        found += part
    return found


__all__ = ["read_proxy_header"]
