"""Live frames: what the Lua library packs is what Python reads, and anything else is refused."""

from __future__ import annotations

import contextlib
import re
import struct
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.storage.ports import Entry
from arqonbus.storage.valkey.engine import LIBRARY_VERSION
from arqonbus.storage.valkey.frames import (
    BadFrameError,
    is_signal,
    parse_entries,
    parse_header,
    parse_signal,
    signal_frame,
)

EPOCH = "01JABCDEFGHJKMNPQRSTVWXYZ0"
WRITER = b"writer.."
ITEMS = st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30), st.binary(max_size=200)), max_size=5)


def frame_of(first: int, time_us: int, items: list[tuple[str, str, bytes]]) -> bytes:
    """A frame, packed as functions.lua does."""
    frame = b"E" + WRITER + struct.pack(">QQQI", 7, first, time_us, len(items)) + EPOCH.encode()
    for id_, channel, data in items:
        parts = (id_.encode(), channel.encode(), data)
        frame += struct.pack(">III", *map(len, parts)) + b"".join(parts)
    return frame


@given(items=ITEMS, first=st.integers(1, 2**53), time_us=st.integers(0, 2**53))
def test_entries(items: list[tuple[str, str, bytes]], first: int, time_us: int) -> None:
    """Entries come out with consecutive sequences and the time of the header."""
    frame = frame_of(first, time_us, items)
    header = parse_header(frame)
    assert (header.writer, header.batch, header.epoch) == (WRITER, 7, EPOCH)
    expected = [Entry(first + index, time_us, *item) for index, item in enumerate(items)]
    assert parse_entries(frame, header) == expected


@given(data=st.binary(max_size=100))
def test_signal(data: bytes) -> None:
    """A signal comes out as it was put in."""
    frame = signal_frame(WRITER, data)
    assert is_signal(frame)
    assert parse_signal(frame) == (WRITER, data)


@given(items=ITEMS.filter(bool), cut=st.integers(1, 300))
def test_truncated(items: list[tuple[str, str, bytes]], cut: int) -> None:
    """A frame of which the end is missing is refused."""
    frame = frame_of(1, 1, items)[:-cut]
    with pytest.raises(BadFrameError):
        parse_entries(frame, parse_header(frame))


def test_longer_than_it_says() -> None:
    """A frame with bytes after its last entry is refused."""
    frame = frame_of(1, 1, [("a", "", b"")]) + b"x"
    with pytest.raises(BadFrameError, match="its lengths add up to"):
        parse_entries(frame, parse_header(frame))


@given(frame=st.binary(max_size=120))
def test_arbitrary_bytes(frame: bytes) -> None:
    """Whatever comes, a frame is read or refused; nothing else is raised."""
    with contextlib.suppress(BadFrameError):
        header = parse_header(frame)
        assert len(parse_entries(frame, header)) == header.size


def test_library_version() -> None:
    """The version in the Lua library is the one that Python expects."""
    source = files("arqonbus.storage.valkey").joinpath("functions.lua").read_text("utf-8")
    found = re.search(r"^local VERSION = (\d+)$", source, re.MULTILINE)
    assert found is not None
    assert int(found[1]) == LIBRARY_VERSION
