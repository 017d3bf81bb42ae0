"""The message that a client is sending in fragments. Pure. Source: RFC 6455, section 5.4."""

from __future__ import annotations

from arqonbus.bus.frames import Close

LEAST_FRAME_BYTES = 512  # that a fragment or control frame counts for, however short it is


def missing_bytes(size: int) -> int:
    """The charge for a fragment or control frame of `size` bytes beyond its bytes."""
    return max(0, LEAST_FRAME_BYTES - size)


class BrokenMessage(Exception):
    """The connection has to end. `code`: of the close frame; the text is its reason."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class FragmentedMessage:
    """Collects fragments in one buffer: the work is linear in their bytes and their number."""

    __slots__ = ("_data", "_max_bytes", "started", "text")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self.started = False
        self.text = False  # what the first fragment said it is

    def add(self, payload: bytes, *, first: bool, text: bool, last: bool) -> bytes | None:
        """The whole message with its last fragment, None before. `text`: what the opcode says.

        Raises BrokenMessage for fragments out of order and for a message of more than `max_bytes`.
        """
        if first is self.started:
            raise BrokenMessage(Close.PROTOCOL, "fragments are out of order")
        if first:
            self.text = text
        if first and last and len(payload) <= self._max_bytes:
            return payload
        self.started = True
        if len(self._data) + len(payload) > self._max_bytes:
            raise BrokenMessage(Close.TOO_BIG, "the message is larger than max_frame_bytes")
        self._data += payload
        if not last:
            return None
        message = bytes(self._data)
        self._data = bytearray()
        self.started = False
        return message


__all__ = ["LEAST_FRAME_BYTES", "BrokenMessage", "FragmentedMessage", "missing_bytes"]
