"""The byte-bounded queue of one client."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arqonbus.bus.fanout import Fanout
from arqonbus.bus.sendqueue import Gap, Overflow, SendQueue, gap_facts
from arqonbus.bus.wire import JSON, PROTOBUF, Wire
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import Entry, RoomKey
from tests.unit.bus.people import message, payload_of

ROOM = RoomKey("acme", "orders")
ANSWER = Envelope(name="answer", payload=b"a" * 40)
WIRES = pytest.mark.parametrize("wire", [PROTOBUF, JSON], ids=["protobuf", "json"])


def entry(sequence: int, key: str = "", size: int = 10, channel: str = "") -> Entry:
    envelope = message(id=f"{sequence}", name="n", payload=b"x" * size, channel=channel)
    if key:
        envelope.headers["key"] = key
    return Entry(sequence, 1, envelope.id, channel, envelope.SerializeToString())


def fanout(policy: Any, *entries: Entry, room: RoomKey = ROOM, epoch: str = "E") -> Fanout:
    return Fanout(room, epoch, entries, policy)


def heard(data: bytes, wire: Wire) -> list[Envelope]:
    """The envelopes of all frames, in order."""
    found: list[Envelope] = []
    while data:
        payload, data = payload_of(data)
        if wire.json:
            found += [
                line.envelope for line in wire_json.decode(payload.decode()) if line.envelope is not None
            ]
        else:
            found += [envelope for envelope, _ in wire_protobuf.decode(payload)]
    return found


POLICIES = ("disconnect", "drop_oldest", "latest")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(POLICIES), st.integers(1, 3), st.integers(0, 120)),
        st.tuples(st.sampled_from(POLICIES), st.integers(1, 3), st.integers(0, 120)),
        st.tuples(st.sampled_from(["answer", "take", "new epoch"]), st.just(1), st.just(0)),
        st.tuples(st.just("fit"), st.just(1), st.integers(0, 300)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(STEPS, st.sampled_from([PROTOBUF, JSON]), st.integers(200, 1500))
def test_policies(steps: list[tuple[str, int, int]], wire: Wire, budget: int) -> None:
    """After fit the budget holds or the client has to go; what a client misses is what its policy says.

    Everything of a `disconnect` room and every answer arrives. Of a `drop_oldest` room everything arrives or
    is in a gap. Of a `latest` room the newest message of each key arrives. All of it in order.
    """
    queue = SendQueue(wire, budget)
    rooms = {policy: RoomKey("acme", policy) for policy in POLICIES}
    sent: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    got: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    gaps: list[Gap] = []
    counter: dict[str, int] = defaultdict(int)
    epoch, answers = "E1", 0
    delivered_answers = 0

    def take() -> None:
        nonlocal delivered_answers
        data, missing = queue.take()
        assert queue.size == 0
        gaps.extend(missing)
        for envelope in heard(data, wire):
            if envelope.name == "answer":
                delivered_answers += 1
            else:
                key = envelope.headers["key"]
                got[envelope.channel].append((envelope.epoch, envelope.sequence, key))

    for step, count, number in steps:
        if step == "answer":
            queue.answer(wire.encode(ANSWER))
            answers += 1
        elif step == "take":
            take()
        elif step == "new epoch":
            epoch = f"E{int(epoch[1:]) + 1}"
            counter.clear()
        elif step == "fit":
            try:
                queue.fit(number)
            except Overflow:
                kept = {source.slow_consumer for source in queue._sources if source is not None}
                assert "drop_oldest" not in kept, "something could still have been dropped"
                break
            assert queue.size + number <= budget
        else:
            batch = []
            for _ in range(count):
                counter[step] += 1
                key = f"k{(counter[step] + number) % 3}"
                sent[step].append((epoch, counter[step], key))
                batch.append(entry(counter[step], key, number, channel=step))
            queue.push(fanout(step, *batch, room=rooms[step], epoch=epoch))
    take()

    assert delivered_answers == answers
    assert got["disconnect"] == sent["disconnect"]
    announced = {(gap.epoch, n) for gap in gaps for n in range(gap.first, gap.last + 1)}
    assert {gap.room for gap in gaps} <= {rooms["drop_oldest"]}
    arrived = {(epoch, number) for epoch, number, _ in got["drop_oldest"]}
    assert not announced & arrived
    assert announced | arrived == {(epoch, number) for epoch, number, _ in sent["drop_oldest"]}
    newest = {key: (epoch, number) for epoch, number, key in sent["latest"]}
    assert {key: (epoch, number) for epoch, number, key in got["latest"]} == newest
    for policy in POLICIES:
        assert got[policy] == sorted(got[policy]), "out of order"
    lost = sum(len(sent[policy]) - len(got[policy]) for policy in POLICIES)
    assert queue.dropped == lost


@WIRES
def test_one_write(wire: Wire) -> None:
    """What was added in one tick leaves in one write: neighbouring answers in one frame, all in order."""
    queue = SendQueue(wire, 10_000)
    queue.answer(wire.encode(Envelope(name="1")))
    queue.answer(wire.encode(Envelope(name="2")))
    queue.push(fanout("disconnect", entry(3), entry(4)))
    queue.answer(wire.encode(Envelope(name="5")))
    data, gaps = queue.take()
    assert [one.name if one.name != "n" else one.sequence for one in heard(data, wire)] == [
        "1",
        "2",
        3,
        4,
        "5",
    ]
    assert gaps == []
    assert queue.take() == (b"", [])


@WIRES
def test_a_single_frame_is_passed_on_as_it_is(wire: Wire) -> None:
    """One room's batch leaves as the bytes object that all its members share."""
    queue = SendQueue(wire, 10_000)
    batch = fanout("disconnect", entry(1))
    queue.push(batch)
    assert queue.take()[0] is batch.frame(wire)


