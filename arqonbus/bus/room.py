"""The order of one room on one node: entries come from several sides and leave in sequence. Pure.

Own appends answer on one connection and other nodes' entries arrive on another, so neighbours can swap
and entries can be missed. A room passes on exactly the next sequence, keeps early ones aside, and tells
what has to be read from the log. Nothing is passed on twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from arqonbus.storage.ports import Entry, Head, Page

MAX_EARLY = 10_000  # entries kept aside; beyond it they are dropped and read again from the log


class Ready(NamedTuple):
    """What may be delivered now: entries in sequence, after a hole that the log no longer fills.

    `lost` is the range of sequences (first, last) that is gone, or None. `new_epoch` says that the
    sequence began anew, so that earlier positions mean nothing.
    """

    entries: Sequence[Entry]
    lost: tuple[int, int] | None = None
    new_epoch: bool = False


NOTHING = Ready(())


class Order:
    """Where the room stands. Until `start`, all entries wait: the log's head is not known yet."""

    __slots__ = ("_before_start", "_behind", "_early", "epoch", "position", "started")

    def __init__(self) -> None:
        self.epoch = ""  # empty: the room was never written to
        self.position = 0
        self.started = False
        self._behind = False  # entries were let go that have to be read from the log
        self._early: dict[int, Entry] = {}
        self._before_start: list[tuple[str, Sequence[Entry]]] = []

    def start(self, head: Head) -> list[Ready]:
        """Begin after the head; give what came before the head was known and is newer."""
        self.epoch, self.position, self.started = head.epoch, head.last, True
        waiting, self._before_start = self._before_start, []
        return [self.accept(epoch, entries) for epoch, entries in waiting]

    def accept(self, epoch: str, entries: Sequence[Entry]) -> Ready:
        """Take ascending entries of an epoch; give what is next in sequence."""
        if epoch != self.epoch:
            return self._accept_other_epoch(epoch, entries)
        first, last = entries[0].sequence, entries[-1].sequence
        if first == self.position + 1 and last - first + 1 == len(entries) and not self._early:
            self.position = last
            return Ready(entries)
        self._keep(entries)
        return Ready(self._drain())

    def missing(self) -> bool:
        """True while something has to be read from the log."""
        return self._behind or bool(self._early)

    def suspect(self) -> None:
        """The live subscription was interrupted: something may be missing although nothing shows it."""
        self._behind = True

    def repair(self, page: Page) -> Ready:
        """Take what the log holds after the position; announce what it no longer holds."""
        head = page.head
        if head.epoch != self.epoch:
            if head.epoch < self.epoch:  # the room was deleted, or the log went back: nothing to wait for
                self._early, self._behind = {}, False
                return NOTHING
            announce = self.epoch != ""
            self._enter(head.epoch)
            self._behind = True  # the page may have been read after a position of the old epoch
            return self.repair(page)._replace(new_epoch=announce)
        lost: tuple[int, int] | None = None
        if head.first > self.position + 1 and head.last > self.position:
            lost = (self.position + 1, head.first - 1)
            self.position = head.first - 1
        self._keep(page.entries)
        ready = Ready(self._drain(), lost)
        if self.position >= head.last:
            self._behind = False
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
        self.epoch, self.position, self._early = epoch, 0, {}

    def _keep(self, entries: Sequence[Entry]) -> None:
        position, early = self.position, self._early
        for entry in entries:
            if entry.sequence > position:
                if len(early) < MAX_EARLY:
                    early[entry.sequence] = entry
                else:
                    self._behind = True

    def _drain(self) -> list[Entry]:
        early = self._early
        ready: list[Entry] = []
        while early and (entry := early.pop(self.position + 1, None)) is not None:
            ready.append(entry)
            self.position = entry.sequence
        if early and min(early) <= self.position:
            self._early = {n: e for n, e in early.items() if n > self.position}
        return ready


__all__ = ["MAX_EARLY", "NOTHING", "Order", "Ready"]
