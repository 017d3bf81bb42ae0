"""One connection as a state machine: frames in, decisions out, no socket."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.bus.frames import Close
from arqonbus.bus.session import ReceivedFrames, SessionLimits
from arqonbus.bus.wire import JSON, PROTOBUF, Wire
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, REPLY, SIGNAL, Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import RoomKey
from tests.unit.bus.people import UNLIMITED, granting, identity, message, session
from tests.unit.protocol.envelopes import any_envelopes, sendable_envelopes

WIRES = pytest.mark.parametrize("wire", [PROTOBUF, JSON], ids=["protobuf", "json"])
ORDERS = RoomKey("acme", "orders")


def frame(wire: Wire, *envelopes: Envelope) -> bytes | str:
    return wire_json.frame_of(envelopes).decode() if wire.json else wire_protobuf.frame_of(envelopes)


def limits(**changes: Any) -> SessionLimits:
    return dataclasses.replace(UNLIMITED, **changes)


def accepted(intake: ReceivedFrames) -> list[str]:
    return [item.id for items in intake.publications.values() for item in items]


def codes(intake: ReceivedFrames) -> list[str]:
    return [answer.status.code for answer in intake.answers]


@WIRES
def test_messages_are_sorted_by_room(wire: Wire) -> None:
    """Messages of several frames come by room, in order, each as its bytes with the sender's stamp behind."""
    alice = session(wire=wire)
    first, second, third = message(), message(room="other", channel="c"), message(payload=b"x", name="n")
    intake = alice.receive([frame(wire, first, second), frame(wire, third)], 0.0)
    assert list(intake.publications) == [ORDERS, RoomKey("acme", "other")]
    assert accepted(intake) == [first.id, third.id, second.id]
    assert intake.publications[RoomKey("acme", "other")][0].channel == "c"
    for item, sent in zip(intake.publications[ORDERS], [first, third], strict=True):
        sent.tenant, sent.sender = "acme", "me"
        assert Envelope.FromString(item.data) == sent
    assert (intake.answers, intake.close, alice.received) == ([], None, 3)


@given(st.lists(sendable_envelopes().filter(lambda e: e.kind == MESSAGE), min_size=1, max_size=6))
def test_bytes_of_the_producer_are_kept(envelopes: list[Envelope]) -> None:
    """Whatever way a message takes through the session, its bytes are the producer's, to the last one."""
    intake = session().receive([wire_protobuf.frame_of(envelopes)], 0.0)
    stamp = wire_protobuf.sender_stamp("acme", "me")
    assert intake.answers == []
    for key, items in intake.publications.items():
        sent = [one for one in envelopes if one.room == key.room]
        assert [(item.id, item.channel, item.data) for item in items] == [
            (one.id, one.channel, one.SerializeToString() + stamp) for one in sent
        ]


@WIRES
def test_commands_and_direct_messages(wire: Wire) -> None:
    """Commands and direct messages are told apart; a command always wants its reply."""
    command = message(kind=COMMAND, name="op.ping", room="", headers={"ack": "none"})
    direct = message(room="", recipient="bob", headers={"ack": "none"})
    intake = session(wire=wire).receive([frame(wire, command, direct)], 0.0)
    assert [one.id for one in intake.commands] == [command.id]
    [found] = intake.directs
    assert (found.id, found.recipient, found.ack) == (direct.id, "bob", False)
    assert Envelope.FromString(found.data).sender == "me"


@WIRES
def test_a_message_that_wants_no_ack(wire: Wire) -> None:
    """Header ack: none makes a message silent; if it is refused it gets a signal instead of a reply."""
    quiet, bad = message(headers={"ack": "none"}), message(headers={"ack": "none"}, room="a b")
    intake = session(wire=wire).receive([frame(wire, quiet, message(), bad)], 0.0)
    assert intake.silent == {quiet.id}
    [answer] = intake.answers
    assert (answer.kind, answer.name, answer.reply_to) == (SIGNAL, "error", bad.id)


@WIRES
def test_a_refusal_answers_its_message(wire: Wire) -> None:
    """A refused message with a valid id gets a REPLY, one without a SIGNAL; those beside it are accepted."""
    alice = session(wire=wire)
    bad, nameless = message(room="a b"), message(id="x")
    intake = alice.receive([frame(wire, message(), bad, nameless, message())], 0.0)
    assert len(accepted(intake)) == 2
    assert [(answer.kind, answer.reply_to) for answer in intake.answers] == [(REPLY, bad.id), (SIGNAL, "")]
    assert alice.rejected == {Code.VALIDATION_ERROR: 2}


@WIRES
@pytest.mark.parametrize(
    ("claimed", "echoed"), [("order-1", "order-1"), ("x" * 300, "x" * 64), ("a\x07b", None), ("", None)]
)
def test_an_invalid_id_is_named_in_the_error(wire: Wire, claimed: str, echoed: str | None) -> None:
    """A message whose id is not valid cannot be replied to, so the signal names it."""
    sent = message()
    sent.id = claimed
    [answer] = session(wire=wire).receive([frame(wire, sent)], 0.0).answers
    assert (answer.kind, answer.name, answer.reply_to) == (SIGNAL, "error", "")
    assert answer.status.details["field"] == "id"
    assert answer.status.details.get("id") == echoed


