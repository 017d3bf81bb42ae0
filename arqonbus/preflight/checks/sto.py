"""STO: what is promised about messages, and whether the chosen stores can keep that promise."""

from __future__ import annotations

import re
from collections.abc import Iterable

from arqonbus.preflight.checks.net import ADDRESSES, is_local
from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARN_IN_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    passed,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check
from arqonbus.storage.engines import (
    Refusal,
    engine_of,
    names,
    projection_misplaced,
    unaddressed,
    undegradable,
    unkeepable,
)

_DEV_NAME = re.compile(r"(^|[.\-_])(dev|develop|development|test|testing|local|sandbox|scratch)([.\-_0-9]|$)")
_STAGING_NAME = re.compile(r"(^|[.\-_])(staging|stage|stg|uat)([.\-_0-9]|$)")
_URL = "datastores.valkey.url"
_LEVELS = ("memory", "hot", "durable")
_EPISODES = "continuum.episode.v1"  # the projector's room; that floor is above this one


def _remarks(refusals: Iterable[Refusal]) -> list[Remark]:
    return [Remark(refusal.text, (refusal.key,)) for refusal in refusals]


@check(
    "ARQ-STO-001",
    "The storage mode is said",
    severity=OUTSIDE_DEV,
    why="It decides what an ack is worth when the engine is away; nobody should have to look that up.",
    fix=("$EDITOR FILE   # storage: {mode: strict}",),
    reads=("storage.mode",),
)
def mode_is_said(context: Context) -> Outcome:
    said = context.is_set("storage.mode")
    return verdict([] if said else ["nobody sets storage.mode"], expected="strict")


@check(
    "ARQ-STO-002",
    "Storage is strict",
    severity=OUTSIDE_DEV,
    why="A degraded bus acks messages that only its memory holds.",
    fix=("$EDITOR FILE   # storage: {mode: strict}",),
    reads=("storage.mode",),
)
def mode_is_strict(context: Context) -> Outcome:
    mode = context.settings.storage.mode
    return verdict([f"storage.mode is {mode}"] if mode != "strict" else [], expected="strict")


@check(
    "ARQ-STO-003",
    "Strict storage has an engine that can keep the promise",
    severity=WARN_IN_DEV,
    why="Memory ends with the process, so nothing that was acked as stored would be.",
    fix=("$EDITOR FILE   # storage: {backend: valkey}",),
    reads=("storage.backend", "storage.mode"),
)
def strict_has_an_engine(context: Context) -> Outcome:
    storage = context.settings.storage
    empty = storage.mode == "strict" and not engine_of(context.settings).persistent
    text = f"storage.mode is strict and storage.backend is {storage.backend}"
    remarks = [Remark(text, ("storage.backend",))]
    return verdict(remarks if empty else [], expected="valkey, or sqlite on a single node")


@check(
    "ARQ-STO-004",
    "The chosen engine has an address",
    severity=EVERYWHERE,
    why="The bus does not start.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: valkeys://valkey.your-domain:6379}}",),
    reads=("storage.backend", _URL, "datastores.valkey.sentinel"),
)
def engine_has_an_address(context: Context) -> Outcome:
    return verdict(_remarks(unaddressed(context.settings)), expected="a URL, or sentinels")


@check(
    "ARQ-STO-005",
    "Both datastores are required",
    severity=OUTSIDE_DEV,
    why="Production keeps its history in Valkey and its durable record in Postgres; a start without one of "
    "them would go unnoticed. An exception is a waiver.",
    fix=(
        "$EDITOR FILE   # storage: {require_dual_data_stack: true}",
        "or a waiver in waivers.yaml, with its end",
    ),
    reads=("storage.require_dual_data_stack",),
)
def both_stores_are_required(context: Context) -> Outcome:
    required = context.settings.storage.require_dual_data_stack
    return verdict([] if required else ["storage.require_dual_data_stack is off"], expected="true")


@check(
    "ARQ-STO-006",
    "Required datastores are configured",
    severity=EVERYWHERE,
    why="The profile asks for both stores and names one at most.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: …}, postgres: {host: …}}",),
    reads=("storage.require_dual_data_stack", "storage.backend", *ADDRESSES),
)
def required_stores_are_configured(context: Context) -> Outcome:
    storage, stores = context.settings.storage, context.settings.datastores
    if not storage.require_dual_data_stack:
        return skipped("the dual data stack is not required")
    key = ("storage.require_dual_data_stack",)
    remarks = []
    if not stores.valkey.configured:
        remarks.append(Remark(f"neither {_URL} nor sentinel is set", key))
    if not stores.postgres.configured:
        remarks.append(Remark("neither datastores.postgres.url nor host is set", key))
    if not engine_of(context.settings).shared:
        remarks.append(Remark(f"storage.backend is {storage.backend}", ("storage.backend",)))
    return verdict(remarks, expected="Valkey as the engine, and Postgres")


