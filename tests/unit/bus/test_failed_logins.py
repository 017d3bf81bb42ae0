"""Refused tokens by address, and the lines that are logged about them."""

from __future__ import annotations

from arqonbus.bus import failed_logins
from arqonbus.bus.failed_logins import LINES_AT_ONCE, MAX_DELAY, MAX_WAITING, FailedLogins, LineBudget


def test_failures_beyond_the_limit_are_answered_later_and_later() -> None:
    """Up to the longest delay; another address is answered at once."""
    logins = FailedLogins()
    delays = [logins.hold("192.0.2.1", 3, 0.0) for _ in range(10)]
    assert delays == [0, 0, 0, 0.25, 0.5, 1, 2, 4, 4, 4]
    assert max(delay for delay in delays if delay is not None) == MAX_DELAY
    assert logins.hold("192.0.2.2", 3, 0.0) == 0


def test_an_address_that_stops_failing_is_forgiven() -> None:
    """Step by step; after a minute without a failure it is as if there had been none."""
    logins = FailedLogins()
    for _ in range(6):
        logins.hold("192.0.2.1", 3, 0.0)
    assert logins.hold("192.0.2.1", 3, 20.0) == 0  # one of three a minute
    assert logins.hold("192.0.2.1", 3, 20.0) == 2.0
    assert [logins.hold("192.0.2.1", 3, 100.0) for _ in range(4)] == [0, 0, 0, 0.25]


def test_only_so_many_answers_are_held_back() -> None:
    """Of one network; what was answered makes room."""
    logins = FailedLogins()
    held = [logins.hold(f"2001:db8::{n:x}", 1, 0.0) for n in range(MAX_WAITING + 3)]
    assert held[0] == 0
    assert held[-2:] == [None, None]
    logins.release("2001:db8::1")
    assert logins.hold("2001:db8::2", 1, 0.0) == MAX_DELAY
    assert logins.hold("2001:db8:1::", 1, 0.0) == 0


def test_another_limit_begins_anew() -> None:
    logins = FailedLogins()
    assert [logins.hold("192.0.2.1", 1, 0.0) for _ in range(2)] == [0, 0.25]
    assert [logins.hold("192.0.2.1", 2, 0.0) for _ in range(3)] == [0, 0, 0.25]


def test_what_is_remembered_is_bounded(monkeypatch) -> None:
    """The network whose last failure is longest ago is forgotten first."""
    monkeypatch.setattr(failed_logins, "MAX_NETWORKS", 2)
    logins = FailedLogins()
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"):
        logins.hold(address, 1, 0.0)
    assert logins.hold("192.0.2.1", 1, 0.0) == 0.5
    assert logins.hold("192.0.2.2", 1, 0.0) == 0
    logins.release("192.0.2.9")


def test_lines_about_one_address_are_bounded() -> None:
    """The next line that is written says how many were not; other addresses have their own lines."""
    budget = LineBudget(0.0)
    spent = [budget.spend("192.0.2.1", 0.0) for _ in range(LINES_AT_ONCE + 50)]
    assert spent == [0] * LINES_AT_ONCE + [None] * 50
    assert budget.spend("192.0.2.2", 0.0) == 50
    assert budget.spend("192.0.2.1", 3.1) == 0
    assert budget.spend("192.0.2.1", 3.1) is None


def test_lines_about_all_addresses_are_bounded() -> None:
    """An attack from many addresses writes so many lines at once and so many a second."""
    budget = LineBudget(0.0)
    spent = [budget.spend(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", 0.0) for n in range(3000)]
    assert sum(each is not None for each in spent) == 1000
    later = [budget.spend(f"11.0.{n // 256}.{n % 256}", 10.05) for n in range(1000)]
    assert [each for each in later if each is not None] == [2000] + [0] * 200
