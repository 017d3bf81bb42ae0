"""Connections whose request is not complete."""

from __future__ import annotations

import pytest

from arqonbus.bus.pending import PendingConnections
from arqonbus.shield.proxies import network_of


class Waiting:
    def __init__(self, name: str) -> None:
        self.name = name
        self.gone = False

    def give_way(self) -> None:
        self.gone = True


def test_the_oldest_of_an_address_gives_way() -> None:
    """Others are not touched, and those without an address count in the whole only."""
    pending = PendingConnections(100, 2)
    one, two, three, other, proxied = (Waiting(name) for name in ("one", "two", "three", "other", "proxied"))
    pending.add(other, "192.0.2.9")
    for connection in (one, two, three):
        pending.add(connection, "192.0.2.1")
    for connection in (proxied, Waiting("x"), Waiting("y")):
        pending.add(connection, None)
    assert [each.gone for each in (one, two, three, other, proxied)] == [True, False, False, False, False]
    assert len(pending) == 6


def test_the_oldest_of_all_gives_way() -> None:
    """What left before makes room."""
    pending = PendingConnections(3, 2)
    waiting = [Waiting(str(n)) for n in range(5)]
    for number, connection in enumerate(waiting[:3]):
        pending.add(connection, f"192.0.2.{number}")
    pending.remove(waiting[1])
    pending.remove(waiting[1])
    pending.add(waiting[3], "192.0.2.7")
    assert not any(connection.gone for connection in waiting)
    pending.add(waiting[4], "192.0.2.8")
    assert [connection.gone for connection in waiting] == [True, False, False, False, False]
    pending.end_all()
    assert [connection.gone for connection in waiting] == [True, False, True, True, True]
    assert len(pending) == 0


def test_nothing_is_kept_of_those_that_left() -> None:
    pending = PendingConnections(10, 2)
    connection = Waiting("one")
    pending.add(connection, "192.0.2.1")
    pending.remove(connection)
    assert not pending._by_network


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("", ""),
        ("nowhere", "nowhere"),
    ],
)
def test_a_client_is_told_apart_by_its_network(address: str, network: str) -> None:
    """An IPv6 client has 2**64 addresses, and counts as one."""
    assert network_of(address) == network