def _hosts(context: Context) -> list[tuple[str, str]]:
    stores = context.settings.datastores
    postgres_key = "datastores.postgres.url" if stores.postgres.url else "datastores.postgres.host"
    named = [
        (_URL, stores.valkey.address[0]),
        (postgres_key, stores.postgres.address[0]),
        ("datastores.nats.url", stores.nats.address[0]),
    ]
    return [(key, host) for key, host in named if host]


@check(
    "ARQ-STO-007",
    "No datastore is a developer's",
    severity=OUTSIDE_DEV,
    why="Production would write to a machine that anybody may reset.",
    fix=("$EDITOR FILE   # the hosts of this environment",),
    reads=ADDRESSES,
)
def stores_are_not_for_developers(context: Context) -> Outcome:
    bad = [(key, host) for key, host in _hosts(context) if is_local(host) or _DEV_NAME.search(host)]
    remarks = [Remark(f"{key} names {host}", (key,)) for key, host in bad]
    return verdict(remarks, expected="hosts of this environment")


@check(
    "ARQ-STO-008",
    "The database is a real one",
    severity=OUTSIDE_DEV,
    why="A database of that name is dropped by tests, or belongs to the server itself.",
    fix=("$EDITOR FILE   # datastores: {postgres: {database: arqonbus}}",),
    reads=ADDRESSES,
)
def database_is_real(context: Context) -> Outcome:
    postgres = context.settings.datastores.postgres
    if not postgres.configured:
        return skipped("no Postgres is configured")
    name = postgres.database_name
    key = "datastores.postgres.url" if postgres.url else "datastores.postgres.database"
    own = name in {"", "postgres", "template0", "template1"} or _DEV_NAME.search(name)
    remarks = [Remark(f"the database is {name or 'not named'}", (key,))] if own else []
    return verdict(remarks, expected="a database of this deployment")


@check(
    "ARQ-STO-009",
    "Staging and production do not share datastores",
    severity=OUTSIDE_DEV,
    why="A test in staging would write into production's history.",
    fix=("$EDITOR FILE   # the hosts of this environment",),
    reads=(*ADDRESSES, "environment"),
)
def stores_are_this_environments(context: Context) -> Outcome:
    prod = context.settings.environment == "prod"
    bad = [(key, host) for key, host in _hosts(context) if prod and _STAGING_NAME.search(host)]
    if not prod:
        bad = [(k, h) for k, h in _hosts(context) if re.search(r"(^|[.\-_])prod(uction)?([.\-_0-9]|$)", h)]
    remarks = [Remark(f"{key} names {host}", (key,)) for key, host in bad]
    return verdict(remarks, expected=f"hosts of {context.settings.environment}")


@check(
    "ARQ-STO-010",
    "An ack means more than this process",
    severity=OUTSIDE_DEV,
    why="With durability memory a restart loses what was acked.",
    fix=("$EDITOR FILE   # storage: {durability: durable}",),
    reads=("storage.durability", "rooms"),
)
def acks_survive(context: Context) -> Outcome:
    settings = context.settings
    remarks = []
    if settings.storage.durability == "memory":
        remarks.append(Remark("storage.durability is memory", ("storage.durability",)))
    remarks += [
        Remark(f'rooms "{rule.match}" have the durability memory', (), context.resolved.location("rooms"))
        for rule in settings.rooms
        if rule.durability == "memory"
    ]
    return verdict(remarks, expected="hot or durable")


@check(
    "ARQ-STO-011",
    "The engine can reach the declared durability",
    severity=EVERYWHERE,
    why="Memory is never on disk: every ack would promise what cannot be.",
    fix=("$EDITOR FILE   # storage: {backend: valkey, durability: durable}",),
    reads=("storage.backend", "storage.durability", "rooms"),
)
def durability_is_possible(context: Context) -> Outcome:
    storage = context.settings.storage
    if engine_of(context.settings).persistent:
        return passed()
    wanted = [("storage.durability", storage.durability)]
    wanted += [("rooms", rule.durability) for rule in context.settings.rooms if rule.durability]
    high = [(key, level) for key, level in wanted if level == "durable"]
    remarks = [
        Remark(f"{key} promises {level} and storage.backend is {storage.backend}", (key,))
        for key, level in high
    ]
    return verdict(remarks, expected="an engine that writes to disk")


