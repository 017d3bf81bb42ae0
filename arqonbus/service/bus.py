"""The bus as a process: the engine behind the log, the node, its port and the telemetry port.

Where the log belongs to this one process, the projector runs in it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from arqonbus import __version__
from arqonbus.bridge.bridge import NatsBridge
from arqonbus.bus.buckets import TokenBucket
from arqonbus.bus.node import Node
from arqonbus.bus.server import PortTaken, listen, take_port
from arqonbus.bus.services import Services
from arqonbus.commands.dispatch import run_command
from arqonbus.config import ConfigError, Resolved, Settings, with_dev_key
from arqonbus.config.compare import plan
from arqonbus.config.network import local_url
from arqonbus.continuum.projector import EpisodeProjector
from arqonbus.preflight import online_subset
from arqonbus.protocol.errors import BusError, Code
from arqonbus.service.admission import Admission
from arqonbus.service.boundary import boundary
from arqonbus.service.engines import event_log, node_name, projection_store, refuse
from arqonbus.service.gates import ProfileGates, keep_audit
from arqonbus.service.projector import make_projector, open_store
from arqonbus.service.stopping import stop_signal
from arqonbus.storage.engines import engine_of
from arqonbus.storage.ports import StorageError
from arqonbus.storage.projection import ProjectionStore
from arqonbus.telemetry.http import OnlineChecks, TelemetryServer, app
from arqonbus.telemetry.metrics import Metrics
from arqonbus.telemetry.projection import ProjectionMetrics
from arqonbus.telemetry.supervisor import Supervisor

# An admin of any tenant may ask for a reload, and everybody waits while the profile is read and judged.
RELOAD_SECONDS = 5.0

logger = logging.getLogger(__name__)


class BusService:
    """A running bus."""

    def __init__(
        self,
        settings: Settings,
        name: str | None = None,
        online_checks: OnlineChecks | None = None,
        on_reload: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """`online_checks` judges the servers behind the bus (/readyz?verbose). `on_reload`: see Services."""
        self.settings = settings
        self._online_checks = online_checks
        self._on_reload = on_reload
        self._projects = settings.projector.projects and engine_of(settings).groups
        self.name = name or node_name()
        self.node: Node
        self._telemetry: TelemetryServer
        self._store: ProjectionStore | None = None
        self._projecting: asyncio.Task[None] | None = None
        self.projector: EpisodeProjector | None = None
        self.bridge: NatsBridge | None = None

    async def start(self) -> None:
        """Open the engine and both ports. Raises PortTaken, StorageError or ValueError, each a sentence."""
        refuse(self.settings)
        self._gates = ProfileGates(self.settings)
        self.admission = Admission(self.settings, lambda: self.node.recheck(self.admission.renewed))
        telemetry_settings = self.settings.telemetry
        bound = take_port(telemetry_settings.host, telemetry_settings.port, "telemetry")
        if self.settings.projector.projects or self.settings.datastores.postgres.configured:
            self._store = projection_store(self.settings, self.name)
        self.node = Node(
            self.settings,
            event_log(self.settings, self.name, self._store, may_degrade=True),
            name=self.name,
            verify=self.admission.verify,
            run_command=run_command,
            gates=self._gates,
            services=Services(
                reload=self._on_reload,
                revoke=self.admission.revoke,
                projection=self._store if self._projects else None,
                projector=lambda: None if self.projector is None else self.projector.counters,
            ),
        )
        try:
            await self.node.start()
            await self.admission.start(self.node.event_log, self.node.counters)
            await self._start_projection()
            self._listening = await listen(self.node)
        except (PortTaken, StorageError, ValueError):
            bound.close()
            await self._stop()
            raise
        self._auditing = asyncio.create_task(keep_audit(self._gates, lambda: self.node.services.projection))
        if self.settings.bridge.mappings:
            self.bridge = NatsBridge(self.node, self.settings)
        of_bridge = self.bridge.facts if self.bridge is not None else None
        endpoints = app(self.node, self._metrics(), self._online_checks, of_bridge)
        self._telemetry = TelemetryServer(endpoints, bound, lambda: self.settings.telemetry.token)
        await self._telemetry.start()
        if self.bridge is not None:
            self.bridge.start()
        logger.info(
            "the bus is up",
            extra={
                "version": __version__,
                "node": self.name,
                "environment": self.settings.environment,
                "url": self.url,
                "health": f"http://{telemetry_settings.host}:{telemetry_settings.port}/readyz",
                "storage": self.node.event_log.name,
                "durability": self.node.event_log.durability.name.lower(),
            },
        )

    async def _start_projection(self) -> None:
        """Open the store that commands read, and project here where the log is of this process alone."""
        if not self.settings.projector.projects or self._store is None:
            return
        if not self._projects:
            logger.warning(
                "nothing is projected: the engine has no consumer groups",
                extra={"storage": self.node.event_log.name},
            )
            return
        await open_store(self._store)
        if not self.node.event_log.shared:
            self.projector = make_projector(
                self.settings, self.node.event_log, self._store, self.name, self.node.follower.watch
            )
            self._projecting = asyncio.create_task(self.projector.run(), name="projector")

    async def _stop(self) -> None:
        """The log is closed before the store: it is the witness of what the log had last."""
        if self.projector is not None and self._projecting is not None:
            self.projector.stop()
            await asyncio.wait([self._projecting])
        await self.admission.stop()
        await self.node.close()
        if self._store is not None:
            await self._store.close()

    def _metrics(self) -> Metrics:
        bridge = None if self.bridge is None else self.bridge.state
        if self.projector is None or self._store is None:
            return Metrics(self.node, bridge=bridge)
        return Metrics(self.node, partial(ProjectionMetrics, self.projector, self._store), bridge)

    @property
    def version(self) -> str:
        return __version__

    @property
    def url(self) -> str:
        """The URL for clients: the public address if the profile has one, else this machine's."""
        server = self.settings.server
        return server.public_url or local_url(server)

    def reload(self, settings: Settings) -> None:
        """Apply the hot settings. Raises ValueError when a key of the profile cannot be used."""
        refuse(settings)
        if _levels(settings) != _levels(self.settings):
            raise ValueError("rooms[].durability cannot change while the bus runs; restart the nodes for it")
        admit, judge = self.admission.prepare(settings), self._gates.prepare(settings)
        self._listening.reload(settings.server)
        judge()
        self.node.reload(settings, self.admission.verify)
        admit()
        if self.projector is not None:
            self.projector.boundary = boundary(settings)
        self.settings = settings
        logging.getLogger().setLevel(settings.telemetry.log_level.upper())

    async def stop(self) -> None:
        """Drain as the profile says, then close everything."""
        if self.bridge is not None:
            await self.bridge.stop()
        await self.node.drain()
        self._listening.close()
        await self._stop()
        self._auditing.cancel()
        await self._telemetry.stop()
        logger.info("the bus is down", extra={"node": self.name})