def test_within_the_budget_nothing_is_dropped() -> None:
    """Policies do nothing before the budget is reached, to the byte."""
    queue = SendQueue(PROTOBUF, 0)
    for number in range(1, 4):
        queue.push(fanout("latest", entry(number, "same")))
        queue.push(fanout("drop_oldest", entry(number), room=RoomKey("acme", "other")))
    queue.budget = queue.size + 100
    queue.fit(100)
    assert queue.dropped == 0
    queue.fit(101)
    assert queue.dropped > 0


def test_the_gap_of_a_room_is_one_range() -> None:
    """Batches of a room that were dropped one after the other are one gap, announced once."""
    queue = SendQueue(PROTOBUF, 0)
    for number in (1, 3, 5):
        queue.push(fanout("drop_oldest", entry(number), entry(number + 1)))
    queue.fit(0)
    assert queue.size == 0
    data, gaps = queue.take()
    assert (data, gaps) == (b"", [Gap(ROOM, "E", 1, 6)])
    assert gap_facts(gaps[0]) == {"epoch": "E", "first": 1, "last": 6}
    assert queue.take() == (b"", [])


def test_latest_keeps_epochs_apart() -> None:
    """Messages of two epochs of a room keep each their own epoch when they are conflated."""
    queue = SendQueue(PROTOBUF, 10)
    queue.push(fanout("latest", entry(8, "a"), entry(9, "b"), epoch="E1"))
    queue.push(fanout("latest", entry(1, "b"), epoch="E2"))
    with pytest.raises(Overflow):
        queue.fit(0)
    data, _ = queue.take()
    assert [(one.epoch, one.sequence) for one in heard(data, PROTOBUF)] == [("E1", 8), ("E2", 1)]


def test_latest_without_a_key_header() -> None:
    """Without a key header the channel and the name are the key."""
    queue = SendQueue(PROTOBUF, 10)
    queue.push(fanout("latest", entry(1, channel="a"), entry(2, channel="b"), entry(3, channel="a")))
    with pytest.raises(Overflow):
        queue.fit(0)
    assert [one.sequence for one in heard(queue.take()[0], PROTOBUF)] == [2, 3]
