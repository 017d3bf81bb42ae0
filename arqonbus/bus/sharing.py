"""Limits of tenants, identities and addresses that count over all nodes. Pure.

Once a second each node reports its demand to the others and takes its share of each limit (`quotas.part_of`).
The sum is right a second or two after the load has moved, and no message waits for another node.
"""

from __future__ import annotations

import msgspec

from arqonbus.bus.quotas import Quotas, Usage
from arqonbus.protocol.names import OWN_TENANT
from arqonbus.storage.ports import RoomKey

ROOM = RoomKey(OWN_TENANT, "limits")  # nodes speak here
FORGET_SECONDS = 3.5  # after which a node that says nothing counts as gone
MAX_REPORTED = 2000  # accounts of one node in one report
MAX_NODES = 512


class _Report(msgspec.Struct):
    node: str
    usage: dict[str, list[float]]


class Sharing:
    """Demand on the other nodes of a bus."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._heard: dict[str, tuple[float, dict[str, list[float]]]] = {}

    def report(self, quotas: Quotas) -> bytes:
        """Demand on this node since the last report, for the others."""
        usage = quotas.usage()
        most = sorted(usage, key=lambda key: usage[key], reverse=True)[:MAX_REPORTED]
        return msgspec.json.encode(_Report(self._node, {key: list(usage[key]) for key in most}))

    def heard(self, data: bytes, now: float) -> None:
        """A report of some node. What cannot be read is not one."""
        try:
            report = msgspec.json.decode(data, type=_Report)
        except msgspec.DecodeError:
            return
        if report.node != self._node and (report.node in self._heard or len(self._heard) < MAX_NODES):
            self._heard[report.node] = (now, report.usage)

    def settle(self, quotas: Quotas, now: float) -> None:
        """Take this node's part of each limit."""
        for node in [node for node, (at, _) in self._heard.items() if now - at > FORGET_SECONDS]:
            del self._heard[node]
        others = [usage for _, usage in self._heard.values()]
        quotas.settle(
            lambda key: [usage[key] for usage in others if len(usage.get(key, ())) == len(Usage._fields)]
        )


__all__ = ["FORGET_SECONDS", "ROOM", "Sharing"]
