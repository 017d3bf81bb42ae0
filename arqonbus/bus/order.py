"""The order of one room on one node: entries come from several sides and leave in sequence. Pure.

Own appends answer on one connection and other nodes' entries arrive on another, so neighbours can swap
and entries can be missed. A room passes on exactly the next sequence, keeps early ones aside, and tells
what has to be read from the log. Nothing is passed on twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from arqonbus.storage.ports import Entry, Head, Page

MAX_EARLY = 10_000  # entries kept aside; beyond it they are dropped and read again from the log


class Ready(NamedTuple):
    """Entries that may be delivered now: entries in sequence, after a hole that the log no longer fills.

    `lost` is the range of sequences (first, last) that is gone, or None. `new_epoch` says that the
    sequence began again, so that earlier positions mean nothing.
    """

    entries: Sequence[Entry]
    lost: tuple[int, int] | None = None
    new_epoch: bool = False


NOTHING = Ready(())


class RoomOrder:
    """The position of a room. Until `start`, all entries wait, because the log's head is not known yet."""

    __slots__ = ("_before_start", "_behind", "_early", "_entered", "_former", "epoch", "position", "started")

    def __init__(self) -> None:
        self.epoch = ""  # empty: the room was never written to
        self.position = 0
        self.started = False
        self._behind = False  # entries were let go that have to be read from the log
        self._former = 0  # the position in the epoch before
        self._entered = False  # the epoch is new since the last page: one on its way may know nothing of it
        self._early: dict[int, Entry] = {}
        self._before_start: list[tuple[str, Sequence[Entry]]] = []

    def start(self, head: Head) -> Iterable[Ready]:
        """Begin after the head; give what came before the head was known and is newer, step by step."""
        self.epoch, self.position, self.started = head.epoch, head.last, True
        waiting, self._before_start = self._before_start, []
        return (self.accept(epoch, entries) for epoch, entries in waiting)

    def accept(self, epoch: str, entries: Sequence[Entry]) -> Ready:
        """Take ascending entries of an epoch; give what is next in sequence."""
        if epoch != self.epoch:
            return self._accept_other_epoch(epoch, entries)
        first, last = entries[0].sequence, entries[-1].sequence
        if first == self.position + 1 and last - first + 1 == len(entries) and not self._early:
            self.position = last
            return Ready(entries)
        return Ready(self._take(entries))

    def move(self, epoch: str, position: int) -> Ready:
        """Go on in another epoch, with what the log holds there behind a position."""
        announce = self.epoch not in ("", epoch)
        self.epoch, self.position, self.started = epoch, position, True
        self._early, self._former, self._entered, self._behind = {}, position, False, True
        return Ready((), new_epoch=announce)

    def missing(self) -> bool:
        """True while something has to be read from the log."""
        return self._behind or bool(self._early)

    def suspect(self) -> None:
        """The live subscription was interrupted: something may be missing although nothing shows it."""
        self._behind = True

    def repair(self, page: Page) -> Ready:
        """Take what the log holds after the position; announce what it no longer holds."""
        head = page.head
        read_here, self._entered = not self._entered, False
        if head.epoch < self.epoch:
            if read_here:  # the room was deleted, or the log went back: nothing to wait for
                self._early, self._behind = {}, False
            return NOTHING
        announce = False
        begins = head.first
        if head.epoch != self.epoch:
            announce = self.epoch != ""
            self._enter(head.epoch)
            self._entered = False
        elif read_here:  # the page begins right after the position, so a hole in it will not be filled
            begins = page.entries[0].sequence if page.entries else head.last + 1
        # An epoch may go on from the one before: what was passed on in that is not passed on again.
        self.position = max(self.position, min(self._former, page.base))
        lost: tuple[int, int] | None = None
        if begins > self.position + 1:
            begins = min(begins, min(self._early, default=begins))
            lost = (self.position + 1, begins - 1)
            self.position = begins - 1
        ready = Ready(self._take(page.entries), lost, announce)
        self._behind = self.position < head.last
        return ready

    def _accept_other_epoch(self, epoch: str, entries: Sequence[Entry]) -> Ready:
        if not self.started:
            if len(self._before_start) < MAX_EARLY:
                self._before_start.append((epoch, entries))
            else:
                self._behind = True
            return NOTHING
        if epoch < self.epoch:  # epochs are ULIDs: an older log's last words
            return NOTHING
        announce = self.epoch != ""
        self._enter(epoch)
        after = self.accept(epoch, entries)
        return after._replace(new_epoch=announce)

    def _enter(self, epoch: str) -> None:
        self._former = self.position
        self.epoch, self.position, self._early, self._entered = epoch, 0, {}, True

    def _take(self, entries: Sequence[Entry]) -> list[Entry]:
        """Keep what is early; give what is next. That never waits for room among the early ones."""
        early = self._early
        ready: list[Entry] = []
        for entry in entries:
            sequence = entry.sequence
            if sequence == self.position + 1:
                ready.append(entry)
                self.position = sequence
            elif sequence > self.position:
                if len(early) < MAX_EARLY:
                    early[sequence] = entry
                else:
                    self._behind = True
        while early and (next_one := early.pop(self.position + 1, None)) is not None:
            ready.append(next_one)
            self.position = next_one.sequence
        if early and min(early) <= self.position:
            self._early = {n: e for n, e in early.items() if n > self.position}
        return ready


__all__ = ["MAX_EARLY", "NOTHING", "Ready", "RoomOrder"]
