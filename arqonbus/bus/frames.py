"""WebSocket frames as a server sends them: unmasked, whole, without extensions. Pure.

A room's batch is framed once and the same bytes go to every member, so the framing happens here and not
in the transport. Source: RFC 6455, section 5.2.
"""

from __future__ import annotations

import struct
from enum import IntEnum

TEXT = 0x1
BINARY = 0x2
_FIN = 0x80
_SENDABLE = frozenset((*range(1000, 1004), *range(1007, 1015)))  # close codes of the registry

_short = struct.Struct("!BB").pack
_medium = struct.Struct("!BBH").pack
_long = struct.Struct("!BBQ").pack


class Close(IntEnum):
    """Close codes of the bus. 4000-4099: connect again and resume; 4100-4199: do not come back as you are."""

    NORMAL = 1000
    GONE = 1001
    PROTOCOL = 1002
    WRONG_TYPE = 1003
    BAD_TEXT = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    SLOW_CONSUMER = 4008
    POSITION_LOST = 4009
    TOKEN_EXPIRED = 4101
    TOKEN_REVOKED = 4102
    KICKED = 4103


def close_answer(payload: bytes) -> int:
    """The code to answer a client's close frame with: its own if it may be sent, 0 if it has none.

    Source: RFC 6455, sections 5.5.1, 7.4 and 8.1.
    """
    if not payload:
        return 0
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not (code in _SENDABLE or 3000 <= code <= 4999):
        return Close.PROTOCOL
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return Close.BAD_TEXT
    return code


def framed(payload: bytes, opcode: int) -> bytes:
    """One complete frame."""
    size = len(payload)
    if size < 126:
        return _short(_FIN | opcode, size) + payload
    if size < 65536:
        return _medium(_FIN | opcode, 126, size) + payload
    return _long(_FIN | opcode, 127, size) + payload


__all__ = ["BINARY", "TEXT", "Close", "close_answer", "framed"]
