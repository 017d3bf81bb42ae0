"""A connected client: writes, slow consumers, closing."""

from __future__ import annotations

import pytest

from arqonbus.bus.fanout import Fanout
from arqonbus.bus.frames import Close
from arqonbus.bus.peer import Peer
from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import Entry, RoomKey
from tests.unit.bus.people import message, payload_of, peer


def names(data: bytes) -> list[str]:
    found = []
    while data:
        payload, data = payload_of(data)
        found += [envelope.name for envelope, _ in wire_protobuf.decode(payload)]
    return found


def push(to: Peer, sequence: int, policy: str = "disconnect") -> None:
    entry = Entry(sequence, 1, "", "", message(name=f"m{sequence}", payload=b"x" * 100).SerializeToString())
    to.queue.push(Fanout(RoomKey("acme", "orders"), "E", [entry], policy))  # type: ignore[arg-type]


def test_a_flush_is_one_write() -> None:
    """What waits leaves in one write; with nothing waiting there is none."""
    bob, socket = peer()
    bob.flush()
    bob.answer(Envelope(name="a"))
    push(bob, 1)
    bob.marked = True
    bob.flush()
    bob.flush()
    assert [names(data) for data in socket.written] == [["a", "m1"]]
    assert not bob.marked


def test_a_blocked_socket_is_not_written_to() -> None:
    """While the socket is blocked frames wait; they leave in order when it takes them again."""
    bob, socket = peer()
    bob.blocked = True
    for number in (1, 2):
        push(bob, number)
        bob.flush()
    assert socket.written == []
    bob.blocked = False
    bob.flush()
    assert [names(data) for data in socket.written] == [["m1", "m2"]]


def test_a_slow_consumer_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """A client whose budget is used up is closed with 4008, once, and gets nothing more. The log says who."""
    caplog.set_level("INFO")
    bob, socket = peer(budget=300)
    bob.blocked, socket.held = True, 250
    push(bob, 1)
    bob.flush()
    push(bob, 2)
    bob.flush()
    bob.blocked = False
    bob.flush()
    bob.close(Close.NORMAL, "again")
    assert socket.closed is not None
    assert socket.closed[0] == Close.SLOW_CONSUMER
    assert socket.written == []
    (told,) = caplog.records
    assert told.message == "a client reads too slowly and is closed"
    who = bob.session.identity
    said = vars(told)
    assert (said["tenant"], said["subject"], said["address"]) == (who.tenant, who.subject, bob.address)


def test_dropped_messages_are_announced_first() -> None:
    """The gap stands before what comes after it."""
    bob, socket = peer(budget=300)
    bob.blocked = True
    for number in range(1, 6):
        push(bob, number, "drop_oldest")
        bob.flush()
    assert socket.closed is None
    bob.blocked = False
    bob.flush()
    [data] = socket.written
    heard = names(data)
    assert heard[0] == "gap"
    assert heard[-1] == "m5"


def test_what_is_queued_leaves_before_the_close() -> None:
    """A close sends what was queued if the socket takes it; nothing is written behind it."""
    bob, socket = peer()
    bob.answer(Envelope(name="last words"))
    bob.close(Close.POLICY, "bad")
    bob.answer(Envelope(name="too late"))
    bob.flush()
    assert [names(data) for data in socket.written] == [["last words"]]
    assert socket.closed == (Close.POLICY, "bad")
