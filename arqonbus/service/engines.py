"""The engines that a profile names: the log of messages and the store of the projection. Opens none."""

from __future__ import annotations

import secrets
import socket
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.bus.room_settings import RoomSettingsLookup
from arqonbus.config import Settings
from arqonbus.config.rooms import unkeepable
from arqonbus.continuum.events import ROOM as EPISODES
from arqonbus.protocol.durability import DurabilityName
from arqonbus.shield.tokens import OWN_TENANT
from arqonbus.storage.client_tls import client_context
from arqonbus.storage.ports import Durability, EventLog
from arqonbus.storage.projection import ProjectionStore
from arqonbus.storage.witness import WitnessStore

if TYPE_CHECKING:
    from arqonbus.storage.layers.durable_history import HistoryStore
    from arqonbus.storage.valkey.log import ValkeyLog

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

    The `witness` is asked about rooms whenever the engine began anew. `may_degrade`: it goes on without the
    engine where the profile says so; that takes a bus, whose listener is a DegradedListener.
    """
    for rule in settings.rooms:
        because = unkeepable(rule, settings.storage, has_postgres=settings.datastores.postgres.configured)
        if because:
            raise ValueError(f'rooms "{rule.match}" cannot have a durable history: {because}')
    make = _degradable if may_degrade and _may_degrade(settings) else _engine
    engine = make(settings, node, witness)
    if settings.storage.backend == "memory" or all(rule.durability != "memory" for rule in settings.rooms):
        return engine
    from arqonbus.storage.layers.local_rooms import LocalRooms
    from arqonbus.storage.memory.log import MemoryLog

    memory = MemoryLog(dedup_seconds=settings.storage.dedup_window)
    room_settings = RoomSettingsLookup(settings)
    return LocalRooms(
        engine, memory, lambda key: key.tenant != OWN_TENANT and room_settings.of(key.room).in_process
    )


def _may_degrade(settings: Settings) -> bool:
    modes = {settings.storage.mode, *(rule.mode for rule in settings.rooms)}
    if "degraded" in modes and settings.storage.backend == "sqlite":
        raise ValueError(
            "mode degraded is for an engine that can go away by itself; the SQLite file is part of the bus, "
            "so set storage.mode to strict"
        )
    return "degraded" in modes and settings.storage.backend == "valkey"


def _degradable(settings: Settings, node: str, witness: WitnessStore | None) -> EventLog:
    from arqonbus.storage.layers.degraded import DegradedLog

    room_settings = RoomSettingsLookup(settings)
    return DegradedLog(
        lambda: _valkey_log(settings, node, witness),
        may_degrade=lambda key: room_settings.of(key.room).mode == "degraded",
        max_bytes=settings.storage.degraded_max_bytes,
        dedup_seconds=settings.storage.dedup_window,
    )


def _engine(settings: Settings, node: str, witness: WitnessStore | None) -> EventLog:
    storage = settings.storage
    # Imported here: only the chosen engine's library is loaded.
    if storage.backend == "memory":
        from arqonbus.storage.memory.log import MemoryLog

        return MemoryLog(dedup_seconds=storage.dedup_window)
    if storage.backend == "sqlite":
        from arqonbus.storage.sqlite.log import SqliteLog

        path = settings.sqlite_path
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SqliteLog(
            path,
            max(_level(storage.durability), Durability.HOT),
            dedup_seconds=storage.dedup_window,
            checkpoint_seconds=storage.sqlite.checkpoint_every,
        )
    return _valkey_log(settings, node, witness)


def _level(name: DurabilityName | None) -> Durability:
    return Durability.named(name) if name else Durability.MEMORY


def _valkey_log(settings: Settings, node: str, witness: WitnessStore | None) -> ValkeyLog:
    from arqonbus.storage.valkey.log import ValkeyLog
    from arqonbus.storage.valkey.sentinel import Sentinels

    storage, valkey = settings.storage, settings.datastores.valkey
    durability = max(_level(storage.durability), Durability.HOT)
    rules = [rule for rule in settings.rooms if rule.durability is not None]
    tls = client_context(valkey.tls) if valkey.encrypted else None
    finder = Sentinels.of(valkey.sentinel, tls) if valkey.sentinel.nodes else None
    room_settings = RoomSettingsLookup(settings)
    if not valkey.configured:
        raise ValueError("storage.backend is valkey and neither datastores.valkey.url nor sentinel is set")
    return ValkeyLog(
        [f"valkey://{node}" for node in valkey.sentinel.nodes] if finder else [valkey.url or ""],
        node_id=node,
        witness=witness,
        history=_history_store(settings),
        is_kept=lambda key: key.tenant != OWN_TENANT and room_settings.of(key.room).durable_history,
        durability=durability,
        mixed=any(_level(rule.durability) not in (durability, Durability.MEMORY) for rule in rules),
        cluster=valkey.cluster,
        finder=finder,
        durable_replicas=valkey.durable_replicas,
        username=valkey.user or "",
        password=valkey.password.get_secret_value() if valkey.password else "",
        tls=tls,
        dedup_seconds=storage.dedup_window,
        indexed_rooms=INDEXED_ROOMS,
    )


def _history_store(settings: Settings) -> HistoryStore | None:
    if all(rule.durable_history is None for rule in settings.rooms):
        return None
    from arqonbus.storage.postgres.history import PostgresHistory

    return PostgresHistory(settings.datastores.postgres)


def projection_store(settings: Settings, process: str) -> ProjectionStore:
    """Where the projection is kept: Postgres where the profile has one, else a file beside the log."""
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


__all__ = ["INDEXED_ROOMS", "event_log", "node_name", "projection_store"]
