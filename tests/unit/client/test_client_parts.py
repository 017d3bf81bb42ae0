"""The parts of the client that need no bus."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.client import (
    Client,
    ConnectionRefused,
    MessagesLost,
    NotConnected,
    Order,
    Position,
    Rejected,
    VectorClock,
    order,
)
from arqonbus.client.backoff import Backoff
from arqonbus.client.connection import is_final
from arqonbus.client.message import Ack, Message, message_envelope
from arqonbus.client.subscription import Subscription
from arqonbus.protocol.clocks import MAX_ENTRIES
from arqonbus.protocol.envelope import Envelope, check
from arqonbus.protocol.errors import Invalid


@pytest.mark.parametrize(
    ("code", "final"),
    [
        *((code, False) for code in (1000, 1001, 1006, 1009, 1012, 4008, 4099, 4200)),
        *((code, True) for code in (1003, 1008, 4101, 4103, 4199)),
    ],
)
def test_close_codes_that_end_the_client(code: int, final: bool) -> None:
    """4100-4199 and protocol errors are final; everything else is tried again."""
    assert is_final(code) is final
    assert is_final(code, renewable=True) is (final and code != 4101)


def test_backoff_is_bounded_and_starts_anew() -> None:
    """Waits are random up to a bound that doubles to its maximum; a hint is a floor; reset begins again."""
    backoff = Backoff(first=1.0, most=8.0)
    for bound in (1, 2, 4, 8, 8, 8):
        assert 0 <= backoff.next() <= bound
    assert 5 <= backoff.next(hint=5) <= 13
    backoff.reset()
    assert backoff.next() <= 1


@pytest.mark.parametrize("payload", [b"raw", "text", 1, None, [1], {"a": 2**63}])
def test_a_made_message_is_valid(payload: object) -> None:
    """Whatever the payload, the envelope is one that the bus accepts."""
    envelope = message_envelope(payload, room="r", channel="c", name="n", headers={"k": "v"})  # type: ignore[arg-type]
    check(envelope)
    assert envelope.content_type == ("" if isinstance(payload, bytes) else "application/json")


def test_an_ack_reads_its_envelope() -> None:
    """An ack gives durability in words and is empty of it where the bus said none."""
    ack = Ack.of(Envelope(reply_to="x", sequence=2**63, epoch="e", durability=3, duplicate=True), "r")
    assert ack == Ack("x", "r", 2**63, "e", "durable", True)
    assert Ack.of(Envelope(), "").durability == ""


class Owner:
    """Records what a subscription asks of its client."""

    def __init__(self) -> None:
        self.changes = 0

    def loss(self, callback: object, loss: MessagesLost) -> None:
        callback(loss)  # type: ignore[operator]

    def demand_changed(self, subscription: Subscription) -> None:
        self.changes += 1

    async def release(self, subscription: Subscription) -> None:
        return None


def subscription(**options: object) -> Subscription:
    return Subscription(Owner(), "r", **options)  # type: ignore[arg-type]


def message(sequence: int, epoch: str = "e1") -> Envelope:
    return Envelope(room="r", epoch=epoch, sequence=sequence)


async def test_repeats_are_dropped_and_a_new_epoch_is_not_a_repeat() -> None:
    """A sequence at or below the last one of its epoch is not given out again."""
    s = subscription(since=Position("e1", 2))
    for sequence in (2, 3, 3, 4):
        s.deliver(message(sequence), 10)
    s.deliver(message(1, "e2"), 10)
    got = [await anext(s) for _ in range(3)]
    assert [(m.epoch, m.sequence) for m in got] == [("e1", 3), ("e1", 4), ("e2", 1)]
    assert s.position == Position("e2", 1)


async def test_the_position_is_what_the_program_was_given() -> None:
    """Messages that wait in the buffer do not move the position; with manual_ack only confirm does."""
    s, manual = subscription(since=Position("e1", 0)), subscription(since=Position("e1", 0), manual_ack=True)
    for each in (s, manual):
        each.deliver(message(1), 10)
        each.deliver(message(2), 10)
    assert s.position == Position("e1", 0)
    await anext(s)
    assert s.position == Position("e1", 1)
    first = await anext(manual)
    await anext(manual)
    assert manual.position == Position("e1", 0)
    manual.confirm(first)
    assert manual.position == Position("e1", 1)


async def test_a_recovered_join_keeps_the_position_and_another_resets_it() -> None:
    """After recovered: true the position stays; after false it is the room's, a loss."""
    lost: list[MessagesLost] = []
    s = subscription(since=Position("e1", 2), on_lost=lost.append)
    s.joined({"recovered": True, "position": {"epoch": "e1", "sequence": 9}})
    assert (s.position, lost) == (Position("e1", 2), [])
    s.joined({"recovered": False, "position": {"epoch": "e2", "sequence": "12"}})
    assert s.position == Position("e2", 12)
    assert len(lost) == 1


async def test_a_loss_ends_the_iteration_behind_what_waits() -> None:
    """Without on_lost, what came before the loss is still given out, then MessagesLost is raised."""
    s = subscription()
    s.deliver(message(1), 10)
    s.lost("gone")
    assert (await anext(s)).sequence == 1
    for _ in range(2):
        with pytest.raises(MessagesLost):
            await anext(s)


