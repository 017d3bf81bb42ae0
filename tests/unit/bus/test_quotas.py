"""Limits shared by connections of one tenant, identity or address."""

import pytest

from arqonbus.bus.quotas import Quotas
from arqonbus.config.access import Limits
from arqonbus.protocol.errors import BusError, Code
from arqonbus.storage.ports import RoomKey

A, B = RoomKey("acme", "a"), RoomKey("acme", "b")


def quotas(**limits: object) -> Quotas:
    return Quotas(Limits.model_validate(limits), 1024)


def test_without_limits_there_are_no_accounts() -> None:
    """So that nothing is looked up for a message."""
    assert quotas().open("acme", "alice", "192.0.2.1", 0.0) == ()
    assert quotas().arrival("192.0.2.1", 0.0) is None


def test_accounts_are_shared_by_what_they_are_called() -> None:
    """Two subjects of a tenant share the tenant's, two tenants with one subject nothing."""
    share = {"messages_per_second": 1}
    books = quotas(tenant=share, identity=share, address=share)
    alice = books.open("acme", "alice", "192.0.2.1", 0.0)
    bob = books.open("acme", "bob", "192.0.2.1", 0.0)
    other = books.open("shop", "alice", "192.0.2.2", 0.0)
    assert [account.scope for account in alice] == ["tenant", "identity", "address"]
    assert [one is two for one, two in zip(alice, bob, strict=True)] == [True, False, True]
    assert not any(one is two for one, two in zip(alice, other, strict=True))


def test_coming_back_gives_no_fresh_burst() -> None:
    """An account is forgotten when its buckets are full again, and not before."""
    books = quotas(identity={"messages_per_second": 10})
    accounts = books.open("acme", "alice", "", 0.0)
    assert accounts[0].messages.take(20, 0.0) == 20
    books.close(accounts)
    books.sweep(1.0)
    again = books.open("acme", "alice", "", 1.0)
    assert again[0].messages.take(20, 1.0) == 10
    books.close(again)
    books.sweep(3.0)
    assert books.open("acme", "alice", "", 3.0)[0] is not accounts[0]


def test_a_refused_frame_takes_none_of_the_bytes() -> None:
    """So that one that sends too much leaves to others what is there."""
    account = quotas(tenant={"bytes_per_second": 1000}).open("acme", "alice", "", 0.0)[0]
    assert not account.bytes.take_whole(2001, 0.0)
    assert account.bytes.take_whole(2000, 0.0)
    assert not account.bytes.take_whole(1, 0.0)


def test_a_room_counts_once_for_all_members() -> None:
    """And no more when the last one left."""
    books = quotas(rooms_per_tenant=1)
    one, two = (books.open("acme", name, "", 0.0) for name in ("alice", "bob"))
    books.demand_join(one, A, 0.0)
    books.enter(one, A)
    books.demand_join(two, A, 0.0)
    books.enter(two, A)
    books.leave(one, A)
    with pytest.raises(BusError) as caught:
        books.demand_join(one, B, 0.0)
    assert caught.value.code is Code.RATE_LIMITED
    books.leave(two, A)
    books.demand_join(one, B, 0.0)


def test_arrivals_are_refused_with_a_hint() -> None:
    """Five seconds' worth may come at once."""
    books = quotas(address={"connections_per_second": 2})
    assert [books.arrival("192.0.2.1", 0.0) for _ in range(10)] == [None] * 10
    refusal = books.arrival("192.0.2.1", 0.0)
    assert refusal is not None
    assert (refusal.code, 400 < refusal.retry_after_ms < 600) == (Code.RATE_LIMITED, True)
    assert books.arrival("192.0.2.2", 0.0) is None
    assert books.arrival("192.0.2.1", 0.5) is None


def test_commands_are_counted_until_they_are_done() -> None:
    """One too many is refused and not counted."""
    books = quotas(identity={"commands": 2})
    accounts = books.open("acme", "alice", "", 0.0)
    books.begin_command(accounts)
    books.begin_command(accounts)
    with pytest.raises(BusError):
        books.begin_command(accounts)
    books.end_commands(accounts, 1)
    books.begin_command(accounts)
    assert accounts[0].commands == 2