@check(
    "ARQ-STO-012",
    "Several nodes share one engine",
    severity=WARNING_OUTSIDE_DEV,
    why="The embedded engine belongs to one process: a second node would have other rooms of the same names.",
    fix=("$EDITOR FILE   # storage: {backend: valkey}",),
    reads=("storage.backend",),
)
def engine_is_shared(context: Context) -> Outcome:
    engine = engine_of(context.settings)
    remarks = [] if engine.shared else [f"storage.backend is {engine.name}"]
    return verdict(remarks, expected=names(lambda each: each.shared))


@check(
    "ARQ-STO-013",
    "Several workers share one engine",
    severity=EVERYWHERE,
    why="Each worker would keep rooms of its own, and clients of one room would not see each other.",
    fix=("$EDITOR FILE   # server: {workers: 1}", "$EDITOR FILE   # storage: {backend: valkey}"),
    reads=("server.workers", "storage.backend"),
)
def workers_share(context: Context) -> Outcome:
    workers, engine = context.settings.server.workers, engine_of(context.settings)
    apart = workers > 1 and not engine.shared
    text = f"{workers} workers have the engine {engine.name}"
    expected = f"one worker, or {names(lambda each: each.shared)}"
    return verdict([Remark(text, ("server.workers",))] if apart else [], expected=expected)


@check(
    "ARQ-STO-014",
    "History has a bound",
    severity=WARNING_EVERYWHERE,
    why="A room without a bound grows until the engine is full, and then all rooms stand still.",
    fix=("$EDITOR FILE   # storage: {history: {max_messages: 10000, max_age: 24h}}",),
    reads=("storage.history", "rooms"),
)
def history_is_bounded(context: Context) -> Outcome:
    history = context.settings.storage.history
    remarks = []
    if not history.max_messages and not history.max_age:
        remarks.append(Remark("neither max_messages nor max_age is set", ("storage.history.max_messages",)))
    for rule in context.settings.rooms:
        room = context.settings.room_settings(rule.match.replace("*", "x"))
        if rule.history and room.history and not room.max_messages and not room.max_age_us:
            text = f'rooms "{rule.match}" keep everything for ever'
            remarks.append(Remark(text, (), context.resolved.location("rooms")))
    return verdict(remarks, expected="a number of messages, or an age")


@check(
    "ARQ-STO-015",
    "A repeated publish is recognised",
    severity=WARN_IN_DEV,
    why="A client whose ack was lost publishes again; without the window it is stored twice.",
    fix=("$EDITOR FILE   # storage: {dedup_window: 5m}",),
    reads=("storage.dedup_window",),
)
def repeats_are_recognised(context: Context) -> Outcome:
    seconds = context.settings.storage.dedup_window
    return verdict([f"dedup_window is {seconds:g} s"] if seconds < 30 else [], expected="30 s or more")


@check(
    "ARQ-STO-016",
    "What is projected has somewhere to go",
    severity=EVERYWHERE,
    why="Episodes would be read and never be written.",
    fix=(
        "$EDITOR FILE   # datastores: {postgres: {host: …}}",
        "$EDITOR FILE   # projector: {phase: emit_only}",
    ),
    reads=("projector.phase", "storage.backend", *ADDRESSES),
)
def projection_has_a_store(context: Context) -> Outcome:
    projector = context.settings.projector
    lost = projector.projects and projection_misplaced(context.settings)
    text = f"projector.phase is {projector.phase} and no Postgres is configured"
    return verdict([Remark(text, ("projector.phase",))] if lost else [], expected="Postgres, or emit_only")


@check(
    "ARQ-STO-017",
    "Valkey is described one way",
    severity=EVERYWHERE,
    why="Sentinels and a cluster exclude each other; sentinels without the name of the primary find nothing.",
    fix=("$EDITOR FILE   # datastores: {valkey: {sentinel: {service: arqonbus, nodes: […]}}}",),
    reads=(_URL, "datastores.valkey.cluster", "datastores.valkey.sentinel"),
)
def valkey_is_described_once(context: Context) -> Outcome:
    valkey = context.settings.datastores.valkey
    sentinel = valkey.sentinel
    remarks = []
    if valkey.cluster and sentinel.nodes:
        remarks.append(Remark("both cluster and sentinel are set", ("datastores.valkey.cluster",)))
    if bool(sentinel.nodes) != bool(sentinel.service):
        remarks.append(
            Remark("sentinel.service and sentinel.nodes go together", ("datastores.valkey.sentinel",))
        )
    return verdict(remarks, expected="url, url with cluster, or sentinel")


