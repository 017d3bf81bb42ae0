"""Judges a run: what was published, seen and claimed against what the log holds in the end. Pure, no I/O.

It trusts nobody: an ack is a claim of the bus about the log, a recovery is a claim about what a consumer has
seen, and the final read of the log is held against both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from arqonbus.protocol.clocks import Position
from arqonbus.storage.ports import Durability


class Fault(StrEnum):
    """What a bus must never do."""

    LOST = "lost"  # acked, or due to a consumer, and not there
    DUPLICATED = "duplicated"
    REORDERED = "reordered"
    FALSE_RECOVERY = "false recovery"  # recovered: true over messages that are missing
    PHANTOM = "phantom"  # there, and nobody published it; or delivered, and not in the log
    TOO_WEAK = "too weak"  # acked below the declared level


class Published(NamedTuple):
    """One publish with all its repeats, which carry one id. Times are seconds of one clock."""

    producer: str
    room: str
    id: str
    began: float
    ended: float
    outcome: Literal["acked", "refused", "unknown"]
    epoch: str = ""
    sequence: int = 0  # 0: the bus knows the id only
    level: Durability | None = None


class Seen(NamedTuple):
    """A message that a consumer got."""

    epoch: str
    sequence: int
    id: str


class Joined(NamedTuple):
    """The bus let a consumer in; `recovered` is None where nothing was asked to be recovered."""

    since: Position | None
    position: Position
    recovered: bool | None


class Told(NamedTuple):
    """The bus said that messages are gone, or that the log began anew."""

    reason: str


Event = Seen | Joined | Told


class Consumer(NamedTuple):
    """All that one consumer of a room lived through, in order."""

    name: str
    room: str
    events: Sequence[Event]


class Held(NamedTuple):
    """A room as it is read in the end: (sequence, id) from its first to its last."""

    epoch: str
    entries: Sequence[tuple[int, str]]


class Evidence(NamedTuple):
    """A whole run. `declared`: the level below which an ack is worth nothing here.

    `one_order`: acks are in one order for all publishers; else each publisher's are in one of its own.
    """

    published: Sequence[Published]
    consumers: Sequence[Consumer]
    held: Mapping[str, Held]
    declared: Durability
    one_order: bool = True


class Finding(NamedTuple):
    """One thing that went wrong, in a sentence."""

    fault: Fault
    room: str
    sentence: str


def judge(evidence: Evidence) -> list[Finding]:
    """Everything that is wrong; empty for a bus that kept its word."""
    findings: list[Finding] = []
    by_room: dict[str, list[Published]] = {room: [] for room in evidence.held}
    for published in evidence.published:
        by_room[published.room].append(published)
    for room, held in evidence.held.items():
        verdict = _Room(room, held, by_room[room], evidence.declared)
        findings += verdict.of_log()
        findings += verdict.of_acks()
        orders = [set(verdict.published)] if evidence.one_order else _by_producer(by_room[room])
        for ids in orders:
            findings += verdict.of_order(ids)
        for consumer in evidence.consumers:
            if consumer.room == room:
                findings += verdict.of_consumer(consumer)
    return findings


def _by_producer(published: Sequence[Published]) -> list[set[str]]:
    ids: dict[str, set[str]] = {}
    for each in published:
        ids.setdefault(each.producer, set()).add(each.id)
    return list(ids.values())


class _Room:
    """One room's evidence."""

    def __init__(self, room: str, held: Held, published: Sequence[Published], declared: Durability) -> None:
        self.room = room
        self.held = held
        self.published = {each.id: each for each in published}
        self.declared = declared
        self.sequences = {id_: sequence for sequence, id_ in held.entries}
        self.existing = {(held.epoch, sequence): id_ for sequence, id_ in held.entries}
        for each in published:
            if each.outcome == "acked" and each.sequence:
                self.existing.setdefault((each.epoch, each.sequence), each.id)

    def _found(self, fault: Fault, sentence: str) -> Finding:
        return Finding(fault, self.room, sentence)

    def of_log(self) -> Iterator[Finding]:
        """Each id once, sequences ascending, nothing that nobody published."""
        for id_, count in Counter(id_ for _, id_ in self.held.entries).items():
            if count > 1:
                yield self._found(Fault.DUPLICATED, f"{id_} stands {count} times in the log")
            if id_ not in self.published:
                yield self._found(Fault.PHANTOM, f"{id_} is in the log and nobody published it")
        before = 0
        for sequence, id_ in self.held.entries:
            if sequence <= before:
                yield self._found(Fault.REORDERED, f"{id_} has sequence {sequence}, behind {before}")
            before = sequence

    def of_acks(self) -> Iterator[Finding]:
        """What was acked is there, where the ack said, at the level that was declared."""
        for each in self.published.values():
            if each.outcome != "acked":
                continue
            if each.level is None or each.level < self.declared:
                level = each.level.name.lower() if each.level else "no level"
                yield self._found(Fault.TOO_WEAK, f"{each.id} was acked at {level}")
            sequence = self.sequences.get(each.id)
            if sequence is None:
                yield self._found(Fault.LOST, f"{each.id} was acked at {each.epoch}/{each.sequence}")
            elif each.epoch == self.held.epoch and each.sequence not in (0, sequence):
                yield self._found(
                    Fault.REORDERED, f"{each.id} was acked as {each.sequence} and stands at {sequence}"
                )

    def of_order(self, ids: Collection[str]) -> Iterator[Finding]:
        """Of these, a publish that was acked before another began stands before it."""
        first_end, first_id = float("inf"), ""
        for sequence, id_ in reversed(self.held.entries):
            if id_ not in ids:
                continue
            each = self.published[id_]
            if first_end < each.began:
                yield self._found(
                    Fault.REORDERED,
                    f"{id_} ({sequence}) was begun after {first_id} was acked, and precedes it",
                )
            if each.outcome == "acked" and each.ended < first_end:
                first_end, first_id = each.ended, id_

    def of_consumer(self, consumer: Consumer) -> Iterator[Finding]:
        """Follow one consumer: each message that exists, once, in order, or it was told."""
        path = _Path(self, consumer.name)
        for event in consumer.events:
            if isinstance(event, Told):
                path.told()
            elif isinstance(event, Joined):
                yield from path.joined(event)
            else:
                yield from path.saw(event)
        yield from path.ended()

    def missing(self, epoch: str, after: int, before: int) -> list[str]:
        """Ids between two sequences, both not counted."""
        numbers = range(after + 1, before)
        return [self.existing[epoch, number] for number in numbers if (epoch, number) in self.existing]


