"""Frames on a room's live channel: entries of an append, or a signal. Pure; mirrors the Lua library.

Entries: "E", writer (8 bytes), batch number, first sequence, time in us (u64 each), count (u32), epoch (26
bytes); then per entry the lengths of id, channel and data (u32 each), followed by the three values. Signal:
"S", writer, data. Numbers are big-endian. The header lets a node skip its own batches without parsing them.
"""

from __future__ import annotations

from struct import Struct, error
from typing import NamedTuple

from arqonbus.storage.ports import Entry

_HEADER = Struct(">c8sQQQI26s")
_LENGTHS = Struct(">III")
WRITER_BYTES = 8
_SIGNAL = b"S"
_ENTRIES = b"E"


class EntriesHeader(NamedTuple):
    """Writer, batch and position of the entries of a frame."""

    writer: bytes
    batch: int
    first: int
    time_us: int
    size: int
    epoch: str


class BadFrameError(Exception):
    """Bytes on a live channel that this release cannot read."""


def signal_frame(writer: bytes, data: bytes) -> bytes:
    """The frame of a signal."""
    return _SIGNAL + writer + data


def is_signal(frame: bytes) -> bool:
    """True if the frame is a signal; otherwise it holds entries, or is unknown."""
    return frame[:1] == _SIGNAL


def parse_signal(frame: bytes) -> tuple[bytes, bytes]:
    """Writer and data of a signal."""
    return frame[1 : 1 + WRITER_BYTES], frame[1 + WRITER_BYTES :]


def parse_header(frame: bytes) -> EntriesHeader:
    """The header of entries. Raises BadFrameError."""
    if len(frame) < _HEADER.size or frame[:1] != _ENTRIES:
        raise BadFrameError(f"A live frame of {len(frame)} bytes has no known header.")
    _, writer, batch, first, time_us, count, epoch = _HEADER.unpack_from(frame)
    return EntriesHeader(writer, batch, first, time_us, count, epoch.decode("ascii", "replace"))


def parse_entries(frame: bytes, header: EntriesHeader) -> list[Entry]:
    """The entries after the header. Raises BadFrameError unless they fill the frame exactly."""
    entries = []
    at = _HEADER.size
    try:
        for sequence in range(header.first, header.first + header.size):
            id_length, channel_length, data_length = _LENGTHS.unpack_from(frame, at)
            channel_at = at + _LENGTHS.size + id_length
            data_at = channel_at + channel_length
            message_id = frame[at + _LENGTHS.size : channel_at].decode()
            at = data_at + data_length
            channel = frame[channel_at:data_at].decode()
            entries.append(Entry(sequence, header.time_us, message_id, channel, frame[data_at:at]))
    except (error, UnicodeDecodeError) as reason:
        raise BadFrameError(f"A live frame of {header.size} entries cannot be read: {reason}.") from reason
    if at != len(frame):
        raise BadFrameError(f"A live frame has {len(frame)} bytes, but its lengths add up to {at}.")
    return entries


__all__ = [
    "WRITER_BYTES",
    "BadFrameError",
    "EntriesHeader",
    "is_signal",
    "parse_entries",
    "parse_header",
    "parse_signal",
    "signal_frame",
]
