"""Descriptions of the storage engines: capabilities, construction, and reasons to refuse a profile.

`storage.backend` selects an engine. To add one, write its EventLog, describe it here and add its name to the
setting. No engine is opened and no engine library is loaded before `make` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from arqonbus.config import Settings
from arqonbus.config.rooms import RoomRule
from arqonbus.config.stores import VALKEY_PORT
from arqonbus.config.tree import unavailable
from arqonbus.protocol.durability import Durability, DurabilityName
from arqonbus.storage.client_tls import client_context
from arqonbus.storage.layers.degraded import RenewableLog
from arqonbus.storage.ports import EventLog, RoomKey
from arqonbus.storage.witness import WitnessStore


@dataclass(frozen=True, slots=True)
class LogContext:
    """Arguments of a log that are not settings. `is_kept`: whether a room has a durable history."""

    node: str
    witness: WitnessStore | None = None
    is_kept: Callable[[RoomKey], bool] = lambda _room: False
    indexed_rooms: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StorageEngine:
    """An engine and its capabilities.

    `title`: its name in messages. `shared`: several nodes and processes can use it at once. `persistent`: its
    data survives the process. `make_renewable`: constructor for mode degraded; None if the engine is part of
    the process and cannot be unreachable while the bus runs. `durable_history`: rooms can also be kept in
    Postgres. `checkpoints`: `arqonbus recover` can restore one. `file`: its data file, None if it has none.
    `missing`: the setting that it needs and lacks, as text; empty if none.
    """

    name: str
    title: str
    make: Callable[[Settings, LogContext], EventLog]
    make_renewable: Callable[[Settings, LogContext], RenewableLog] | None = None
    shared: bool = False
    persistent: bool = True
    groups: bool = True
    durable_history: bool = False
    checkpoints: bool = False
    section: str = ""
    default_port: int | None = None
    file: Callable[[Settings], Path | None] = lambda _settings: None
    missing: Callable[[Settings], str] = lambda _settings: ""


class Refusal(NamedTuple):
    """A reason why a profile cannot be served: the setting, and the reason without a full stop."""

    key: str
    text: str


def level_of(name: DurabilityName | None) -> Durability:
    """Durability level of a setting; MEMORY if it is not set."""
    return Durability.named(name) if name else Durability.MEMORY


def _memory(settings: Settings, _: LogContext) -> EventLog:
    from arqonbus.storage.memory.log import MemoryLog

    return MemoryLog(dedup_seconds=settings.storage.dedup_window)


def _sqlite(settings: Settings, _: LogContext) -> EventLog:
    from arqonbus.storage.sqlite.log import SqliteLog

    storage, path = settings.storage, settings.sqlite_path
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SqliteLog(
        path,
        max(level_of(storage.durability), Durability.HOT),
        dedup_seconds=storage.dedup_window,
        checkpoint_seconds=storage.sqlite.checkpoint_every,
    )


def _valkey(settings: Settings, context: LogContext) -> RenewableLog:
    from arqonbus.storage.postgres.history import PostgresHistory
    from arqonbus.storage.valkey.log import ValkeyLog
    from arqonbus.storage.valkey.sentinel import Sentinels

    storage, valkey = settings.storage, settings.datastores.valkey
    durability = max(level_of(storage.durability), Durability.HOT)
    levels = {level_of(rule.durability) for rule in settings.rooms}
    tls = client_context(valkey.tls) if valkey.encrypted else None
    finder = Sentinels.of(valkey.sentinel, tls) if valkey.sentinel.nodes else None
    with_history = any(rule.durable_history is not None for rule in settings.rooms)
    return ValkeyLog(
        [f"valkey://{node}" for node in valkey.sentinel.nodes] if finder else [valkey.url or ""],
        node_id=context.node,
        witness=context.witness,
        history=PostgresHistory(settings.datastores.postgres) if with_history else None,
        is_kept=context.is_kept,
        durability=durability,
        mixed=bool(levels - {durability, Durability.MEMORY}),
        cluster=valkey.cluster,
        finder=finder,
        durable_replicas=valkey.durable_replicas,
        username=valkey.user or "",
        password=valkey.password.get_secret_value() if valkey.password else "",
        tls=tls,
        dedup_seconds=storage.dedup_window,
        indexed_rooms=context.indexed_rooms,
    )


def _valkey_missing(settings: Settings) -> str:
    described = settings.datastores.valkey.configured
    return "" if described else "neither datastores.valkey.url nor sentinel is set"


ENGINES = {
    engine.name: engine
    for engine in (
        StorageEngine("memory", "memory", _memory, persistent=False, groups=False),
        StorageEngine(
            "sqlite",
            "the SQLite file",
            _sqlite,
            checkpoints=True,
            section="storage.sqlite",
            file=lambda settings: Path(settings.sqlite_path),
        ),
        StorageEngine(
            "valkey",
            "Valkey",
            _valkey,
            _valkey,
            shared=True,
            durable_history=True,
            section="datastores.valkey",
            default_port=VALKEY_PORT,
            missing=_valkey_missing,
        ),
    )
}


def engine_of(settings: Settings) -> StorageEngine:
    """The engine that the profile selects."""
    return ENGINES[settings.storage.backend]


def names(can: Callable[[StorageEngine], bool]) -> str:
    """Names of the engines with a capability, for messages: `sqlite or valkey`."""
    return " or ".join(engine.name for engine in ENGINES.values() if can(engine))


def refusals(settings: Settings) -> Sequence[Refusal]:
    """Reasons why no bus can serve this profile, in any environment. `serve` and preflight share them."""
    return [
        *(Refusal(key, f"{key} is not available in this version") for key in unavailable(settings)),
        *unaddressed(settings),
        *undegradable(settings),
        *(
            Refusal("rooms", f'rooms "{match}" cannot have a durable history: {because}')
            for match, because in unkeepable(settings)
        ),
    ]


def unaddressed(settings: Settings) -> Iterator[Refusal]:
    """A storage engine without its address."""
    engine = engine_of(settings)
    if because := engine.missing(settings):
        yield Refusal("storage.backend", f"storage.backend is {engine.name} and {because}")


def undegradable(settings: Settings) -> Iterator[Refusal]:
    """Mode degraded with a persistent engine inside the process."""
    engine = engine_of(settings)
    if engine.make_renewable is not None or not engine.persistent:
        return
    asked = [("storage.mode", settings.storage.mode), *(("rooms", rule.mode) for rule in settings.rooms)]
    for key in dict.fromkeys(key for key, mode in asked if mode == "degraded"):
        yield Refusal(
            key,
            f"mode degraded needs a storage engine in another process; {engine.title} is part of the bus, "
            "so set storage.mode to strict",
        )


def unkeepable(settings: Settings) -> Iterator[tuple[str, str]]:
    """Room rules whose durable history cannot be kept: the pattern and the reason."""
    for rule in settings.rooms:
        if because := _unkeepable(rule, settings):
            yield rule.match, because


def _unkeepable(rule: RoomRule, settings: Settings) -> str:
    engine = engine_of(settings)
    if rule.durable_history is None:
        return ""
    if not engine.durable_history:
        beside = names(lambda each: each.durable_history)
        return f"storage.backend is {engine.name}; durable_history needs {beside}"
    if not settings.datastores.postgres.configured:
        return "datastores.postgres is not configured"
    if rule.history is not None and not rule.history.keep:
        return "its history is off"
    if rule.durability == "memory":
        return "its durability is memory"
    if (rule.mode or settings.storage.mode) == "degraded":
        return "its mode is degraded, in which some messages are held in memory only"
    return ""


def projection_misplaced(settings: Settings) -> bool:
    """True if episodes would be projected to a file although the log is shared.

    Without Postgres the projection is a file beside the log, which works only if the bus itself projects.
    """
    return engine_of(settings).shared and not settings.datastores.postgres.configured


__all__ = [
    "ENGINES",
    "LogContext",
    "Refusal",
    "StorageEngine",
    "engine_of",
    "level_of",
    "names",
    "projection_misplaced",
    "refusals",
    "unaddressed",
    "undegradable",
    "unkeepable",
]
