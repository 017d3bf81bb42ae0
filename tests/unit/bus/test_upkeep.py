"""Pings, idle timeouts and token expiry, under a simulated clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.bus.frames import Close
from arqonbus.bus.peer import Peer
from arqonbus.bus.upkeep import Timeouts, Upkeep
from arqonbus.protocol import wire_protobuf
from arqonbus.shield.tokens import NEVER
from tests.unit.bus.people import Socket, identity, payload_of, peer

WALL = 1_000_000.0
QUIET = Timeouts(ping_interval=0, ping_timeout=10, idle_timeout=0, refresh_window=60)


class Watch:
    """A peer under upkeep. Time passes second by second, as the node sweeps."""

    def __init__(self, timeouts: Timeouts, *, expires_at: int = NEVER, start: float = 5000.25) -> None:
        self.now = start
        self.start = start
        self.ready: list[Peer] = []
        self.upkeep = Upkeep(timeouts, self.ready.append)
        self.peer, self.socket = peer(who=identity(expires_at=expires_at), now=start)
        self.upkeep.watch(self.peer, start, WALL)

    def pass_time(self, seconds: float, *, step: float = 1.0) -> None:
        end = self.now + seconds
        while self.now + step <= end:
            self.now += step
            self.upkeep.sweep(self.now, WALL + self.now - self.start)

    def pass_time_until_closed(self, limit: float = 1000) -> float:
        """Seconds until the peer was closed."""
        begin = self.now
        while self.socket.closed is None and self.now - begin < limit:
            self.pass_time(1)
        assert self.socket.closed is not None
        return self.now - begin

    def seen(self, *, envelope: bool = False) -> None:
        self.peer.last_seen = self.now
        if envelope:
            self.peer.last_envelope = self.now

    def signals(self) -> list[str]:
        data, _ = self.peer.queue.take()
        names = []
        while data:
            payload, data = payload_of(data)
            names += [envelope.name for envelope, _ in wire_protobuf.decode(payload)]
        return names


def test_a_silent_peer_is_pinged() -> None:
    """A ping goes out after the interval without a frame, and only one until the answer."""
    watch = Watch(Timeouts(20, 10, 0, 60))
    watch.pass_time(19)
    assert watch.socket.pings == 0
    watch.pass_time(3)
    assert watch.socket.pings == 1
    watch.pass_time(5)
    assert (watch.socket.pings, watch.socket.closed) == (1, None)


def test_a_peer_that_sends_is_not_pinged() -> None:
    """Frames within the interval make pings needless."""
    watch = Watch(Timeouts(20, 10, 0, 60))
    for _ in range(20):
        watch.pass_time(10)
        watch.seen()
    assert watch.socket.pings == 0


def test_no_answer_to_a_ping() -> None:
    """A peer that does not answer within the timeout is closed with 1001 and cut off."""
    watch = Watch(Timeouts(20, 10, 0, 60))
    seconds = watch.pass_time_until_closed()
    assert 30 <= seconds <= 33
    assert watch.socket.closed is not None
    assert (watch.socket.closed[0], watch.socket.aborted, watch.socket.pings) == (Close.GONE, True, 1)


@pytest.mark.parametrize("late", [1, 5, 8])
def test_an_answered_ping(late: int) -> None:
    """A pong, however late within the timeout, keeps the connection; the next silence is pinged again."""
    watch = Watch(Timeouts(20, 10, 0, 60))
    for rounds in range(1, 5):
        while watch.socket.pings < rounds:
            watch.pass_time(1)
        watch.pass_time(late)
        watch.seen()
    assert watch.socket.closed is None
    assert watch.pass_time_until_closed() <= 33


@given(st.lists(st.floats(0, 9.0), min_size=1, max_size=8), st.integers(1, 30))
def test_whoever_answers_stays(delays: list[float], interval: int) -> None:
    """A peer that answers every ping in time is never closed, whatever the delays and the interval."""
    watch = Watch(Timeouts(interval, 10, 0, 60))
    for rounds, delay in enumerate(delays, 1):
        for _ in range(max(interval, 10) + 3):
            if watch.socket.pings >= rounds:
                break
            watch.pass_time(1)
        assert watch.socket.pings == rounds
        answered = watch.now + delay
        watch.pass_time(delay)
        watch.peer.last_seen = answered
    watch.pass_time(interval)
    assert watch.socket.closed is None


def test_sweeps_that_were_late() -> None:
    """After the loop stood still a silent peer is first pinged, and gets its time to answer."""
    watch = Watch(Timeouts(20, 10, 0, 60))
    watch.pass_time(500, step=500)
    assert (watch.socket.pings, watch.socket.closed) == (1, None)
    watch.seen()
    watch.pass_time(15)
    assert watch.socket.closed is None


def test_no_pings() -> None:
    """An interval of 0 switches pings off."""
    watch = Watch(QUIET)
    watch.pass_time(5000, step=10)
    assert (watch.socket.pings, watch.socket.closed, watch.ready) == (0, None, [])


def test_idle() -> None:
    """A peer without an envelope for the timeout is closed with 1001, however many pongs it sent."""
    watch = Watch(Timeouts(0, 10, 30, 60))
    for _ in range(10):
        watch.pass_time(20)
        watch.seen(envelope=True)
    assert watch.socket.closed is None
    for _ in range(4):
        watch.pass_time(7)
        watch.seen()
    assert watch.socket.closed is None
    assert watch.pass_time_until_closed() <= 5
    assert watch.socket.closed[0] == Close.GONE


def test_a_token_that_ends() -> None:
    """The end of a token is announced once, a window ahead, and then the connection ends with 4101."""
    watch = Watch(QUIET, expires_at=int(WALL) + 100)
    watch.pass_time(39)
    assert watch.signals() == []
    watch.pass_time(3)
    assert watch.signals() == ["token.expiring"]
    assert watch.ready == [watch.peer]
    watch.pass_time(50)
    assert watch.signals() == []
    assert watch.pass_time_until_closed() <= 10
    assert watch.socket.closed is not None
    assert watch.socket.closed[0] == Close.TOKEN_EXPIRED
    assert 100 <= watch.now - watch.start <= 102


def test_a_token_that_was_renewed() -> None:
    """A renewed token is watched instead; its end is announced anew."""
    watch = Watch(QUIET, expires_at=int(WALL) + 100)
    watch.pass_time(90)
    assert watch.signals() == ["token.expiring"]
    watch.peer.session.become(identity(expires_at=int(WALL) + 300))
    watch.peer.warned_of_expiry = False
    watch.upkeep.watch(watch.peer, watch.now, WALL + watch.now - watch.start)
    watch.pass_time(140)
    assert (watch.signals(), watch.socket.closed) == ([], None)
    watch.pass_time(20)
    assert watch.signals() == ["token.expiring"]
    watch.pass_time_until_closed()
    assert 300 <= watch.now - watch.start <= 302


@pytest.mark.parametrize("left", [0, 1, 30])
def test_a_token_that_has_hardly_begun(left: int) -> None:
    """A token within its last window is announced at once, and one that has ended closes at once."""
    watch = Watch(QUIET, expires_at=int(WALL) + left)
    assert watch.signals() == (["token.expiring"] if left else [])
    assert (watch.socket.closed is not None) == (left == 0)
    if left:
        assert watch.pass_time_until_closed() <= left + 2


def test_a_peer_that_is_closing_is_left_alone() -> None:
    """Nothing is sent to a connection that is ending, and it leaves the wheel."""
    watch = Watch(Timeouts(20, 10, 30, 60), expires_at=int(WALL) + 50)
    watch.peer.close(Close.RESTART, "going")
    watch.pass_time(200)
    assert (watch.socket.pings, watch.socket.aborted) == (0, False)
    assert watch.upkeep._slots == {}


def test_a_peer_that_is_gone_is_not_kept() -> None:
    """Also one whose token was renewed over and over: what a connection holds is free when it ends."""
    watch = Watch(Timeouts(20, 10, 30, 60), expires_at=int(WALL) + 500)
    for step in range(1, 10):
        watch.upkeep.watch(watch.peer, watch.now + step, WALL)
    watch.upkeep.forget(watch.peer)
    assert watch.upkeep._slots == {}
    watch.upkeep.forget(watch.peer)  # a second time changes nothing


def test_many_peers_cost_one_place_each() -> None:
    """However long it lasts, each idle peer stands in the wheel once."""
    upkeep = Upkeep(Timeouts(20, 10, 0, 60), lambda peer: None)
    sockets: list[Socket] = []
    peers: list[Peer] = []
    for _ in range(100):
        one, socket = peer(now=0.0)
        upkeep.watch(one, 0.0, WALL)
        peers.append(one)
        sockets.append(socket)
    for second in range(1, 300):
        for one in peers:
            one.last_seen = second - 0.5
        upkeep.sweep(float(second), WALL + second)
        assert sum(map(len, upkeep._slots.values())) == 100
    assert not any(socket.pings or socket.closed for socket in sockets)
