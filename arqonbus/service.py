"""Puts one bus together from a profile and runs it until it is told to stop.

The only place that knows which rooms of the house belong together: the engine behind the log, the node,
its port, and the telemetry port.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from arqonbus import __version__
from arqonbus.bus.node import Node
from arqonbus.bus.server import PortTaken, bind, listen
from arqonbus.bus.upgrade import local_url
from arqonbus.config import ConfigError, Resolved, Settings, with_dev_key
from arqonbus.config.compare import plan
from arqonbus.config.stores import ClientTls
from arqonbus.lanes.dispatch import run_command
from arqonbus.preflight import online_subset
from arqonbus.shield.tokens import Verifier
from arqonbus.storage.ports import Durability, EventLog
from arqonbus.telemetry.http import OnlineChecks, TelemetryServer

log = logging.getLogger(__name__)

_NODE_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"


def refuse_unavailable(settings: Settings) -> None:
    """Raise ValueError for settings that this version cannot keep: better no bus than one that lies."""
    rooms = settings.rooms
    asked = {
        "server.workers": settings.server.workers > 1,
        "telemetry.otlp_endpoint": settings.telemetry.otlp_endpoint is not None,
        "storage.mode: degraded": settings.storage.mode == "degraded",
        "datastores.valkey.sentinel": bool(settings.datastores.valkey.sentinel.nodes),
        "datastores.nats.url": settings.datastores.nats.url is not None,
        "auth.jwt.jwks_url": settings.auth.jwt.jwks_url is not None,
        "auth.service_mtls": settings.auth.service_mtls,
        "policy.mode: enforce": settings.policy.mode == "enforce",
        "projector.phase": settings.projector.phase != "emit_only",
        "rooms[].schema": any(rule.schema_file is not None for rule in rooms),
        "rooms[].signature": any(rule.signature for rule in rooms),
        "rooms[].durability": any(rule.durability is not None for rule in rooms),
    }
    found = [name for name, is_asked in asked.items() if is_asked]
    if found:
        raise ValueError(f"this version does not have {', '.join(found)} yet; leave out what names it")


def node_name() -> str:
    """A name that no other node has: this host and four random bytes."""
    host = "".join(c for c in socket.gethostname().lower() if c in _NODE_ALPHABET)[:40] or "node"
    return f"{host}-{secrets.token_hex(4)}"


def event_log(settings: Settings, node: str) -> EventLog:
    """The engine that the profile names, not yet opened."""
    storage = settings.storage
    durability = Durability[storage.durability.upper()]
    # Imported here: only the chosen engine's library is loaded.
    if storage.backend == "memory":
        from arqonbus.storage.memory import MemoryLog

        return MemoryLog(dedup_seconds=storage.dedup_window)
    if storage.backend == "sqlite":
        from arqonbus.storage.sqlite import SqliteLog

        path = settings.sqlite_path
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SqliteLog(path, max(durability, Durability.HOT), dedup_seconds=storage.dedup_window)
    return _valkey_log(settings, node)


def _valkey_log(settings: Settings, node: str) -> EventLog:
    from arqonbus.storage.valkey import ValkeyLog

    storage, valkey = settings.storage, settings.datastores.valkey
    if valkey.url is None:
        raise ValueError("storage.backend is valkey and datastores.valkey.url is not set")
    return ValkeyLog(
        [valkey.url],
        node_id=node,
        durability=max(Durability[storage.durability.upper()], Durability.HOT),
        cluster=valkey.cluster,
        username=valkey.user or "",
        password=valkey.password.get_secret_value() if valkey.password else "",
        tls=_client_tls(valkey.tls, valkey.url),
        dedup_seconds=storage.dedup_window,
    )


def _client_tls(tls: ClientTls, url: str) -> ssl.SSLContext | None:
    """TLS towards a data store: verified against the profile's authority, or the system's."""
    if not tls.enabled and not url.startswith(("valkeys://", "rediss://")):
        return None
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


class Service:
    """A running bus."""

    def __init__(
        self, settings: Settings, name: str | None = None, online_checks: OnlineChecks | None = None
    ) -> None:
        """`online_checks` judges the servers behind the bus, for /readyz?verbose."""
        self.settings = settings
        self._online_checks = online_checks
        self.name = name or node_name()
        self.node: Node
        self._telemetry: TelemetryServer

    async def start(self) -> None:
        """Open the engine and both ports. Raises PortTaken, StorageError or ValueError, each a sentence."""
        refuse_unavailable(self.settings)
        telemetry_settings = self.settings.telemetry
        bound = bind(telemetry_settings.host, telemetry_settings.port, "telemetry")
        self.node = Node(
            self.settings,
            event_log(self.settings, self.name),
            name=self.name,
            verify=Verifier(self.settings).verify,
            run_command=run_command,
        )
        await self.node.start()
        try:
            self._listening = await listen(self.node)
        except PortTaken:
            bound.close()
            await self.node.close()
            raise
        self._telemetry = TelemetryServer(self.node, bound, self._online_checks)
        await self._telemetry.start()
        log.info(
            "the bus is up",
            extra={
                "version": __version__,
                "node": self.name,
                "environment": self.settings.environment,
                "url": self.url,
                "health": f"http://{telemetry_settings.host}:{telemetry_settings.port}/readyz",
                "storage": self.node.log.name,
                "durability": self.node.log.durability.name.lower(),
            },
        )

    @property
    def version(self) -> str:
        return __version__

    @property
    def url(self) -> str:
        """Where clients connect: the public address where the profile has one, else this machine's."""
        server = self.settings.server
        return server.public_url or local_url(server)

    def reconfigure(self, settings: Settings) -> None:
        """Take over the hot settings. Raises ValueError when a key of the profile cannot be used."""
        refuse_unavailable(settings)
        self.node.reconfigure(settings, Verifier(settings).verify)
        self.settings = settings
        logging.getLogger().setLevel(settings.telemetry.log_level.upper())

    async def stop(self) -> None:
        """Drain as the profile says, then close everything."""
        await self.node.drain()
        self._listening.close()
        await self.node.close()
        await self._telemetry.stop()
        log.info("the bus is down", extra={"node": self.name})


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
    on_up: Callable[[Service], None],
    *,
    preflight_bypassed: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the drain at once. SIGHUP takes over hot settings.

    `load_again` gives the profile as it is now, or raises ConfigError or ValueError.
    """
    resolved = replace(resolved, settings=with_dev_key(resolved.settings))
    service = Service(resolved.settings, online_checks=lambda: online_subset(running))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    running = resolved

    def on_stop() -> None:
        if stopping.is_set():
            os._exit(130)
        stopping.set()

    def on_reload() -> None:
        nonlocal running
        running = reload(service, running, load_again)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    await service.start()
    service.node.counters.preflight_bypassed = int(preflight_bypassed)
    loop.add_signal_handler(signal.SIGHUP, on_reload)
    _calm_garbage_collector()
    on_up(service)
    await stopping.wait()
    await service.stop()


def reload(service: Service, running: Resolved, load_again: Callable[[], Resolved]) -> Resolved:
    """Take over a changed profile if all that changed is hot, secrets included; else change nothing.

    Gives the profile that runs afterwards.
    """
    try:
        new = load_again()
        found = plan(running, new)
        colder = [change.difference.key for change in found.changes if change.effort != "hot"]
        if colder:
            log.error("the profile was not taken over: these settings need a restart", extra={"keys": colder})
            return running
        settings = with_dev_key(new.settings)
        service.reconfigure(settings)
    except ConfigError as error:
        findings = [str(finding) for finding in error.findings]
        log.error("the profile was not taken over: it has faults", extra={"findings": findings})
        return running
    except (OSError, ValueError) as error:
        log.error("the profile was not taken over", extra={"reason": str(error)})
        return running
    log.info("the profile was taken over", extra={"keys": [c.difference.key for c in found.changes]})
    return new


__all__ = ["Service", "event_log", "node_name", "reload", "run"]
