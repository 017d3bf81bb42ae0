"""The parts of the client that need no bus."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.client import ConnectionRefused, MessagesLost, Order, Position, VectorClock, order
from arqonbus.client.backoff import Backoff
from arqonbus.client.client import Client, is_final
from arqonbus.client.message import Ack, Message, message_envelope
from arqonbus.client.subscription import MAX_WAITING, Subscription
from arqonbus.protocol.clocks import MAX_ENTRIES
from arqonbus.protocol.envelope import Envelope, check
from arqonbus.protocol.errors import Invalid


@pytest.mark.parametrize(
    ("code", "final"),
    [
        *((code, False) for code in (1000, 1001, 1006, 1012, 4008, 4099, 4200)),
        *((code, True) for code in (1003, 1008, 1009, 4101, 4103, 4199)),
    ],
)
def test_close_codes_that_end_the_client(code: int, final: bool) -> None:
    """4100-4199 and protocol errors are final; everything else is tried again."""
    assert is_final(code) is final


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


def subscription(**options: object) -> Subscription:
    async def end(_: Subscription) -> None:
        return None

    chosen = {"channel": "", "since": None, "presence": False, "on_lost": None, **options}
    return Subscription("r", end=end, **chosen)  # type: ignore[arg-type]


def message(sequence: int, epoch: str = "e1") -> Envelope:
    return Envelope(room="r", epoch=epoch, sequence=sequence)


async def test_repeats_are_dropped_and_a_new_epoch_is_not_a_repeat() -> None:
    """A sequence at or below the position of its epoch is not given out again."""
    s = subscription(since=Position("e1", 2))
    for sequence in (2, 3, 3, 4):
        await s.deliver(message(sequence))
    await s.deliver(message(1, "e2"))
    got = [await anext(s) for _ in range(3)]
    assert [(m.epoch, m.sequence) for m in got] == [("e1", 3), ("e1", 4), ("e2", 1)]
    assert s.position == Position("e2", 1)


async def test_a_recovered_join_keeps_the_position_and_another_resets_it() -> None:
    """After recovered: true the position stays the reader's; after false it is the room's, and said."""
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
    await s.deliver(message(1))
    s.lost("gone")
    assert (await anext(s)).sequence == 1
    for _ in range(2):
        with pytest.raises(MessagesLost):
            await anext(s)


async def test_a_slow_reader_holds_the_connection_back() -> None:
    """Beyond MAX_WAITING messages deliver waits until the reader takes one."""
    s = subscription()
    for sequence in range(1, MAX_WAITING + 1):
        await s.deliver(message(sequence))
    waiting = asyncio.ensure_future(s.deliver(message(MAX_WAITING + 1)))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert (await anext(s)).sequence == 1
    await asyncio.wait_for(waiting, 5)


async def test_a_closed_subscription_ends() -> None:
    """After close the iteration stops, also for a reader that waits."""
    s = subscription()
    reader = asyncio.ensure_future(anext(s, None))
    await asyncio.sleep(0)
    await s.close()
    assert await asyncio.wait_for(reader, 5) is None


async def test_nobody_there_is_said_after_the_timeout() -> None:
    """Connecting to a port where nobody listens ends with a sentence after the timeout."""
    with pytest.raises(Exception, match=r"no connection to ws://127\.0\.0\.1:1/"):
        await Client("ws://127.0.0.1:1/v1/ws", "t", timeout=0.2).connect()


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
