"""The checker: a clean run passes, and each planted error is found as what it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from arqonbus.protocol.clocks import Position
from arqonbus.storage.ports import Durability
from tests.faults.checker import (
    Consumer,
    Event,
    Evidence,
    Fault,
    Held,
    Joined,
    Published,
    Seen,
    Told,
    judge,
)

ROOM, EPOCH = "orders", "E1"


@dataclass
class Run:
    """A run that a test spoils. 100 messages; the consumer lost its connection behind the 60th."""

    published: list[Published] = field(default_factory=list)
    entries: list[tuple[int, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    epoch: str = EPOCH

    @staticmethod
    def clean() -> Run:
        run = Run()
        run.events.append(Joined(None, Position(EPOCH, 0), None))
        for number in range(1, 101):
            id_ = f"id-{number}"
            run.published.append(
                Published(
                    "p", ROOM, id_, float(number), number + 0.5, "acked", EPOCH, number, Durability.DURABLE
                )
            )
            run.entries.append((number, id_))
            run.events.append(Seen(EPOCH, number, id_))
            if number == 60:
                run.events.append(Joined(Position(EPOCH, 60), Position(EPOCH, 80), True))
        return run

    def faults(self) -> list[Fault]:
        evidence = Evidence(
            self.published,
            [Consumer("c", ROOM, self.events)],
            {ROOM: Held(self.epoch, self.entries)},
            Durability.DURABLE,
        )
        return [finding.fault for finding in judge(evidence)]

    def unsee(self, *numbers: int) -> None:
        self.events = [e for e in self.events if not (isinstance(e, Seen) and e.sequence in numbers)]

    def index_of(self, number: int) -> int:
        return next(i for i, e in enumerate(self.events) if isinstance(e, Seen) and e.sequence == number)

    def change(self, number: int, **changes: object) -> None:
        self.published[number - 1] = self.published[number - 1]._replace(**changes)  # type: ignore[arg-type]


def test_clean_run() -> None:
    """A bus that kept its word is found to have kept it."""
    assert Run.clean().faults() == []


def _lose_an_ack(run: Run) -> None:
    del run.entries[49]
    run.unsee(50)


def _lose_the_tail(run: Run) -> None:
    del run.entries[97:]
    run.unsee(98, 99, 100)


def _skip_a_delivery(run: Run) -> None:
    run.unsee(30)


def _end_early(run: Run) -> None:
    run.unsee(*range(90, 101))


def _store_twice(run: Run) -> None:
    run.entries.append((101, "id-7"))
    run.events.append(Seen(EPOCH, 101, "id-7"))


def _deliver_twice(run: Run) -> None:
    run.events.insert(run.index_of(31), Seen(EPOCH, 30, "id-30"))


def _swap_in_the_log(run: Run) -> None:
    run.entries[10], run.entries[11] = run.entries[11], run.entries[10]


def _swap_sequences(run: Run) -> None:
    run.entries[10], run.entries[20] = (11, "id-21"), (21, "id-11")
    run.change(11, sequence=21)
    run.change(21, sequence=11)
    run.events[run.index_of(11)] = Seen(EPOCH, 11, "id-21")
    run.events[max(i for i, e in enumerate(run.events) if isinstance(e, Seen) and e.sequence == 21)] = Seen(
        EPOCH, 21, "id-11"
    )


def _swap_deliveries(run: Run) -> None:
    at = run.index_of(40)
    run.events[at], run.events[at + 1] = run.events[at + 1], run.events[at]


def _ack_elsewhere(run: Run) -> None:
    run.change(20, sequence=21)


def _recover_with_a_hole(run: Run) -> None:
    run.unsee(61, 62)


def _recover_nothing(run: Run) -> None:
    run.unsee(*range(61, 101))


def _recover_over_an_epoch(run: Run) -> None:
    at = next(i for i, e in enumerate(run.events) if isinstance(e, Joined) and e.recovered)
    run.events[at] = Joined(Position("E0", 60), Position(EPOCH, 80), True)


def _renumber_after_going_back(run: Run) -> None:
    """The engine lost 100, gave the number again, and the consumer that had seen it heard nothing."""
    run.entries[99] = (100, "id-101")
    run.published[99] = Published("p", ROOM, "id-100", 100.0, 100.5, "unknown")
    run.published.append(
        Published("p", ROOM, "id-101", 101.0, 101.5, "acked", EPOCH, 100, Durability.DURABLE)
    )


def _hold_a_stranger(run: Run) -> None:
    run.entries.append((101, "stranger"))
    run.events.append(Seen(EPOCH, 101, "stranger"))


def _deliver_a_stranger(run: Run) -> None:
    run.events.append(Seen(EPOCH, 101, "stranger"))


def _deliver_what_is_not_stored(run: Run) -> None:
    run.published.append(Published("p", ROOM, "id-101", 101.0, 102.0, "refused"))
    run.events.append(Seen(EPOCH, 101, "id-101"))


def _ack_too_weakly(run: Run) -> None:
    run.change(10, level=Durability.HOT)


def _begin_anew_silently(run: Run) -> None:
    run.epoch = "E2"
    run.entries = [*run.entries, (101, "id-101")]
    run.published.append(Published("p", ROOM, "id-101", 101.0, 101.5, "acked", "E2", 101, Durability.DURABLE))
    run.events.append(Seen("E2", 101, "id-101"))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_lose_an_ack, Fault.LOST),
        (_lose_the_tail, Fault.LOST),
        (_skip_a_delivery, Fault.LOST),
        (_end_early, Fault.LOST),
        (_begin_anew_silently, Fault.LOST),
        (_store_twice, Fault.DUPLICATED),
        (_deliver_twice, Fault.DUPLICATED),
        (_swap_in_the_log, Fault.REORDERED),
        (_swap_sequences, Fault.REORDERED),
        (_swap_deliveries, Fault.REORDERED),
        (_ack_elsewhere, Fault.REORDERED),
        (_recover_with_a_hole, Fault.FALSE_RECOVERY),
        (_recover_nothing, Fault.FALSE_RECOVERY),
        (_recover_over_an_epoch, Fault.FALSE_RECOVERY),
        (_renumber_after_going_back, Fault.PHANTOM),
        (_hold_a_stranger, Fault.PHANTOM),
        (_deliver_a_stranger, Fault.PHANTOM),
        (_deliver_what_is_not_stored, Fault.PHANTOM),
        (_ack_too_weakly, Fault.TOO_WEAK),
    ],
)
def test_planted(spoil: Callable[[Run], None], fault: Fault) -> None:
    """Each planted wrong is found, and named as what it is."""
    run = Run.clean()
    spoil(run)
    assert fault in run.faults()


def test_any_single_loss() -> None:
    """Whichever message is taken out of the log or away from the consumer, it is missed."""
    for number in range(1, 101):
        run = Run.clean()
        del run.entries[number - 1]
        assert Fault.LOST in run.faults(), number
        run = Run.clean()
        run.unsee(number)
        assert set(run.faults()) <= {Fault.LOST, Fault.FALSE_RECOVERY}, number
        assert run.faults(), number


def test_any_swap() -> None:
    """Whichever two deliveries change places, it is noticed."""
    for first, second in (random.sample(range(1, 101), 2) for _ in range(200)):
        run = Run.clean()
        one, other = run.index_of(first), run.index_of(second)
        run.events[one], run.events[other] = run.events[other], run.events[one]
        assert Fault.REORDERED in run.faults(), (first, second)


def _announced_loss(run: Run) -> None:
    run.unsee(30, 31)
    run.events.insert(run.index_of(32), Told("sequences 30 to 31 are gone"))


def _honest_refusal_to_recover(run: Run) -> None:
    at = next(i for i, e in enumerate(run.events) if isinstance(e, Joined) and e.recovered)
    run.unsee(*range(61, 81))
    run.events[at] = Joined(Position(EPOCH, 60), Position(EPOCH, 80), False)


def _announced_epoch(run: Run) -> None:
    _begin_anew_silently(run)
    run.events.insert(len(run.events) - 1, Told("a new log began"))


def _unknown_and_stored(run: Run) -> None:
    run.change(50, outcome="unknown", epoch="", sequence=0, level=None)


def _refused_and_absent(run: Run) -> None:
    run.published.append(Published("p", ROOM, "id-101", 101.0, 102.0, "refused"))


def _number_spent(run: Run) -> None:
    run.entries = [(n if n < 50 else n + 1, id_) for n, id_ in run.entries]
    run.published = [p if p.sequence < 50 else p._replace(sequence=p.sequence + 1) for p in run.published]
    run.events = [
        e._replace(sequence=e.sequence + 1) if isinstance(e, Seen) and e.sequence >= 50 else e
        for e in run.events
    ]


@pytest.mark.parametrize(
    "happen",
    [
        _announced_loss,
        _honest_refusal_to_recover,
        _announced_epoch,
        _unknown_and_stored,
        _refused_and_absent,
        _number_spent,
    ],
)
def test_allowed(happen: Callable[[Run], None]) -> None:
    """What the protocol allows is not held against the bus."""
    run = Run.clean()
    happen(run)
    assert run.faults() == []