def _levels(settings: Settings) -> Sequence[tuple[str, str | None]]:
    """Which rooms are kept where. A level moves rooms between engines and connections: that takes a start."""
    rules = [(rule.match, rule.durability) for rule in settings.rooms]
    return rules if any(level for _, level in rules) else []


def _calm_garbage_collector() -> None:
    """Look for cycles a hundred times less often: messages make none, and a look costs more than they do.

    What exists now lives as long as the process, so it is not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(70_000, 20, 50)


async def run(
    resolved: Resolved,
    load_again: Callable[[], Resolved],
    on_up: Callable[[BusService], None],
    *,
    preflight_bypassed: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the drain at once. SIGHUP reloads hot settings.

    `load_again` gives the profile as it is now, or raises ConfigError or ValueError.
    """
    resolved = replace(resolved, settings=with_dev_key(resolved.settings))
    running = resolved

    def on_reload() -> Sequence[str]:
        nonlocal running
        running, changed = reload(service, running, load_again)
        return changed

    asked = TokenBucket(1 / RELOAD_SECONDS, 1, time.monotonic())

    def on_request() -> Sequence[str]:
        if not asked.take_whole(1, time.monotonic()):
            wait = asked.wait_ms(1)
            raise BusError(Code.RATE_LIMITED, "the profile was just read; ask later", retry_after_ms=wait)
        return on_reload()

    def on_hangup() -> None:
        with contextlib.suppress(BusError):  # it is in the log
            on_reload()

    service = BusService(
        resolved.settings, online_checks=lambda: online_subset(running), on_reload=on_request
    )
    stopping = stop_signal()
    await service.start()
    service.node.counters.preflight_bypassed = int(preflight_bypassed)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hangup)
    _calm_garbage_collector()
    on_up(service)
    async with Supervisor(os.environ) as supervisor:
        await stopping.wait()
        supervisor.stopping()
        await service.stop()


def reload(
    service: BusService, running: Resolved, load_again: Callable[[], Resolved]
) -> tuple[Resolved, Sequence[str]]:
    """Apply a changed profile if all changes are hot, secrets included; return it and the changed keys.

    Otherwise nothing is changed: BusError says so, and the log why.
    """
    try:
        new = load_again()
        settings = with_dev_key(new.settings)
        found = plan(
            replace(running, settings=with_dev_key(running.settings)), replace(new, settings=settings)
        )
        colder = [change.difference.key for change in found.changes if change.effort != "hot"]
        if colder:
            logger.error("the profile was not applied: these settings need a restart", extra={"keys": colder})
            raise _not_taken_over(f"{len(colder)} changed settings need a restart")
        service.reload(settings)
    except ConfigError as error:
        findings = [str(finding) for finding in error.findings]
        logger.error("the profile was not applied: it has faults", extra={"findings": findings})
        raise _not_taken_over(f"it has {len(findings)} faults") from error
    except (OSError, ValueError) as error:
        logger.error("the profile was not applied", extra={"reason": str(error)})
        raise _not_taken_over("it cannot be used") from error
    changed = [change.difference.key for change in found.changes]
    logger.info("the profile was reloaded", extra={"keys": changed})
    return new, changed


def _not_taken_over(reason: str) -> BusError:
    """The error for a client: it names no file, key or value of the profile."""
    return BusError(Code.CONFLICT, f"the profile was not applied: {reason}; the log has them")


__all__ = ["BusService", "reload", "run"]
