"""Connections that have not sent their request yet: a bounded number, in all and per address. Pure.

Where there is one too many, the oldest gives way. A client sends its request within a few round trips, so the
one that has waited longest is the least likely to send it at all; a new client is always heard.
"""

from __future__ import annotations

from typing import Protocol

from arqonbus.shield.proxies import network_of


class Awaited(Protocol):
    """A connection whose request is awaited."""

    def give_way(self) -> None:
        """End: there are too many."""


class PendingConnections:
    """The connections of one port that wait. At most `most`, and `most_per_address` from one address."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most, self._most_per_address = most, most_per_address
        self._networks: dict[Awaited, str] = {}  # oldest first
        self._by_network: dict[str, dict[Awaited, None]] = {}

    def __len__(self) -> int:
        return len(self._networks)

    def add(self, connection: Awaited, address: str | None) -> None:
        """Let it wait, and end the oldest if that is one too many. `address` None: not counted by address."""
        network = network_of(address) if address else ""
        self._networks[connection] = network
        if network:
            of_network = self._by_network.setdefault(network, {})
            of_network[connection] = None
            if len(of_network) > self._most_per_address:
                self._end(next(iter(of_network)))
        if len(self._networks) > self._most:
            self._end(next(iter(self._networks)))

    def remove(self, connection: Awaited) -> None:
        """It no longer waits."""
        network = self._networks.pop(connection, "")
        of_network = self._by_network.get(network)
        if of_network is not None:
            of_network.pop(connection, None)
            if not of_network:
                del self._by_network[network]

    def end_all(self) -> None:
        """End all of them."""
        for connection in list(self._networks):
            self._end(connection)

    def _end(self, connection: Awaited) -> None:
        self.remove(connection)
        connection.give_way()


__all__ = ["Awaited", "PendingConnections"]
