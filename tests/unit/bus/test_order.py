"""Room order: entries in any order of arrival are delivered in sequence."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arqonbus.bus import order as order_module
from arqonbus.bus.order import NOTHING, Ready, RoomOrder
from arqonbus.storage.ports import Entry, Head, Page

EPOCHS = ("A", "B", "C")


def entries(*sequences: int, epoch: str = "") -> list[Entry]:
    return [Entry(number, 1, f"{epoch}{number}", "", b"") for number in sequences]


class Log:
    """A room's log that is trimmed, deleted and begun anew."""

    def __init__(self) -> None:
        self.epoch, self.first, self.last = "", 0, 0

    @property
    def head(self) -> Head:
        return Head(self.epoch, self.first, self.last)

    def append(self, count: int) -> tuple[str, list[Entry]]:
        if not self.epoch:
            self.begin("A")
        added = entries(*range(self.last + 1, self.last + 1 + count), epoch=self.epoch)
        self.last += count
        return self.epoch, added

    def begin(self, epoch: str) -> None:
        self.epoch, self.first, self.last = epoch, 1, 0

    def trim(self, count: int) -> None:
        self.first = min(self.first + count, self.last + 1)

    def read(self, after: int, limit: int) -> Page:
        begins = max(after + 1, self.first, 1)
        return Page(
            self.head, entries(*range(begins, min(self.last, begins + limit - 1) + 1), epoch=self.epoch)
        )


