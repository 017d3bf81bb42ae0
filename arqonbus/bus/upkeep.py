"""Looks after connections over time: pings, idle timeouts, tokens that end. Pure: the caller brings the time.

One coarse wheel serves all connections; each peer stands in one slot, that of its next check. An idle
connection therefore costs an entry in a set, and no task and no timer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from arqonbus.bus.frames import Close
from arqonbus.bus.peer import Peer
from arqonbus.config import Settings
from arqonbus.protocol import replies

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 switches a rule off, but for ping_timeout and refresh_window."""

    ping_interval: float
    ping_timeout: float
    idle_timeout: float
    refresh_window: float

    @staticmethod
    def of(settings: Settings) -> Timeouts:
        """Those of a profile."""
        limits = settings.limits
        return Timeouts(
            limits.ping_interval, limits.ping_timeout, limits.idle_timeout, settings.auth.refresh_window
        )


class Upkeep:
    """Checks each peer when something is due for it."""

    def __init__(self, timeouts: Timeouts, ready: Callable[[Peer], None]) -> None:
        self.timeouts = timeouts
        self._ready = ready
        self._slots: dict[int, set[Peer]] = {}
        self._swept = 0

    def watch(self, peer: Peer, now: float, wall: float) -> None:
        """Check the peer from now on; also after its token was renewed."""
        self.forget(peer)
        self._put(peer, self._check(peer, now, wall))

    def forget(self, peer: Peer) -> None:
        """The peer is gone. Kept until its next check, what it held would outlive it by a ping interval."""
        slot = self._slots.get(peer.check_slot)
        if slot is not None:
            slot.discard(peer)
            if not slot:
                del self._slots[peer.check_slot]

    def sweep(self, now: float, wall: float) -> None:
        """Check all that are due. `now` is monotonic, `wall` is Unix time, both in seconds."""
        until = int(now)
        for slot in range(self._swept or min(self._slots, default=until), until + 1):
            for peer in self._slots.pop(slot, ()):
                if not peer.closing:
                    self._put(peer, self._check(peer, now, wall))
        self._swept = until + 1

    def _put(self, peer: Peer, due: float) -> None:
        if due == NEVER or peer.closing:
            return
        slot = max(int(due) + 1, self._swept)
        peer.check_slot = slot
        self._slots.setdefault(slot, set()).add(peer)

    def _check(self, peer: Peer, now: float, wall: float) -> float:
        """Do what is due; the monotonic time of the next check."""
        return min(
            self._check_token(peer, now, wall), self._check_ping(peer, now), self._check_idle(peer, now)
        )

    def _check_token(self, peer: Peer, now: float, wall: float) -> float:
        left = peer.session.identity.expires_at - wall
        if left <= 0:
            peer.close(Close.TOKEN_EXPIRED, "the token has expired and was not refreshed")
            return NEVER
        window = self.timeouts.refresh_window
        if left > window:
            return now + left - window
        if not peer.warned_of_expiry:
            peer.warned_of_expiry = True
            facts = {"expires_in_ms": int(left * 1000), "refresh_with": "op.auth.refresh"}
            peer.answer(replies.signal("token.expiring", facts))
            self._ready(peer)
        return now + left

    def _check_ping(self, peer: Peer, now: float) -> float:
        interval, timeout = self.timeouts.ping_interval, self.timeouts.ping_timeout
        if not interval or peer.closing:
            return NEVER
        if now - peer.last_seen < interval:
            return peer.last_seen + interval
        if peer.pinged_at <= peer.last_seen:
            peer.pinged_at = now
            peer.transport.ping()
            return now + min(interval, timeout)  # answered by then, the next ping may be due
        if now - peer.pinged_at >= timeout:
            peer.close(Close.GONE, "no answer to a ping")
            peer.transport.abort()
            return NEVER
        return peer.pinged_at + timeout

    def _check_idle(self, peer: Peer, now: float) -> float:
        timeout = self.timeouts.idle_timeout
        if not timeout or peer.closing:
            return NEVER
        if now - peer.last_envelope >= timeout:
            peer.close(Close.GONE, "no envelope for too long")
            return NEVER
        return peer.last_envelope + timeout


__all__ = ["Timeouts", "Upkeep"]
