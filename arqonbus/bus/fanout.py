"""One room's new messages of one tick, framed once for all who get the same bytes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from arqonbus.bus.wire import Wire
from arqonbus.config import SlowConsumer
from arqonbus.storage.ports import Entry, RoomKey


class Fanout:
    """Entries of one room in sequence order. `slow_consumer` says what may happen to it in a full queue."""

    __slots__ = ("_json", "_protobuf", "entries", "epoch", "room", "slow_consumer")

    def __init__(
        self, room: RoomKey, epoch: str, entries: Sequence[Entry], slow_consumer: SlowConsumer
    ) -> None:
        self.room = room
        self.epoch = epoch
        self.entries = entries
        self.slow_consumer = slow_consumer
        self._protobuf: bytes | None = None
        self._json: bytes | None = None

    def frame(self, wire: Wire) -> bytes:
        """The complete WebSocket frame; made at the first call, shared afterwards."""
        if wire.json:
            if self._json is None:
                self._json = wire.entries(self.epoch, self.entries)
            return self._json
        if self._protobuf is None:
            self._protobuf = wire.entries(self.epoch, self.entries)
        return self._protobuf

    def only(self, entries: Sequence[Entry]) -> Fanout:
        """The same room's fan-out with some of the entries."""
        return Fanout(self.room, self.epoch, entries, self.slow_consumer)


__all__ = ["Fanout"]