class _Path:
    """Where a consumer stands while its events are read."""

    def __init__(self, room: _Room, name: str) -> None:
        self._room = room
        self._name = name
        self._at: Position | None = None
        self._claimed = False  # recovered: true was said since the last message
        self._told = False  # a loss was announced since the last message
        self._ids: set[str] = set()
        self._seen: set[str] = set()  # of all time: a node that went on alone does not send them again

    def told(self) -> None:
        self._told = True
        self._ids.clear()  # what is sent again after such a word is no secret repeat

    def joined(self, event: Joined) -> Iterator[Finding]:
        if event.recovered is None or event.recovered is False:
            if event.recovered is False:
                self.told()
            self._told = False
            self._at = event.position
            self._claimed = False
            return
        self._claimed = True
        if event.since is None or event.since.epoch != event.position.epoch:
            yield self._found(Fault.FALSE_RECOVERY, f"recovered from {event.since} to {event.position}")

    def saw(self, event: Seen) -> Iterator[Finding]:
        epoch, sequence, id_ = event
        room = self._room
        if id_ not in room.published:
            yield self._found(Fault.PHANTOM, f"{id_} was delivered and nobody published it")
        elif epoch == room.held.epoch and room.existing.get((epoch, sequence)) != id_:
            yield self._found(Fault.PHANTOM, f"{id_} was delivered as {sequence} and does not stand there")
        at = self._at
        if id_ in self._ids:
            yield self._found(Fault.DUPLICATED, f"{id_} was delivered twice")
        elif at is not None and at.epoch == epoch and sequence <= at.sequence:
            yield self._found(Fault.REORDERED, f"{id_} ({sequence}) came behind {at.sequence}")
        elif at is not None and not self._told:
            yield from self._gap(at, epoch, sequence)
        self._ids.add(id_)
        self._seen.add(id_)
        self._at = Position(epoch, sequence)
        self._claimed = self._told = False

    def ended(self) -> Iterator[Finding]:
        """The log ends, and so must what was seen."""
        entries = self._room.held.entries
        if self._at is not None and not self._told and entries:
            yield from self._gap(self._at, self._room.held.epoch, entries[-1][0] + 1)

    def _gap(self, at: Position, epoch: str, sequence: int) -> Iterator[Finding]:
        fault = Fault.FALSE_RECOVERY if self._claimed else Fault.LOST
        if at.epoch == epoch:
            between = self._room.missing(epoch, at.sequence, sequence)
            missing = [id_ for id_ in between if id_ not in self._seen]
            if missing:
                yield self._found(
                    fault,
                    f"{len(missing)} messages behind {at.sequence} did not come, the first is {missing[0]}",
                )
        elif at.epoch:
            yield self._found(fault, f"the epoch went from {at.epoch} to {epoch}, and nothing was said")

    def _found(self, fault: Fault, sentence: str) -> Finding:
        return Finding(fault, self._room.room, f"{self._name}: {sentence}")


__all__ = [
    "Consumer",
    "Event",
    "Evidence",
    "Fault",
    "Finding",
    "Held",
    "Joined",
    "Published",
    "Seen",
    "Told",
    "judge",
]
