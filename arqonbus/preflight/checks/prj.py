"""PRJ: what the projector needs, where one is meant to run."""

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

_NONE = "nothing is projected"


def _projects(context: Context) -> bool:
    return context.settings.projector.projects


@check(
    "ARQ-PRJ-001",
    "The projector has a store of its own",
    severity=EVERYWHERE,
    why="Beside Valkey it is a process of its own, and an embedded file belongs to one process only.",
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
    return verdict([Remark(text, ("projector.phase",))] if alone else [], expected="Postgres beside Valkey")


@check(
    "ARQ-PRJ-002",
    "The engine of the log can hand out events",
    severity=WARN_IN_DEV,
    why="The projector reads the log as a consumer group, and memory has none: nothing would be projected.",
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
    "The projector's telemetry has a port of its own",
    severity=EVERYWHERE,
    why="On one host two processes cannot open the same port; the second one would not start.",
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
    return verdict(remarks, expected="a port that nothing else wants")


@check(
    "ARQ-PRJ-004",
    "Events wait in the log while the projection is away",
    severity=WARNING_OUTSIDE_DEV,
    why="What retention drops before it was projected is missing until it is exported again.",
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
        remarks.append(Remark(f'rooms "{room.match}" keep nothing', (), place))
    elif room.max_messages:
        remarks.append(Remark(f"{ROOM} keeps {room.max_messages} messages only", (), place))
    elif 0 < room.max_age_us < LEAST_AGE_US:
        remarks.append(Remark(f"{ROOM} keeps events for less than a day", (), place))
    return verdict(remarks, expected="every event, for a day or more")


@check(
    "ARQ-PRJ-005",
    "Events outlive the log",
    severity=OUTSIDE_DEV,
    why="The events are what a lost projection is made from again; episodes without them are orphans.",
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
    text = f"events are dropped after {kept:g} s, and the log keeps them for {age:g} s"
    return verdict(
        [Remark(text, ("projector.retention",))] if short else [], expected="0, or more than the log"
    )


@check(
    "ARQ-PRJ-006",
    "The port of the projector's telemetry is free",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The projector opens it first and does not start without it.",
    fix=("ss -ltnp 'sport = :9102'", "$EDITOR FILE   # projector: {telemetry_port: another}"),
    reads=("projector.phase", "projector.telemetry_port", "telemetry.host"),
    tags=("projector",),
)
def port_is_free(context: Context) -> Outcome:
    ports = [port for port in context.host.ports if port.key == "projector.telemetry_port"]
    if not ports:
        return skipped("no projector is to be started here")
    remarks = [
        f"{each.host}:{each.port} {each.reason or each.state}" for each in ports if each.state != "free"
    ]
    return verdict(remarks, expected="a port that can be opened")
