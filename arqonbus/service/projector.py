"""The projector as a process of its own: the log in, the projection out, health and metrics beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arqonbus import __version__
from arqonbus.bus.server import take_port
from arqonbus.config import Resolved, Settings
from arqonbus.continuum.events import ROOM
from arqonbus.continuum.projector import EpisodeProjector, Watch
from arqonbus.service.boundary import boundary
from arqonbus.service.engines import event_log, node_name, projection_store
from arqonbus.service.stopping import stop_signal
from arqonbus.storage.engines import engine_of
from arqonbus.storage.ports import Entry, EventLog, LogListener, RoomKey, StorageError
from arqonbus.storage.postgres.access import PostgresUnavailable
from arqonbus.storage.projection import ProjectionStore
from arqonbus.telemetry.http import TelemetryServer
from arqonbus.telemetry.metrics import CONTENT_TYPE
from arqonbus.telemetry.projection import ProjectionMetrics
from arqonbus.telemetry.supervisor import Supervisor

PROBE_SECONDS = 2.0

logger = logging.getLogger(__name__)


def make_projector(
    settings: Settings, events: EventLog, store: ProjectionStore, consumer: str, watch: Watch
) -> EpisodeProjector:
    """A projector as the profile describes it. Raises StorageError for an engine without groups."""
    return EpisodeProjector(
        events,
        store,
        consumer=consumer,
        watch=watch,
        clock_us=lambda: time.time_ns() // 1000,
        batch=settings.projector.batch,
        retention=timedelta(seconds=settings.projector.retention) if settings.projector.retention else None,
        boundary=boundary(settings),
    )


async def open_store(store: ProjectionStore) -> None:
    """Open the store. An unreachable one is retried later. Raises StorageError for permanent faults."""
    try:
        await store.open()
    except PostgresUnavailable as error:
        logger.warning("the store of the projection is unreachable and is retried: %s", error)


class _Wakes(LogListener):
    """The log's listener: tells of entries in the rooms that are watched."""

    def __init__(self) -> None:
        self._calls: dict[RoomKey, Callable[[], None]] = {}

    async def watch(self, events: EventLog, key: RoomKey, call: Callable[[], None]) -> None:
        self._calls[key] = call
        await events.follow(key)

    def on_entries(self, room: RoomKey, epoch: str, entries: Sequence[Entry]) -> None:
        if room in self._calls:
            self._calls[room]()

    def on_resync(self, rooms: Sequence[RoomKey]) -> None:
        for room in rooms:
            if room in self._calls:
                self._calls[room]()


async def run_projector(resolved: Resolved, on_up: Callable[[Settings], None]) -> None:
    """Project until SIGTERM or SIGINT; a second one ends it at once.

    Raises PortTaken, StorageError or ValueError, each a sentence, where it cannot start.
    """
    settings = resolved.settings
    if not settings.projector.projects:
        raise ValueError(
            "projector.phase is emit_only, so nothing is to be projected; set it to shadow or later"
        )
    if not engine_of(settings).shared:
        raise ValueError(
            f"storage.backend is {settings.storage.backend}, which belongs to one process: there "
            "`arqonbus serve` projects by itself"
        )
    name = node_name()
    bound = take_port(
        settings.telemetry.host, settings.projector.telemetry_port, "telemetry of the projector"
    )
    wakes, store = _Wakes(), projection_store(settings, name)
    events = event_log(settings, name, store)
    await open_store(store)
    await events.open(wakes)
    projector = make_projector(
        settings, events, store, name, lambda key, call: wakes.watch(events, key, call)
    )
    telemetry = TelemetryServer(_app(projector, events, store, name), bound, lambda: settings.telemetry.token)
    await telemetry.start()
    stopped = stop_signal(projector.stop)
    async with Supervisor(os.environ) as supervisor:
        logger.info("the projector is up", extra={"version": __version__, "name_": name, "room": ROOM})
        on_up(settings)
        running = asyncio.create_task(projector.run())
        await asyncio.wait(
            {running, asyncio.create_task(stopped.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        supervisor.stopping()
        await running
    await telemetry.stop()
    await events.close()
    await store.close()
    logger.info("the projector is down")


def _app(projector: EpisodeProjector, events: EventLog, store: ProjectionStore, name: str) -> Starlette:
    registry = CollectorRegistry(auto_describe=False)
    metrics = ProjectionMetrics(projector, store, registry)

    async def livez(request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(request: Request) -> Response:
        reasons = [
            reason
            for what, probe in (
                (f"log {events.name}", events.probe),
                (f"projection {store.name}", store.probe),
            )
            if (reason := await _fault(what, probe))
        ]
        return JSONResponse({"ready": not reasons, "reasons": reasons, "name": name}, 503 if reasons else 200)

    async def scrape(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE)

    async def version(request: Request) -> Response:
        return JSONResponse({"version": __version__, "name": name})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(metrics.watch())
        yield
        watching.cancel()

    paths = {"/livez": livez, "/readyz": readyz, "/metrics": scrape, "/version": version}
    return Starlette(routes=[Route(path, answer) for path, answer in paths.items()], lifespan=lifespan)


async def _fault(what: str, probe: Callable[[], Awaitable[float]]) -> str:
    """The reason why the probe failed; empty: it succeeded."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await probe()
    except TimeoutError:
        return f"{what} did not answer within {PROBE_SECONDS:g} s"
    except StorageError as error:
        return f"{what}: {error}"
    return ""


__all__ = ["make_projector", "open_store", "run_projector"]
