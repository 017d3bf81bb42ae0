"""The engines that a profile names: the log of messages and the store of the projection. Opens none."""

from __future__ import annotations

import secrets
import socket
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from arqonbus.bus.room_settings import RoomSettingsLookup
from arqonbus.config import Settings
from arqonbus.continuum.events import ROOM as EPISODES
from arqonbus.protocol.names import OWN_TENANT
from arqonbus.storage.engines import LogContext, engine_of, refusals
from arqonbus.storage.layers.degraded import RenewableLog
from arqonbus.storage.ports import EventLog
from arqonbus.storage.projection import ProjectionStore
from arqonbus.storage.witness import WitnessStore

# Rooms that are looked for in every tenant: the projector works where there is one.
INDEXED_ROOMS = frozenset({EPISODES})

_NODE_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"


def node_name() -> str:
    """A name that no other node has: this host and four random bytes."""
    host = "".join(c for c in socket.gethostname().lower() if c in _NODE_ALPHABET)[:40] or "node"
    return f"{host}-{secrets.token_hex(4)}"


def event_log(
    settings: Settings, node: str, witness: WitnessStore | None = None, *, may_degrade: bool = False
) -> EventLog:
    """The engine that the profile names, with the rooms that it wants in memory beside it. Not yet opened.

    The `witness` is asked about rooms whenever the engine has restarted. `may_degrade`: it goes on without
    the engine where the profile says so. Raises ValueError for a profile that cannot be served.
    """
    refuse(settings)
    engine, rooms = engine_of(settings), RoomSettingsLookup(settings)
    context = LogContext(
        node,
        witness,
        is_kept=lambda key: key.tenant != OWN_TENANT and rooms.of(key.room).durable_history,
        indexed_rooms=INDEXED_ROOMS,
    )
    modes = {settings.storage.mode, *(rule.mode for rule in settings.rooms)}
    renewable = engine.make_renewable if may_degrade and "degraded" in modes else None
    log = (
        engine.make(settings, context)
        if renewable is None
        else _degradable(settings, partial(renewable, settings, context))
    )
    if not engine.persistent or all(rule.durability != "memory" for rule in settings.rooms):
        return log
    from arqonbus.storage.layers.local_rooms import LocalRooms
    from arqonbus.storage.memory.log import MemoryLog

    memory = MemoryLog(dedup_seconds=settings.storage.dedup_window)
    return LocalRooms(log, memory, lambda key: key.tenant != OWN_TENANT and rooms.of(key.room).in_process)


def refuse(settings: Settings) -> None:
    """Raise ValueError for settings that no bus can serve, with every reason."""
    if found := refusals(settings):
        raise ValueError("; ".join(refusal.text for refusal in found))


def _degradable(settings: Settings, make: Callable[[], RenewableLog]) -> EventLog:
    from arqonbus.storage.layers.degraded import DegradedLog

    rooms = RoomSettingsLookup(settings)
    return DegradedLog(
        make,
        may_degrade=lambda key: rooms.of(key.room).mode == "degraded",
        max_bytes=settings.storage.degraded_max_bytes,
        dedup_seconds=settings.storage.dedup_window,
    )


def projection_store(settings: Settings, process: str) -> ProjectionStore:
    """The projection store: Postgres if it is configured, else a file beside the log."""
    if settings.datastores.postgres.configured:
        from arqonbus.storage.postgres.projection import PostgresProjection

        return PostgresProjection(
            settings.datastores.postgres,
            bucket=zlib.crc32(process.encode()),
            application="arqonbus projector",
        )
    from arqonbus.storage.sqlite.projection import SqliteProjection

    path = Path(settings.sqlite_path).with_name("projection.sqlite")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SqliteProjection(path)


__all__ = ["INDEXED_ROOMS", "event_log", "node_name", "projection_store", "refuse"]
