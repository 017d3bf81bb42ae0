"""The engines that a profile names: the log of messages and the store of the projection. Opens none."""

from __future__ import annotations

import secrets
import socket
import zlib
from pathlib import Path

from arqonbus.config import Settings
from arqonbus.continuum.events import ROOM as EPISODES
from arqonbus.storage.client_tls import client_context
from arqonbus.storage.ports import Durability, EventLog
from arqonbus.storage.projection import ProjectionStore

# Rooms that are looked for in every tenant: the projector works where there is one.
INDEXED_ROOMS = frozenset({EPISODES})

_NODE_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"


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
        tls=client_context(valkey.tls) if valkey.encrypted else None,
        dedup_seconds=storage.dedup_window,
        indexed_rooms=INDEXED_ROOMS,
    )


def projection_store(settings: Settings, process: str) -> ProjectionStore:
    """Where the projection is kept: Postgres where the profile has one, else a file beside the log."""
    if settings.datastores.postgres.configured:
        from arqonbus.storage.postgres import PostgresProjection

        return PostgresProjection(
            settings.datastores.postgres,
            bucket=zlib.crc32(process.encode()),
            application="arqonbus projector",
        )
    from arqonbus.storage.sqlite_projection import SqliteProjection

    path = Path(settings.sqlite_path).with_name("projection.sqlite")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SqliteProjection(path)


__all__ = ["INDEXED_ROOMS", "event_log", "node_name", "projection_store"]
