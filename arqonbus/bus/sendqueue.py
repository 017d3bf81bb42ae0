"""The byte-bounded queue of what one client has yet to be sent. Pure: the socket is elsewhere.

While the socket takes what it is given, the queue only collects one tick's frames so that they leave in a
single write. Once the socket is blocked, frames wait here, and what happens at the byte budget depends on
the room: `disconnect` gives the client up, `drop_oldest` drops and announces the gap, `latest` keeps the
newest message of each key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from arqonbus.bus.fanout import Fanout
from arqonbus.bus.wire import Wire
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import Entry, RoomKey

KEY_HEADER = "key"


class Gap(NamedTuple):
    """Sequences of a room, both ends included, that this client will not get."""

    room: RoomKey
    epoch: str
    first: int
    last: int


class Overflow(Exception):
    """The budget is used up by frames that may not be dropped: the client has to go."""


class SendQueue:
    """Frames in order. `budget` is in bytes and counts what waits here plus what the socket holds.

    `granted` comes on top: bytes that the client asked for itself (what it missed), until the socket has
    taken everything once. A caller that grants more asks `Peer.room_for_recovery` first.
    """

    __slots__ = ("_answers", "_frames", "_gaps", "_sources", "budget", "dropped", "granted", "size", "wire")

    def __init__(self, wire: Wire, budget: int) -> None:
        self.wire = wire
        self.budget = budget
        self.granted = 0
        self.size = 0
        self.dropped = 0  # messages, over the life of the connection
        self._answers: list[bytes] = []
        self._frames: list[bytes] = []
        self._sources: list[Fanout | None] = []
        self._gaps: list[Gap] = []

    def answer(self, encoded: bytes) -> None:
        """Add one encoded envelope; neighbours share a frame."""
        self._answers.append(encoded)
        self.size += len(encoded)

    def push(self, fanout: Fanout) -> None:
        """Add a room's batch behind everything that was added before."""
        if self._answers:
            self._seal()
        frame = fanout.frame(self.wire)
        self._frames.append(frame)
        self._sources.append(fanout)
        self.size += len(frame)

    def take(self) -> tuple[bytes, list[Gap]]:
        """Everything that waits, as the bytes of one write, and the gaps to announce. Empties the queue."""
        if self._answers:
            self._seal()
        frames = self._frames
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        gaps = self._gaps
        self.size = 0
        if frames:
            self._frames, self._sources = [], []
        if gaps:
            self._gaps = []
        return data, gaps

    def fit(self, in_socket: int) -> None:
        """Apply the rooms' policies until the budget holds again. Raises Overflow where they do not help.

        `in_socket` is the number of bytes that the socket still holds. Called only while it is blocked.
        """
        if self.size + in_socket <= self.budget + self.granted:
            return
        self._conflate()
        self._drop_oldest(in_socket)
        if self.size + in_socket > self.budget + self.granted:
            raise Overflow

    def _seal(self) -> None:
        frame = self.wire.join(self._answers)
        self.size += len(frame) - sum(map(len, self._answers))
        self._answers = []
        self._frames.append(frame)
        self._sources.append(None)

    def _conflate(self) -> None:
        """Of each `latest` room keep the newest message per key, in one fan-out at the newest place."""
        newest: dict[RoomKey, dict[str, tuple[str, Entry]]] = {}
        last_place: dict[tuple[RoomKey, str], int] = {}
        before = 0
        for place, source in enumerate(self._sources):
            if source is not None and source.slow_consumer == "latest":
                by_key = newest.setdefault(source.room, {})
                for entry in source.entries:
                    by_key[_key_of(entry)] = (source.epoch, entry)
                last_place[source.room, source.epoch] = place
                before += len(source.entries)
        if newest:
            kept: list[Fanout | None] = []
            frames: list[bytes] = []
            for place, (source, frame) in enumerate(zip(self._sources, self._frames, strict=True)):
                if source is None or source.slow_consumer != "latest":
                    kept.append(source)
                    frames.append(frame)
                elif last_place[source.room, source.epoch] == place:
                    chosen = newest[source.room].values()
                    entries = sorted(entry for epoch, entry in chosen if epoch == source.epoch)
                    if entries:
                        merged = source.only(entries)
                        kept.append(merged)
                        frames.append(merged.frame(self.wire))
            self.dropped += before - sum(map(len, newest.values()))
            self._replace(frames, kept)

    def _drop_oldest(self, in_socket: int) -> None:
        excess = self.size + in_socket - self.budget - self.granted
        frames: list[bytes] = []
        kept: list[Fanout | None] = []
        for source, frame in zip(self._sources, self._frames, strict=True):
            if excess > 0 and source is not None and source.slow_consumer == "drop_oldest":
                excess -= len(frame)
                self.dropped += len(source.entries)
                self._add_gap(source)
            else:
                frames.append(frame)
                kept.append(source)
        self._replace(frames, kept)

    def _add_gap(self, source: Fanout) -> None:
        first, last = source.entries[0].sequence, source.entries[-1].sequence
        for index, gap in enumerate(self._gaps):
            if gap.room == source.room and gap.epoch == source.epoch:
                self._gaps[index] = gap._replace(last=max(last, gap.last))
                return
        self._gaps.append(Gap(source.room, source.epoch, first, last))

    def _replace(self, frames: list[bytes], sources: list[Fanout | None]) -> None:
        self._frames, self._sources = frames, sources
        self.size = sum(map(len, frames)) + sum(map(len, self._answers))


def _key_of(entry: Entry) -> str:
    envelope = Envelope.FromString(entry.data)
    return envelope.headers.get(KEY_HEADER) or f"{entry.channel}/{envelope.name}"


def gap_facts(gap: Gap) -> dict[str, object]:
    """The facts of a `gap` signal."""
    return {"epoch": gap.epoch, "first": gap.first, "last": gap.last}


__all__: Sequence[str] = ["KEY_HEADER", "Gap", "Overflow", "SendQueue", "gap_facts"]
