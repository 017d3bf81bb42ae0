"""PRJ: storage, port and retention for the projector, if one runs."""

from __future__ import annotations

from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARN_IN_DEV,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check
from arqonbus.storage.engines import engine_of, names, projection_misplaced

ROOM = "continuum.episode.v1"
LEAST_AGE_US = 24 * 3600 * 1_000_000

_NONE = "no projector is configured"


def _projects(context: Context) -> bool:
    return context.settings.projector.projects


@check(
    "ARQ-PRJ-001",
    "The projector has Postgres if the storage engine is shared",
    severity=EVERYWHERE,
    why="With Valkey, the projector is a separate process, and an SQLite file belongs to one process only.",
    fix=("$EDITOR FILE   # datastores: {postgres: {host: …}}, or projector: {phase: emit_only}",),
    reads=("projector.phase", "storage.backend", "datastores.postgres"),
    tags=("projector",),
)
def has_a_store(context: Context) -> Outcome:
    if not _projects(context):
        return skipped(_NONE)
    settings = context.settings
    alone = projection_misplaced(settings)
    text = f"projector.phase is {settings.projector.phase} and no Postgres is configured"
    return verdict(
        [Remark(text, ("projector.phase",))] if alone else [],
        expected="Postgres, if storage.backend is valkey",
    )


@check(
    "ARQ-PRJ-002",
    "The storage engine supports consumer groups",
    severity=WARN_IN_DEV,
    why="The projector reads the log as a consumer group, which the engine memory does not support.",
    fix=("$EDITOR FILE   # storage: {backend: valkey}",),
    reads=("projector.phase", "storage.backend"),
    tags=("projector",),
)
def engine_has_groups(context: Context) -> Outcome:
    if not _projects(context):
        return skipped(_NONE)
    engine = engine_of(context.settings)
    remarks = [] if engine.groups else [Remark(f"storage.backend is {engine.name}", ("storage.backend",))]
    return verdict(remarks, expected=names(lambda each: each.groups))


@check(
    "ARQ-PRJ-003",
    "projector.telemetry_port differs from the ports of the bus",
    severity=EVERYWHERE,
    why="Two processes on one host cannot open the same port; the second one would not start.",
    fix=("$EDITOR FILE   # projector: {telemetry_port: 9102}",),
    reads=("projector.phase", "projector.telemetry_port", "server.port", "telemetry.port"),
    tags=("projector",),
)
def port_is_its_own(context: Context) -> Outcome:
    if not _projects(context):
        return skipped(_NONE)
    settings = context.settings
    port = settings.projector.telemetry_port
    taken = {"server.port": settings.server.port, "telemetry.port": settings.telemetry.port}
    remarks = [
        Remark(f"projector.telemetry_port and {key} are both {port}", ("projector.telemetry_port",))
        for key, other in taken.items()
        if other == port
    ]
    return verdict(remarks, expected="a port that is used only once")


@check(
    "ARQ-PRJ-004",
    "The log keeps every event for at least one day",
    severity=WARNING_OUTSIDE_DEV,
    why="An event that retention drops before it is projected is missing until it is exported again.",
    fix=('$EDITOR FILE   # rooms: [{match: "continuum.*", history: {max_messages: 0, max_age: 7d}}, …]',),
    reads=("projector.phase", "rooms", "storage.history"),
    tags=("projector",),
)
def events_wait(context: Context) -> Outcome:
    if not _projects(context):
        return skipped(_NONE)
    room = context.settings.room_settings(ROOM)
    place = context.resolved.location("rooms")
    remarks = []
    if not room.history:
        remarks.append(Remark(f'rooms "{room.match}" keep no history', (), place))
    elif room.max_messages:
        remarks.append(Remark(f"{ROOM} keeps only {room.max_messages} messages", (), place))
    elif 0 < room.max_age_us < LEAST_AGE_US:
        remarks.append(Remark(f"{ROOM} keeps events for less than a day", (), place))
    return verdict(remarks, expected="no limit on the number of events, and an age of at least one day")


@check(
    "ARQ-PRJ-005",
    "projector.retention is not shorter than the log's retention",
    severity=OUTSIDE_DEV,
    why="A lost projection is rebuilt from these events.",
    fix=("$EDITOR FILE   # projector: {retention: 0}, or more than the log keeps",),
    reads=("projector.phase", "projector.retention", "rooms", "storage.history"),
    tags=("projector",),
)
def events_outlive_the_log(context: Context) -> Outcome:
    if not _projects(context):
        return skipped(_NONE)
    kept = context.settings.projector.retention
    age = context.settings.room_settings(ROOM).max_age_us / 1_000_000
    short = 0 < kept < age
    text = f"projector.retention is {kept:g} s, and the log keeps events for {age:g} s"
    return verdict(
        [Remark(text, ("projector.retention",))] if short else [],
        expected="0, or at least the retention of the log",
    )


@check(
    "ARQ-PRJ-006",
    "projector.telemetry_port is free",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="If the projector cannot open the port, it does not start.",
    fix=("ss -ltnp 'sport = :9102'", "$EDITOR FILE   # projector: {telemetry_port: another}"),
    reads=("projector.phase", "projector.telemetry_port", "telemetry.host"),
    tags=("projector",),
)
def port_is_free(context: Context) -> Outcome:
    ports = [port for port in context.host.ports if port.key == "projector.telemetry_port"]
    if not ports:
        return skipped("no projector starts on this host")
    remarks = [
        f"{each.host}:{each.port} {each.reason or each.state}" for each in ports if each.state != "free"
    ]
    return verdict(remarks, expected="a port that can be opened")