@pytest.mark.parametrize("bound", [{"max_messages": 4}, {"max_bytes": 40}])
async def test_a_full_buffer_pauses_until_it_is_half_empty(bound: dict[str, int]) -> None:
    """With the policy pause nothing is taken beyond the bound, and more is wanted from half of it on."""
    s = subscription(**bound)
    for sequence in range(1, 6):
        s.deliver(message(sequence), 10)
    assert (s.pending, s.paused, s.buffered) == (4, True, Position("e1", 4))
    await anext(s)
    assert s.paused
    await anext(s)
    assert not s.paused
    assert s.takes


async def test_drop_oldest_drops_and_counts() -> None:
    """With the policy drop_oldest the newest messages wait; on_lost is called once for a run of drops."""
    lost: list[MessagesLost] = []
    s = subscription(policy="drop_oldest", max_messages=2, on_lost=lost.append)
    for sequence in range(1, 6):
        s.deliver(message(sequence), 10)
    assert [(await anext(s)).sequence for _ in range(2)] == [4, 5]
    assert (s.dropped, len(lost)) == (3, 1)


async def test_the_policy_raise_raises_behind_what_waits() -> None:
    """With the policy raise what waits is given out, then MessagesLost is raised."""
    s = subscription(policy="raise", max_messages=1)
    s.deliver(message(1), 10)
    s.deliver(message(2), 10)
    assert (await anext(s)).sequence == 1
    with pytest.raises(MessagesLost, match="not read in time"):
        await anext(s)


async def test_a_closed_subscription_ends() -> None:
    """After close the iteration stops, also for a reader that waits."""
    s = subscription()
    reader = asyncio.ensure_future(anext(s, None))
    await asyncio.sleep(0)
    await s.close()
    assert await asyncio.wait_for(reader, 5) is None


@pytest.mark.parametrize("payload", [float("nan"), {"a": [1, float("inf")]}, [None, float("-inf")], object()])
def test_what_json_cannot_express_is_refused(payload: object) -> None:
    """NaN and infinities, which would be stored as null, are refused before they are sent."""
    with pytest.raises(Rejected) as refused:
        message_envelope(payload, room="r")  # type: ignore[arg-type]
    assert refused.value.code == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    "fields",
    [
        {"message_id": "order-1"},
        {"room": "no room"},
        {"channel": "a b"},
        {"headers": {"k": "v" * 5000}},
        {"cause": "x"},
        {"content_type": "a\nb"},
    ],
)
def test_invalid_fields_are_refused_locally(fields: dict[str, object]) -> None:
    """What the bus would refuse raises Rejected with the bus's own sentence."""
    with pytest.raises(Rejected):
        message_envelope(1, **{"room": "r", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["http://h/v1/ws", "127.0.0.1:9100", "ws:///v1/ws", "ws://h:port/"])
async def test_a_url_that_cannot_be_connected_to(url: str) -> None:
    """It is refused at once, with the reason."""
    with pytest.raises(ValueError, match=r"."):
        Client(url, "t")


async def test_a_client_that_is_not_connected_says_so() -> None:
    """Publishing before connect raises at once instead of waiting for the timeout."""
    with pytest.raises(RuntimeError, match="connect"):
        await Client("ws://127.0.0.1:1/v1/ws", "t").publish("r", 1)


async def test_a_refused_connection_names_its_cause() -> None:
    """Connecting to a port where nobody listens ends with the cause, in the text and as __cause__."""
    with pytest.raises(NotConnected, match=r"no connection to ws://127\.0\.0\.1:1/.*refused") as failed:
        await Client("ws://127.0.0.1:1/v1/ws", "t", timeout=0.2).connect()
    assert isinstance(failed.value.__cause__, OSError)


def test_a_refusal_reads_well() -> None:
    """A refusal names message, code and status."""
    assert str(ConnectionRefused(401, "EXPIRED", "the token has expired")) == (
        "the token has expired (EXPIRED, HTTP 401)"
    )


def test_a_message_reads_its_payload_as_json() -> None:
    """json() gives the value and raises ValueError for what is none."""
    assert Message(Envelope(payload=b'{"a":1}')).json() == {"a": 1}
    with pytest.raises(ValueError, match="Expecting value"):
        Message(Envelope(payload=b"x")).json()


def test_a_clock_tells_cause_from_coincidence() -> None:
    """What an actor has seen comes before what it says; what neither has seen of the other is concurrent."""
    alice, bob, carol = VectorClock("alice"), VectorClock("bob"), VectorClock("carol")
    first = Message(message_envelope(1, room="r", clock=alice.tick()))
    bob.observe(first)
    answer = Message(message_envelope(2, room="r", clock=bob.tick(), cause=first.id))
    aside = Message(message_envelope(3, room="r", clock=carol.tick()))
    assert order(first, answer) is Order.BEFORE
    assert order(answer, first) is Order.AFTER
    assert order(aside, answer) is order(first, aside) is Order.CONCURRENT
    assert order(first, first) is Order.EQUAL
    assert dict(bob) == {"alice": 1, "bob": 1}
    check(answer.envelope)


def test_a_clock_goes_on_after_a_restart_and_is_bounded() -> None:
    """It never counts back, and refuses what the bus would refuse."""
    kept = VectorClock("alice", {"alice": 7, "bob": 2}).tick()
    assert kept == {"alice": 8, "bob": 2}
    clock = VectorClock("alice", kept)
    clock.observe({"alice": 3})
    assert clock["alice"] == 8
    with pytest.raises(Invalid):
        VectorClock("not a name")
    with pytest.raises(Invalid):
        clock.observe({f"actor-{n}": 1 for n in range(MAX_ENTRIES)})
    assert dict(clock) == kept
