"""The projector as Prometheus metrics. Counters are read on scrape; the store's figures now and then.

`arqonbus_projection_books_difference` must be 0: what arrived is what was projected, was there already, came
too late, or went to the dead letters.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from arqonbus.continuum.projector import EpisodeProjector
from arqonbus.storage.ports import StorageError
from arqonbus.storage.projection import ProjectionStore, Tally

REFRESH_SECONDS = 15.0
_LAG_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

logger = logging.getLogger(__name__)


class ProjectionMetrics(Collector):
    """Registers itself; `watch` keeps the store's figures fresh until it is cancelled."""

    def __init__(
        self, projector: EpisodeProjector, store: ProjectionStore, registry: CollectorRegistry
    ) -> None:
        self._projector = projector
        self._store = store
        self._books = Tally()
        self._counts: Mapping[str, int] = {}
        self._lag = Histogram(
            "arqonbus_projection_lag_seconds",
            "Time from an event's entry into the log to the commit of its projection.",
            buckets=_LAG_SECONDS,
            registry=None,
        )
        registry.register(self)  # first: it fills the histogram
        registry.register(self._lag)

    async def watch(self) -> None:
        """Read the figures of the store until cancelled. While it is unreachable, the last figures stay."""
        while True:
            try:
                self._books = await self._store.books(None)
                self._counts = await self._store.counts(None)
            except StorageError as error:
                logger.debug("the figures of the projection are not fresh: %s", error)
            await asyncio.sleep(REFRESH_SECONDS)

    def collect(self) -> Iterable[Metric]:
        """The metric families of one scrape."""
        counters = self._projector.counters
        samples, counters.lag_seconds = counters.lag_seconds, []
        for seconds in samples:
            self._lag.observe(seconds)
        records = CounterMetricFamily(
            "arqonbus_projection_records",
            "Records since the start, by what became of them.",
            labels=["status"],
        )
        for status, count in counters.tally._asdict().items():
            records.add_metric([status], count)
        yield records
        yield CounterMetricFamily(
            "arqonbus_projection_missed", "Records that retention dropped unread.", value=counters.missed
        )
        yield CounterMetricFamily("arqonbus_projection_batches", "Batches committed.", value=counters.batches)
        yield CounterMetricFamily(
            "arqonbus_projection_store_failures", "Failed attempts to reach a store.", value=counters.failures
        )
        yield _gauge(
            "arqonbus_projection_store_up",
            "1 while the stores do what they are asked.",
            int(counters.store_up),
        )
        yield _gauge("arqonbus_projection_tenants", "Tenants with events.", self._projector.tenants)
        yield _gauge(
            "arqonbus_projection_last_time_seconds",
            "Unix time of the last commit.",
            counters.last_projected_us / 1_000_000,
        )
        yield _gauge(
            "arqonbus_projection_books_difference",
            "What the books do not account for; 0.",
            self._books.difference,
        )
        books = GaugeMetricFamily(
            "arqonbus_projection_books",
            "Records that ever came in, by what became of them.",
            labels=["status"],
        )
        for status, count in self._books._asdict().items():
            books.add_metric([status], count)
        yield books
        rows = GaugeMetricFamily("arqonbus_projection_rows", "Rows in the store, by kind.", labels=["kind"])
        for kind, count in self._counts.items():
            rows.add_metric([kind], count)
        yield rows


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


__all__ = ["ProjectionMetrics"]
