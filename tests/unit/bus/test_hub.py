"""Rooms and fan-out."""

from __future__ import annotations

import json

from arqonbus.bus.hub import Hub, Room
from arqonbus.bus.peer import Peer
from arqonbus.bus.wire import JSON, PROTOBUF, Wire
from arqonbus.config import RoomSettings, load
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import Entry, Head, Page, RoomKey
from tests.unit.bus.people import message, payload_of, peer
from tests.unit.bus.test_upgrade import REPOSITORY

KEY = RoomKey("acme", "orders")
SETTINGS: RoomSettings = load("dev", root=REPOSITORY, environ={}).settings.room_settings("orders")


class House:
    """A hub with one room that has started, and what it asked for."""

    def __init__(self, *, started: bool = True) -> None:
        self.ready: list[Peer] = []
        self.repairs: list[Room] = []
        self.hub = Hub(ready=self.ready.append, repair=self.repairs.append)
        self.room = self.hub.rooms[KEY] = Room(KEY, SETTINGS)
        if started:
            self.hub.start(self.room, Head("E", 1, 0))

    def member(self, channel: str = "", wire: Wire = PROTOBUF) -> Peer:
        one, _ = peer(wire=wire)
        self.room.add(one, channel, watch=False)
        return one

    def deliver(self, *sequences: int, channel: str = "", epoch: str = "E") -> None:
        self.hub.deliver(KEY, epoch, [entry(number, channel) for number in sequences])


def entry(sequence: int, channel: str = "") -> Entry:
    data = message(channel=channel, name=f"m{sequence}").SerializeToString()
    return Entry(sequence, 1, f"{sequence}", channel, data)


def heard(one: Peer) -> list[Envelope]:
    data, _ = one.queue.take()
    found: list[Envelope] = []
    while data:
        payload, data = payload_of(data)
        if one.queue.wire.json:
            found += [line.envelope for line in wire_json.decode(payload.decode()) if line.envelope]
        else:
            found += [envelope for envelope, _ in wire_protobuf.decode(payload)]
    return found


def names(one: Peer) -> list[str]:
    return [envelope.name for envelope in heard(one)]


def test_everybody_in_the_room_hears() -> None:
    """Each member gets each message once, on its own wire, and is marked ready once."""
    house = House()
    members = [house.member(), house.member(wire=JSON), house.member()]
    house.deliver(1, 2)
    assert [names(one) for one in members] == [["m1", "m2"]] * 3
    assert house.ready == members
    assert house.hub.delivered == 6


def test_channels() -> None:
    """A member of a channel hears that channel, a member of the room hears all of them."""
    house = House()
    everything, east, west = house.member(), house.member("east"), house.member("west")
    house.deliver(1, channel="east")
    house.deliver(2, channel="west")
    house.deliver(3)
    assert [names(one) for one in (everything, east, west)] == [["m1", "m2", "m3"], ["m1"], ["m2"]]
    assert house.hub.delivered == 5


def test_another_room_hears_nothing() -> None:
    """Entries of a room of another tenant, or of a room that nobody is in, reach nobody."""
    house = House()
    bob = house.member()
    house.hub.deliver(RoomKey("umbrella", "orders"), "E", [entry(1)])
    house.hub.deliver(KEY, "E", [])
    assert names(bob) == []


def test_a_gap_is_repaired_before_later_messages() -> None:
    """Later messages wait, the log is asked, and all leave in order."""
    house = House()
    bob = house.member()
    house.deliver(3)
    assert (names(bob), house.repairs) == ([], [house.room])
    house.hub.repaired(house.room, Page(Head("E", 1, 3), [entry(1), entry(2), entry(3)]))
    assert names(bob) == ["m1", "m2", "m3"]


def test_what_the_log_no_longer_holds_is_announced() -> None:
    """A range that is gone is announced to all members before what follows."""
    house = House()
    members = [house.member(), house.member("east", wire=JSON)]
    house.deliver(5, channel="east")
    house.hub.repaired(house.room, Page(Head("E", 4, 5), [entry(4, "east"), entry(5, "east")]))
    for one in members:
        gap, *messages = heard(one)
        assert (gap.name, gap.room, gap.tenant) == ("gap", "orders", "")
        assert json.loads(gap.payload) == {"epoch": "E", "first": 1, "last": 3}
        assert [envelope.sequence for envelope in messages] == [4, 5]


def test_a_log_that_began_anew_is_announced() -> None:
    """Members are told of the new epoch before its first message."""
    house = House()
    bob = house.member()
    house.deliver(1)
    house.deliver(1, epoch="F")
    assert [(one.name, one.epoch, one.sequence) for one in heard(bob)] == [
        ("m1", "E", 1),
        ("epoch", "", 0),
        ("m1", "F", 1),
    ]


def test_what_came_before_the_start_keeps_its_epoch() -> None:
    """Batches of two epochs that waited for the head are each delivered under their own epoch."""
    house = House(started=False)
    bob = house.member()
    house.deliver(2, epoch="E")
    house.deliver(1, epoch="F")
    assert names(bob) == []
    house.hub.start(house.room, Head("E", 1, 1))
    assert [(one.name, one.epoch) for one in heard(bob)] == [("m2", "E"), ("epoch", ""), ("m1", "F")]


def test_leaving() -> None:
    """Who leaves a channel stays in the others; who left all of them is gone, and the room can be empty."""
    house = House()
    bob = house.member("east")
    house.room.add(bob, "west", watch=True)
    assert not house.room.remove(bob, "east")
    assert house.room.members == {bob}
    assert list(house.room.watchers()) == [bob]
    assert house.room.remove(bob, "west")
    assert house.room.is_empty()
    assert list(house.room.watchers()) == []
    assert house.room.remove(bob, "never")


def test_a_broadcast_is_encoded_once_per_wire() -> None:
    """A signal reaches everybody on the wire that they speak."""
    house = House()
    members = [house.member(), house.member(wire=JSON)]
    house.hub.broadcast(members, Envelope(name="hello"))
    assert [names(one) for one in members] == [["hello"], ["hello"]]