@WIRES
def test_a_room_of_refused_messages_only(wire: Wire) -> None:
    """Also where messages to it passed before: nothing is to be stored, and nothing is answered but that."""
    alice = session(wire=wire)
    assert alice.receive([frame(wire, message())], 0.0).publications
    intake = alice.receive([frame(wire, message(trace="none"), message(tenant="other"))], 0.0)
    assert intake.publications == {}
    assert codes(intake) == ["VALIDATION_ERROR", "TENANT_MISMATCH"]


@WIRES
def test_the_tenant_is_the_tokens(wire: Wire) -> None:
    """The own tenant may be named, another is refused with TENANT_MISMATCH."""
    own, other = message(tenant="acme"), message(tenant="umbrella")
    intake = session(wire=wire).receive([frame(wire, own, other)], 0.0)
    assert accepted(intake) == [own.id]
    assert codes(intake) == [Code.TENANT_MISMATCH]


@WIRES
@pytest.mark.parametrize("plain", [True, False])
def test_payloads_are_bounded(wire: Wire, plain: bool) -> None:
    """A payload up to the limit is accepted, one byte more is TOO_LARGE, on the short and the long way."""
    headers = {} if plain else {"a": "b"}
    fits, large = message(payload=b"x" * 100, headers=headers), message(payload=b"x" * 101, headers=headers)
    intake = session(wire=wire, limits=limits(max_payload_bytes=100)).receive([frame(wire, fits, large)], 0.0)
    assert (accepted(intake), codes(intake)) == ([fits.id], [Code.TOO_LARGE])


# -- grants


@WIRES
def test_rooms_need_a_grant(wire: Wire) -> None:
    """A message goes to rooms that the token grants to publish to, and to no other."""
    alice = session(wire=wire, who=granting(**{"orders.*": ["publish"], "*": ["subscribe"]}))
    yes, no = message(room="orders.eu"), message(room="payroll")
    for _ in range(2):  # what is known of a room is kept
        intake = alice.receive([frame(wire, yes, no)], 0.0)
        assert (accepted(intake), codes(intake)) == ([yes.id], [Code.AUTHORIZATION_ERROR])


def test_a_room_that_the_profile_opens() -> None:
    """What the profile grants everybody in a room needs no grant in the token."""
    alice = session(who=granting(), granted=frozenset({"publish"}))
    assert len(accepted(alice.receive([frame(PROTOBUF, message())], 0.0))) == 1
    assert alice.may("publish", "any")
    assert not alice.may("history", "any")


def test_demand() -> None:
    """Asking for a room gives its key in the own tenant, or the reason why not."""
    alice = session(who=granting(orders=["history"]))
    assert alice.demand("history", "orders") == ORDERS
    for action, room, code in (
        ("publish", "orders", Code.AUTHORIZATION_ERROR),
        ("history", "other", Code.AUTHORIZATION_ERROR),
        ("history", "a:b", Code.VALIDATION_ERROR),
        ("history", "", Code.VALIDATION_ERROR),
    ):
        with pytest.raises(BusError) as caught:
            alice.demand(action, room)  # type: ignore[arg-type]
        assert caught.value.code == code


def test_a_renewed_token_is_asked_anew() -> None:
    """After a refresh the new token's grants hold, also for rooms that were open before."""
    alice = session(who=granting(orders=["publish"]))
    data = frame(PROTOBUF, message())
    assert len(accepted(alice.receive([data], 0.0))) == 1
    alice.become(granting(other=["publish"]))
    assert codes(alice.receive([data], 0.0)) == [Code.AUTHORIZATION_ERROR]
    alice.become(identity())
    assert len(accepted(alice.receive([data], 0.0))) == 1


def test_many_rooms() -> None:
    """A session may publish to any number of rooms; what it remembers of them stays bounded."""
    alice = session()
    sent = [message(room=f"room-{number}") for number in range(3000)]
    assert len(accepted(alice.receive([frame(PROTOBUF, *sent)], 0.0))) == 3000
    assert len(alice._publish_to) <= 1024


# -- frames that are wrong


@WIRES
def test_a_frame_that_cannot_be_read(wire: Wire) -> None:
    """An unreadable frame gets one error with its offset; the frames around it are handled."""
    alice = session(wire=wire)
    good = frame(wire, message())
    intake = alice.receive([good, "{" if wire.json else b"\x05abc", good], 0.0)
    assert len(accepted(intake)) == 2
    [answer] = intake.answers
    assert (answer.kind, answer.status.code) == (SIGNAL, Code.DECODE_ERROR)
    assert answer.status.details["offset"].isdigit()
    assert (alice.bad_frames, intake.close) == (1, None)
    assert alice.rejected == {Code.DECODE_ERROR: 1}