@check(
    "ARQ-STO-018",
    "The URL of Valkey holds a host and a port only",
    severity=EVERYWHERE,
    why="User, password and options have settings of their own; the bus does not start with such a URL.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: valkeys://HOST:6379}}",),
    reads=(_URL,),
)
def valkey_url_is_plain(context: Context) -> Outcome:
    url = context.settings.datastores.valkey.url
    if url is None:
        return skipped("no Valkey is configured")
    remarks = []
    if url.scheme == "unix":
        remarks.append("it names a socket file")
    if url.user:
        remarks.append("it holds a user")
    if url.scheme != "unix" and url.path.strip("/") not in ("", "0"):
        remarks.append(f"it holds the path {url.path}; the bus uses database 0 only")
    if url.query:
        remarks.append("it holds options")
    return verdict(remarks, expected="valkeys://host:port")


@check(
    "ARQ-STO-019",
    "The directory of the database can be written",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The embedded engine cannot open its file, and the bus does not start.",
    fix=("install -d -o arqonbus -m 0700 DIRECTORY",),
    reads=("state_dir", "storage.backend"),
)
def state_can_be_written(context: Context) -> Outcome:
    disks = [disk for disk in context.host.disks if disk.key == "state_dir"]
    if engine_of(context.settings).file(context.settings) is None or not disks:
        return skipped("the engine keeps nothing on this host")
    remarks = [f"{disk.path} cannot be written" for disk in disks if not disk.writable]
    fix = [f"install -d -o arqonbus -m 0700 {disk.path}" for disk in disks if not disk.writable]
    return verdict(remarks, expected="a directory of the user that the bus runs as", fix=fix)


@check(
    "ARQ-STO-020",
    "Rooms promise no less than the profile",
    severity=WARNING_OUTSIDE_DEV,
    why="Who reads storage.durability believes that it holds for every room.",
    fix=("$EDITOR FILE   # rooms: remove durability from the rule",),
    reads=("storage.durability", "rooms"),
)
def rooms_promise_no_less(context: Context) -> Outcome:
    declared = context.settings.storage.durability
    less = [
        rule
        for rule in context.settings.rooms
        if rule.durability and _LEVELS.index(rule.durability) < _LEVELS.index(declared)
    ]
    place = context.resolved.location("rooms")
    remarks = [Remark(f'rooms "{rule.match}" promise {rule.durability} only', (), place) for rule in less]
    return verdict(remarks, expected=f"{declared} or more")


@check(
    "ARQ-STO-021",
    "A room in memory is not expected elsewhere",
    severity=WARN_IN_DEV,
    why="Each node holds such a room for itself: nobody on another node hears it, nor does the projector.",
    fix=("$EDITOR FILE   # rooms: {durability: hot}",),
    reads=("rooms", "storage.backend"),
)
def memory_is_not_shared(context: Context) -> Outcome:
    settings, place = context.settings, context.resolved.location("rooms")
    engine = engine_of(settings)
    remarks = [
        Remark(f'rooms "{rule.match}" are in memory, and storage.backend {engine.name} is shared', (), place)
        for rule in settings.rooms
        if engine.shared and rule.durability == "memory"
    ]
    if not remarks and settings.room_settings(_EPISODES).in_process:
        remarks = [Remark(f"{_EPISODES} is in memory, and is never projected", (), place)]
    return verdict(remarks, expected="hot or durable, where others are to see a room")


@check(
    "ARQ-STO-022",
    "A durable history can be kept",
    severity=EVERYWHERE,
    why="The bus does not start rather than ack what it cannot bring back.",
    fix=("$EDITOR FILE   # rooms: {durable_history: postgres} with storage.backend valkey, and Postgres",),
    reads=("rooms", "storage.backend", "storage.mode", *ADDRESSES),
)
def durable_history_can_be_kept(context: Context) -> Outcome:
    settings, place = context.settings, context.resolved.location("rooms")
    remarks = [Remark(f'rooms "{match}": {because}', (), place) for match, because in unkeepable(settings)]
    return verdict(remarks, expected="valkey and Postgres, strict, with a history")


@check(
    "ARQ-STO-023",
    "Mode degraded has an engine that can go away",
    severity=EVERYWHERE,
    why="An engine inside the bus does not go away without it; the bus does not start in this mode.",
    fix=("$EDITOR FILE   # storage: {mode: strict}",),
    reads=("storage.backend", "storage.mode", "rooms"),
)
def degraded_has_an_engine(context: Context) -> Outcome:
    expected = f"strict, or the engine {names(lambda each: each.make_renewable is not None)}"
    return verdict(_remarks(undegradable(context.settings)), expected=expected)
