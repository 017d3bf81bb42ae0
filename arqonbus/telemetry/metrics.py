"""The node's counters as Prometheus metrics. Reads on scrape; the hot path knows nothing of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arqonbus import __version__
from arqonbus.bridge.state import BridgeTotals
from arqonbus.bus.node import Node
from arqonbus.telemetry.projection import ProjectionMetrics

LAG_INTERVAL = 0.25
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        node, counters = self._node, self._node.counters
        load = node.load()
        yield _gauge("arqonbus_connections", "Clients that are connected now.", load.connections)
        yield _gauge("arqonbus_rooms", "Rooms that this node follows now.", load.rooms)
        yield _gauge("arqonbus_send_queue_bytes", "Bytes in the send queues of clients.", load.queued_bytes)
        yield _gauge(
            "arqonbus_append_pending_bytes",
            "Bytes accepted from clients that the log has not answered for.",
            node.committer.pending_bytes,
        )
        yield _gauge(
            "arqonbus_degraded",
            "1 while the storage engine is unreachable and the bus continues in memory, else 0.",
            int(node.degraded),
        )
        yield _gauge("arqonbus_start_time_seconds", "Unix time of the start.", node.started_at)
        version = GaugeMetricFamily("arqonbus_build_info", "Always 1.", labels=["version", "node"])
        version.add_metric([__version__, node.name], 1)
        yield version
        yield _gauge(
            "arqonbus_preflight_bypassed",
            "1 if the bus was started although preflight did not pass, else 0.",
            counters.preflight_bypassed,
        )
        yield _counter("arqonbus_connections_accepted", "Upgrades granted.", counters.connections_accepted)
        yield _by("arqonbus_connections_refused", "Upgrades refused.", "code", counters.connections_refused)
        yield _by(
            "arqonbus_connections_unopened",
            "Connections that ended without a request.",
            "reason",
            counters.connections_unopened,
        )
        yield _by("arqonbus_connections_closed", "Connections ended.", "code", counters.connections_closed)
        yield _counter("arqonbus_frames_in", "WebSocket messages received.", counters.frames_in)
        yield _counter(
            "arqonbus_bytes_in", "Payload bytes of WebSocket messages received.", counters.bytes_in
        )
        yield _counter("arqonbus_bytes_out", "Bytes handed to sockets.", counters.bytes_out)
        yield _counter("arqonbus_messages_in", "Messages that the log took.", counters.messages_in)
        yield _counter("arqonbus_duplicates", "Messages whose id the log knew.", counters.duplicates)
        yield _counter("arqonbus_deliveries", "Messages times receivers.", node.hub.delivered)
        yield _by("arqonbus_acks", "Acks of publishes, by durability.", "durability", counters.acks)
        yield _by("arqonbus_rejects", "Envelopes and frames refused, by code.", "code", counters.rejected)
        yield _counter("arqonbus_unknown_keys", "Unknown keys in JSON envelopes.", counters.unknown_keys)
        dropped = counters.dropped + sum(peer.queue.dropped for peer in node.clients.values())
        yield _counter("arqonbus_dropped_messages", "Messages dropped for slow consumers.", dropped)
        yield _counter("arqonbus_repairs", "Reads of the log because entries were missing.", counters.repairs)
        if counters.jwks_fetched_at is not None:
            age = time.time() - counters.jwks_fetched_at if counters.jwks_fetched_at else math.inf
            yield _gauge("arqonbus_jwks_age_seconds", "Age of the issuer's keys; +Inf: none.", age)
            yield _counter(
                "arqonbus_jwks_failures", "Failed fetches of the issuer's keys.", counters.jwks_failures
            )
        findings = CounterMetricFamily(
            "arqonbus_policy_findings", "What the content policy found.", labels=["rule", "action", "mode"]
        )
        for decision, count in node.gates.decisions.items():
            findings.add_metric(list(decision), count)
        yield findings
        yield _by("arqonbus_clock_skews", "Clients whose clock was off.", "direction", counters.clock_skews)
        skewed = sum(peer.skew.skewed for peer in node.clients.values())
        yield _gauge("arqonbus_clients_skewed", "Clients whose clock is off now.", skewed)
        commands = CounterMetricFamily("arqonbus_commands", "Commands run.", labels=["operation", "code"])
        for (operation, code), count in counters.commands.items():
            commands.add_metric([operation, code], count)
        yield commands


class _BridgeCollector(Collector):
    def __init__(self, state: BridgeTotals) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        state = self._state
        yield _gauge("arqonbus_bridge_connected", "1 while NATS is connected, else 0.", state.connected)
        yield _counter("arqonbus_bridge_connects", "Connections opened to NATS.", state.connects)
        yield _gauge("arqonbus_bridge_rooms", "Rooms that are taken to NATS.", state.rooms)
        messages = CounterMetricFamily(
            "arqonbus_bridge_messages", "Messages settled, by outcome.", labels=["direction", "outcome"]
        )
        for (direction, outcome), count in state.messages.items():
            messages.add_metric([direction, outcome], count)
        yield messages


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _by(name: str, text: str, label: str, counts: object) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    assert isinstance(counts, dict)
    for key, count in counts.items():
        family.add_metric([str(key)], count)
    return family


class Metrics:
    """Everything that /metrics shows."""

    def __init__(
        self,
        node: Node,
        projection: Callable[[CollectorRegistry], ProjectionMetrics] | None = None,
        bridge: BridgeTotals | None = None,
    ) -> None:
        """`projection` adds the metrics of the projector, where it runs in this process, `bridge` its own."""
        self._node = node
        self.ready = False  # as /readyz says it; who scrapes asks first
        self._registry = CollectorRegistry(auto_describe=False)
        self._projection = projection(self._registry) if projection else None
        self._registry.register(_NodeCollector(node))
        if bridge is not None:
            self._registry.register(_BridgeCollector(bridge))
        self._ready = Gauge(
            "arqonbus_ready",
            "1 while the node takes connections and its storage can be written and read, else 0.",
            registry=self._registry,
        )
        self._append = Histogram(
            "arqonbus_storage_append_seconds",
            "Time from handing a tick's messages to the log to its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._lag = Histogram(
            "arqonbus_loop_lag_seconds",
            "Lateness of a timer on the event loop.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def scrape(self) -> bytes:
        """The exposition text."""
        self._ready.set(self.ready)
        samples, self._node.counters.append_seconds = self._node.counters.append_seconds, []
        for seconds in samples:
            self._append.observe(seconds)
        return generate_latest(self._registry)

    async def watch(self) -> None:
        """Keep fresh what cannot be read on scrape, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_loop())
            if self._projection is not None:
                tasks.create_task(self._projection.watch())

    async def _watch_loop(self) -> None:
        """Measure the loop's lag."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._lag.observe(max(0.0, loop.time() - due))


__all__ = ["CONTENT_TYPE", "Metrics"]