@WIRES
def test_too_many_frames_that_cannot_be_read(wire: Wire) -> None:
    """After bad_frames of them, over any time, the connection ends with 1008; each got its answer."""
    alice = session(wire=wire, limits=limits(bad_frames=3))
    bad: bytes | str = "" if wire.json else b""
    good = frame(wire, message())
    assert alice.receive([bad, good, bad], 0.0).close is None
    intake = alice.receive([bad], 1000.0)
    assert intake.close is not None
    assert (intake.close[0], codes(intake)) == (Close.POLICY, [Code.DECODE_ERROR])


@WIRES
def test_a_frame_of_the_other_type(wire: Wire) -> None:
    """A frame of the other wire's type gets one error and ends the connection with 1003."""
    other: bytes | str = b"{}" if wire.json else "{}"
    alice = session(wire=wire)
    good = frame(wire, message())
    intake = alice.receive([good, other, good, other], 0.0)
    assert intake.close is not None
    assert intake.close[0] == Close.WRONG_TYPE
    assert codes(intake) == [Code.DECODE_ERROR if wire.json else Code.INFRA_PROTOCOL_REQUIRED]
    assert len(accepted(intake)) == 1


def test_unknown_keys_are_counted() -> None:
    """Unknown JSON keys of refused and accepted lines are counted, and change nothing."""
    alice = session(wire=JSON)
    line = {"id": new_ulid(), "kind": "MESSAGE", "room": "orders", "time": "2026-01-31T12:00:00Z", "x": 1}
    intake = alice.receive([json.dumps(line) + "\n" + '{"y":1,"kind":7}'], 0.0)
    assert (len(accepted(intake)), len(intake.answers), alice.unknown_keys) == (1, 1, 2)


# -- rates


@WIRES
def test_messages_per_second(wire: Wire) -> None:
    """Of a frame the first envelopes within the rate are accepted, the others refused with a hint."""
    alice = session(wire=wire, limits=limits(messages_per_second=10, messages_burst=3))
    sent = [message() for _ in range(12)]
    intake = alice.receive([frame(wire, *sent)], 0.0)
    assert accepted(intake) == [one.id for one in sent[:10]]
    assert codes(intake) == [Code.RATE_LIMITED] * 2
    assert [answer.reply_to for answer in intake.answers] == [one.id for one in sent[10:]]
    wait = intake.answers[0].status.retry_after_ms
    again = alice.receive([frame(wire, *sent[10:])], wait / 1000)
    assert accepted(again) == [one.id for one in sent[10:]]
    assert alice.received == 12


@WIRES
def test_bytes_per_second(wire: Wire) -> None:
    """A frame beyond the byte rate is refused as a whole, and accepted after the hint."""
    data = frame(wire, message(payload=b"x" * 3000))
    alice = session(wire=wire, limits=limits(bytes_per_second=1500, bytes_burst=6000))
    assert len(accepted(alice.receive([data], 0.0))) == 1
    intake = alice.receive([data], 0.0)
    assert codes(intake) == [Code.RATE_LIMITED]
    wait = intake.answers[0].status.retry_after_ms / 1000
    assert len(accepted(alice.receive([data], wait))) == 1


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 30)), min_size=1, max_size=10),
    st.integers(1, 20),
    st.integers(0, 40),
)
def test_rates_hold_and_each_envelope_has_one_outcome(
    bursts: list[tuple[float, int]], rate: int, burst: int
) -> None:
    """Over any time no more than the rate and the burst is accepted; what is not accepted is answered."""
    alice = session(limits=limits(messages_per_second=rate, messages_burst=burst))
    now, through = 0.0, 0
    for pause, count in bursts:
        now += pause
        intake = alice.receive([frame(PROTOBUF, *[message() for _ in range(count)])], now)
        assert len(accepted(intake)) + len(intake.answers) == count
        through += len(accepted(intake))
    assert through <= max(rate, burst) + rate * now + 1e-6


# -- anything


@given(
    st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=60)), max_size=5),
    st.sampled_from([PROTOBUF, JSON]),
)
def test_no_frame_raises(frames: list[bytes | str], wire: Wire) -> None:
    """Whatever comes in: no exception, and at most one answer per frame that cannot be read."""
    intake = session(wire=wire).receive(frames, 0.0)
    assert len(intake.answers) <= sum(max(1, len(one)) for one in frames)


@given(st.lists(any_envelopes(), min_size=1, max_size=6), st.sampled_from([PROTOBUF, JSON]))
def test_each_envelope_has_one_outcome(envelopes: list[Envelope], wire: Wire) -> None:
    """Each envelope is accepted once or answered once, never both and never neither."""
    alice = session(wire=wire)
    intake = alice.receive([frame(wire, *envelopes)], 0.0)
    outcomes = len(accepted(intake)) + len(intake.commands) + len(intake.directs) + len(intake.answers)
    assert outcomes == len(envelopes)
    assert sum(alice.rejected.values()) == len(intake.answers)
    assert alice.received == len(envelopes)