class Listener:
    """What a member of the room hears: entries and announcements."""

    def __init__(self, order: RoomOrder, head: Head) -> None:
        self.order = order
        self.epoch, self.position = head.epoch, head.last
        self.lost: list[tuple[str, int, int]] = []

    def hear(self, ready: Ready) -> None:
        if ready.new_epoch or (not self.epoch and self.order.epoch):
            assert self.order.epoch > self.epoch
            self.epoch, self.position = self.order.epoch, 0
        if ready.lost is not None:
            first, last = ready.lost
            assert first == self.position + 1
            assert last >= first
            self.lost.append((self.epoch, first, last))
            self.position = last
        for entry in ready.entries:
            assert entry.sequence == self.position + 1, "an entry came twice or too early"
            assert entry.id == f"{self.epoch}{entry.sequence}", "an entry of another epoch"
            self.position = entry.sequence
        assert (self.epoch, self.position) == (self.order.epoch, self.order.position)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("deliver"), st.integers(0, 9)),
        st.tuples(st.just("deliver"), st.integers(0, 9)),
        st.tuples(st.just("deliver twice"), st.integers(0, 9)),
        st.tuples(st.just("lose"), st.integers(0, 9)),
        st.tuples(st.just("lose a part"), st.integers(0, 9)),
        st.tuples(st.just("ask"), st.integers(1, 4)),
        st.tuples(st.just("answer"), st.just(0)),
        st.tuples(st.just("trim"), st.integers(1, 6)),
        st.tuples(st.just("begin anew"), st.just(0)),
        st.tuples(st.just("start"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=800)
@given(STEPS, st.integers(1, 4), st.sampled_from([1, 2, 3, 10_000]))
def test_every_sequence_comes_once_in_order_or_is_announced(
    steps: list[tuple[str, int]], page_size: int, room_for_early: int
) -> None:
    """Batches are swapped, doubled and lost, pages late: nothing is missed silently or heard twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "MAX_EARLY", room_for_early)
        log, order = Log(), RoomOrder()
        on_their_way: list[tuple[str, list[Entry]]] = []
        page: Page | None = None
        listener: Listener | None = None

        def start() -> Listener:
            head = log.head
            started = Listener(order, head)
            for ready in order.start(head):
                started.hear(ready)
            return started

        for step, number in steps:
            if step == "append":
                on_their_way.append(log.append(number))
            elif step == "trim":
                log.trim(number)
            elif step == "begin anew":
                if log.epoch and log.epoch != EPOCHS[-1]:
                    log.begin(EPOCHS[EPOCHS.index(log.epoch) + 1])
            elif step == "start":
                listener = listener or start()
            elif step == "ask":
                page = log.read(order.position, page_size) if listener and order.missing() else None
            elif step == "answer":
                if listener and page is not None:
                    listener.hear(order.repair(page))
                    page = None
            elif on_their_way:
                at = number % len(on_their_way)
                epoch, batch = on_their_way[at] if step == "deliver twice" else on_their_way.pop(at)
                if step == "lose a part":
                    batch = batch[::2]
                if step != "lose":
                    ready = order.accept(epoch, batch)
                    assert listener or ready == NOTHING
                    if listener:
                        listener.hear(ready)

        listener = listener or start()
        if page is not None:
            listener.hear(order.repair(page))
        order.suspect()
        reads = 0
        while order.missing():
            listener.hear(order.repair(log.read(order.position, page_size)))
            reads += 1
            assert reads < 500, "the room asks for ever"
        if log.epoch == listener.epoch:
            assert listener.position >= log.last
        else:
            assert log.last == 0, "a new epoch with entries was not noticed"
        held = range(max(log.first, 1), log.last + 1)
        for epoch, first, last in listener.lost:
            assert epoch != log.epoch or last < held.start or first >= held.stop, "what is held is not lost"


def test_what_is_next_passes_through() -> None:
    """Entries that are next are passed on as they came, in one piece."""
    order = RoomOrder()
    list(order.start(Head("A", 1, 4)))
    batch = entries(5, 6)
    assert order.accept("A", batch).entries is batch
    assert not order.missing()


def test_swapped_neighbours() -> None:
    """An early entry waits for the one before it, and both leave in order."""
    order = RoomOrder()
    list(order.start(Head("A", 1, 0)))
    assert order.accept("A", entries(2)) == NOTHING._replace(entries=[])
    assert order.missing()
    assert [entry.sequence for entry in order.accept("A", entries(1)).entries] == [1, 2]
    assert not order.missing()


def test_a_full_shelf_does_not_stop_a_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that fills the hole is passed on even if as many entries wait as may wait."""
    monkeypatch.setattr(order_module, "MAX_EARLY", 3)
    order = RoomOrder()
    list(order.start(Head("A", 1, 0)))
    for early in (3, 4, 5, 6):
        assert not order.accept("A", entries(early)).entries
    ready = order.repair(Page(Head("A", 1, 6), entries(1, 2)))
    assert [entry.sequence for entry in ready.entries] == [1, 2, 3, 4, 5]
    assert order.missing()
    assert order.repair(Page(Head("A", 1, 6), entries(6))).entries == entries(6)
    assert not order.missing()


def test_entries_that_came_are_not_announced_as_lost() -> None:
    """Where the log keeps nothing, only what did not come is announced; what came is delivered."""
    order = RoomOrder()
    list(order.start(Head("A", 1, 0)))
    order.accept("A", entries(2, 3))
    order.accept("A", entries(5))
    nothing = Page(Head("A", 6, 5), ())
    assert order.repair(nothing) == Ready(entries(2, 3), (1, 1))
    assert order.repair(nothing) == Ready(entries(5), (4, 4))
    assert not order.missing()


def test_a_hole_inside_the_log() -> None:
    """A hole that the log itself has is announced instead of being asked for again and again."""
    order = RoomOrder()
    list(order.start(Head("A", 1, 0)))
    order.suspect()
    ready = order.repair(Page(Head("A", 1, 5), entries(3, 4, 5)))
    assert ready == Ready(entries(3, 4, 5), (1, 2))
    order.suspect()
    assert order.repair(Page(Head("A", 1, 7), ())) == Ready([], (6, 7))
    assert not order.missing()


def test_a_page_of_the_epoch_before() -> None:
    """A page that was on its way while a new epoch began takes nothing of the new one away."""
    order = RoomOrder()
    list(order.start(Head("A", 1, 3)))
    order.suspect()
    late = Page(Head("A", 1, 3), ())
    assert order.accept("B", entries(2)).new_epoch
    assert order.repair(late) == NOTHING
    assert order.missing()
    assert order.repair(Page(Head("B", 1, 2), entries(1, 2))).entries == entries(1, 2)


def test_a_page_that_was_read_after_a_position_of_the_epoch_before() -> None:
    """A page of the new epoch that begins behind the old position does not make what is before it lost."""
    order = RoomOrder()
    list(order.start(Head("A", 1, 3)))
    order.suspect()
    late = Page(Head("B", 1, 5), entries(4, 5))
    assert order.accept("B", entries(1)) == Ready(entries(1), None, True)
    assert order.repair(late) == Ready([])
    assert order.missing()
    assert order.repair(Page(Head("B", 1, 5), entries(2, 3))).entries == entries(2, 3, 4, 5)


def test_a_room_that_was_deleted() -> None:
    """A log that went away leaves nothing to wait for; its next epoch is announced."""
    order = RoomOrder()
    list(order.start(Head("A", 1, 3)))
    order.accept("A", entries(5))
    assert order.repair(Page(Head("", 0, 0), ())) == NOTHING
    assert not order.missing()
    assert order.accept("B", entries(1)) == Ready(entries(1), None, True)
    assert order.accept("A", entries(4)) == NOTHING


def test_before_the_start() -> None:
    """What comes before the head is known waits, and only what is newer than the head leaves."""
    order = RoomOrder()
    assert order.accept("A", entries(3, 4)) == NOTHING
    assert order.accept("A", entries(5)) == NOTHING
    heard = [entry.sequence for ready in order.start(Head("A", 1, 3)) for entry in ready.entries]
    assert heard == [4, 5]


def test_many_entries_in_any_order() -> None:
    """Ten thousand entries in random order all leave in order."""
    order = RoomOrder()
    list(order.start(Head("A", 1, 0)))
    every = entries(*range(1, 3001))
    random.Random(1).shuffle(every)
    heard = [entry.sequence for one in every for entry in order.accept("A", [one]).entries]
    assert heard == list(range(1, 3001))
