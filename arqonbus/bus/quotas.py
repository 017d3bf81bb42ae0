"""Limits shared by all connections of one tenant, identity or address on this node. Pure.

Each has an account while it is connected, and afterwards until its buckets are full again, so that a
reconnect gives no fresh burst. Without such a limit in the profile there are no accounts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from arqonbus.bus.buckets import TokenBucket
from arqonbus.config.access import Limits, Share
from arqonbus.protocol.errors import BusError, Code
from arqonbus.storage.ports import RoomKey

ARRIVALS_SECONDS = 5  # worth of new connections that may come at once
BURST_SECONDS = 2
LEAST_PART = 0.01  # of a limit that counts over all nodes, so that a node can begin to ask
MAX_ACCOUNTS = 200_000  # any client adds an address, so their number is bounded


class Usage(NamedTuple):
    """Demand on one account in a second, granted or not, and the number of its connections."""

    messages: float
    bytes: float
    joins: float
    arrivals: float
    connections: float


class CountingBucket(TokenBucket):
    """Counts what is asked, so that a limit can be parted among nodes. `limit` is the whole."""

    __slots__ = ("asked", "limit")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        super().__init__(rate, burst, now)
        self.limit = rate
        self.asked = 0

    def take(self, wanted: int, now: float) -> int:
        """See TokenBucket.take."""
        self.asked += wanted
        return super().take(wanted, now)

    def take_whole(self, wanted: int, now: float) -> bool:
        """See TokenBucket.take_whole."""
        self.asked += wanted
        return super().take_whole(wanted, now)


class Account:
    """One tenant, identity or address. `scope` names which, in errors to clients."""

    __slots__ = (
        "arrivals",
        "asked",
        "bytes",
        "commands",
        "connections",
        "elsewhere",
        "joins",
        "messages",
        "rooms",
        "scope",
        "share",
    )

    def __init__(self, scope: str, share: Share, max_frame_bytes: int, now: float) -> None:
        self.scope = scope
        self.share = share
        self.connections = 0
        self.elsewhere = 0  # connections on other nodes
        self.commands = 0
        self.rooms: Counter[RoomKey] = Counter()  # members by room
        rate = share.connections_per_second
        self.asked: Usage | None = None  # in the second before
        self.arrivals = CountingBucket(rate, ARRIVALS_SECONDS * rate, now)
        self.messages = CountingBucket(
            share.messages_per_second, BURST_SECONDS * share.messages_per_second, now
        )
        # A frame that may be sent at all must also fit the rate.
        self.bytes = CountingBucket(
            share.bytes_per_second, max(BURST_SECONDS * share.bytes_per_second, max_frame_bytes), now
        )
        self.joins = CountingBucket(share.joins_per_second, BURST_SECONDS * share.joins_per_second, now)

    def buckets(self) -> tuple[CountingBucket, ...]:
        """In the order of Usage."""
        return self.messages, self.bytes, self.joins, self.arrivals

    def is_idle(self, now: float) -> bool:
        """True if forgetting the account changes nothing."""
        return not self.connections and all(
            bucket.is_full(now) for bucket in (self.arrivals, self.messages, self.bytes, self.joins)
        )


class Quotas:
    """The accounts of one node under one profile."""

    def __init__(self, limits: Limits, max_frame_bytes: int) -> None:
        self._limits = limits
        self._max_frame_bytes = max_frame_bytes
        self._none = Share()
        self._accounts: dict[tuple[str, ...], Account] = {}

    def arrival(self, address: str, now: float) -> BusError | None:
        """The reason why an address may not connect now. Checked before anything that costs more."""
        return self._refusal(self._of(("address", address), self._limits.address, now), now)

    def identity_arrival(self, tenant: str, subject: str, now: float) -> BusError | None:
        """The reason why a tenant or one of its identities may not connect now."""
        for account in self._of_identity(tenant, subject, now):
            refusal = self._refusal(account, now)
            if refusal is not None:
                return refusal
        return None

    def open(self, tenant: str, subject: str, address: str, now: float) -> Sequence[Account]:
        """The accounts of a new connection, which counts from now on."""
        accounts = self._of_identity(tenant, subject, now)
        by_address = self._of(("address", address), self._limits.address, now)
        if by_address is not None:
            accounts.append(by_address)
        for account in accounts:
            account.connections += 1
        return tuple(accounts)

    def close(self, accounts: Sequence[Account]) -> None:
        """The connection is gone."""
        for account in accounts:
            account.connections -= 1

    def demand_join(self, accounts: Sequence[Account], room: RoomKey, now: float) -> None:
        """Raise RATE_LIMITED where one more join, or one more room of the tenant, is too much."""
        most = self._limits.rooms_per_tenant
        for account in accounts:
            if account.scope != "tenant" or room in account.rooms:
                continue
            if most and len(account.rooms) >= most:
                raise BusError(Code.RATE_LIMITED, f"a tenant can be in {most} rooms of this node at most")
        for account in accounts:
            if not account.joins.take(1, now):
                wait = account.joins.wait_ms()
                raise _limited(account, "joins", wait)

    def enter(self, accounts: Sequence[Account], room: RoomKey) -> None:
        """A connection is in the room."""
        for account in accounts:
            if account.scope == "tenant":
                account.rooms[room] += 1

    def leave(self, accounts: Sequence[Account], room: RoomKey) -> None:
        """It no longer is."""
        for account in accounts:
            if account.scope == "tenant":
                account.rooms[room] -= 1
                if account.rooms[room] <= 0:
                    del account.rooms[room]

    def begin_command(self, accounts: Sequence[Account]) -> None:
        """Count a command that waits to be run. Raises RATE_LIMITED where it is one too many."""
        for account in accounts:
            if account.share.commands and account.commands >= account.share.commands:
                raise _limited(account, "commands at one time", 100)
        for account in accounts:
            account.commands += 1

    def end_commands(self, accounts: Sequence[Account], count: int) -> None:
        """So many are done, or given up."""
        for account in accounts:
            account.commands -= count

    def usage(self) -> dict[str, Usage]:
        """Demand on each account since the last call. Accounts without demand are left out."""
        found = {}
        for key, account in self._accounts.items():
            buckets = account.buckets()
            account.asked = Usage(
                account.messages.asked,
                account.bytes.asked,
                account.joins.asked,
                account.arrivals.asked,
                account.connections,
            )
            for bucket in buckets:
                bucket.asked = 0
            if any(account.asked):
                found["\n".join(key)] = account.asked
        return found

    def settle(self, elsewhere: Callable[[str], Sequence[Sequence[float]]]) -> None:
        """Take this node's part of each limit. `elsewhere`: the usages of an account on other nodes."""
        for key, account in self._accounts.items():
            if account.asked is not None:
                others = [Usage(*usage) for usage in elsewhere("\n".join(key))]
                account.elsewhere = round(sum(usage.connections for usage in others))
                for number, bucket in enumerate(account.buckets()):
                    if bucket.limit:
                        asked = [usage[number] for usage in others]
                        part = part_of(bucket.limit, account.asked[number], asked)
                        bucket.rate = max(part, bucket.limit * LEAST_PART)

    def sweep(self, now: float) -> None:
        """Forget unused accounts."""
        for key in [key for key, account in self._accounts.items() if account.is_idle(now)]:
            del self._accounts[key]

    def _of_identity(self, tenant: str, subject: str, now: float) -> list[Account]:
        limits = self._limits
        always = bool(limits.rooms_per_tenant)
        found = (
            self._of(("tenant", tenant), limits.tenant, now, always=always),
            self._of(("identity", tenant, subject), limits.identity, now),
        )
        return [account for account in found if account is not None]

    def _of(self, key: tuple[str, ...], share: Share, now: float, *, always: bool = False) -> Account | None:
        if not always and share == self._none:
            return None
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS:
                self.sweep(now)
            account = Account(key[0], share, self._max_frame_bytes, now)
            if len(self._accounts) < MAX_ACCOUNTS:
                self._accounts[key] = account
        return account

    def _refusal(self, account: Account | None, now: float) -> BusError | None:
        if account is None:
            return None
        if account.share.connections and account.connections + account.elsewhere >= account.share.connections:
            text = f"this {account.scope} has as many connections as it may"
            return BusError(Code.TOO_MANY_CONNECTIONS, text)
        if not account.arrivals.take(1, now):
            return _limited(account, "new connections", account.arrivals.wait_ms())
        return None


def _limited(account: Account, what: str, wait_ms: int) -> BusError:
    text = f"more {what} than this {account.scope} may have"
    return BusError(Code.RATE_LIMITED, text, retry_after_ms=wait_ms)


def part_of(limit: float, own: float, others: Sequence[float]) -> float:
    """The share of a limit for a node that needs `own` while `others` need theirs.

    Everything that the others do not need. If the limit is too small for all, shares are equal, and what one
    node does not need is divided among the rest.
    """
    if own + sum(others) <= limit:
        return limit - sum(others)
    left, asking = limit, sorted([own, *others])
    for position, asked in enumerate(asking):
        even = left / (len(asking) - position)
        if asked >= even:
            return min(own, even)
        left -= asked
    return own


__all__ = ["Account", "Quotas", "Usage", "part_of"]
