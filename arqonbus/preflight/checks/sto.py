"""STO: durability settings, and whether the chosen storage can provide them."""

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
_EPISODES = "continuum.episode.v1"  # the projector's room; its package is above this one


def _remarks(refusals: Iterable[Refusal]) -> list[Remark]:
    return [Remark(refusal.text, (refusal.key,)) for refusal in refusals]


@check(
    "ARQ-STO-001",
    "storage.mode is set explicitly",
    severity=OUTSIDE_DEV,
    why="It decides what an ack guarantees while the storage engine is unreachable.",
    fix=("$EDITOR FILE   # storage: {mode: strict}",),
    reads=("storage.mode",),
)
def mode_is_set(context: Context) -> Outcome:
    text = f"storage.mode is not set; the default {context.settings.storage.mode} would apply"
    return verdict([] if context.is_set("storage.mode") else [text], expected="strict")


@check(
    "ARQ-STO-002",
    "storage.mode is strict",
    severity=OUTSIDE_DEV,
    why="In mode degraded, the bus acknowledges messages that only its memory holds.",
    fix=("$EDITOR FILE   # storage: {mode: strict}",),
    reads=("storage.mode",),
)
def mode_is_strict(context: Context) -> Outcome:
    mode = context.settings.storage.mode
    return verdict([f"storage.mode is {mode}"] if mode != "strict" else [], expected="strict")


@check(
    "ARQ-STO-003",
    "Mode strict has a persistent storage engine",
    severity=WARN_IN_DEV,
    why="The engine memory loses every acknowledged message when the process ends.",
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
    "The address of the storage engine is set",
    severity=EVERYWHERE,
    why="Without the address, the bus does not start.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: valkeys://valkey.your-domain:6379}}",),
    reads=("storage.backend", _URL, "datastores.valkey.sentinel"),
)
def engine_has_an_address(context: Context) -> Outcome:
    return verdict(_remarks(unaddressed(context.settings)), expected="a URL, or sentinels")


@check(
    "ARQ-STO-005",
    "storage.require_dual_data_stack is true",
    severity=OUTSIDE_DEV,
    why="Production keeps its history in Valkey and its durable record in Postgres. Without this setting, "
    "a start without one of them is not noticed. An exception needs a waiver.",
    fix=(
        "$EDITOR FILE   # storage: {require_dual_data_stack: true}",
        "or add a waiver with an expiry date to waivers.yaml",
    ),
    reads=("storage.require_dual_data_stack",),
)
def both_stores_are_required(context: Context) -> Outcome:
    required = context.settings.storage.require_dual_data_stack
    return verdict([] if required else ["storage.require_dual_data_stack is false"], expected="true")


@check(
    "ARQ-STO-006",
    "Valkey and Postgres are configured if both are required",
    severity=EVERYWHERE,
    why="The profile requires both datastores but configures at most one.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: …}, postgres: {host: …}}",),
    reads=("storage.require_dual_data_stack", "storage.backend", *ADDRESSES),
)
def required_stores_are_configured(context: Context) -> Outcome:
    storage, stores = context.settings.storage, context.settings.datastores
    if not storage.require_dual_data_stack:
        return skipped("storage.require_dual_data_stack is false")
    key = ("storage.require_dual_data_stack",)
    remarks = []
    if not stores.valkey.configured:
        remarks.append(Remark(f"neither {_URL} nor sentinel is set", key))
    if not stores.postgres.configured:
        remarks.append(Remark("neither datastores.postgres.url nor host is set", key))
    if not engine_of(context.settings).shared:
        remarks.append(Remark(f"storage.backend is {storage.backend}", ("storage.backend",)))
    return verdict(remarks, expected="Valkey as the storage engine, and Postgres")


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
    "No datastore is a local or development host",
    severity=OUTSIDE_DEV,
    why="Production would write to a host that developers can reset.",
    fix=("$EDITOR FILE   # use the hosts of this environment",),
    reads=ADDRESSES,
)
def stores_are_not_for_developers(context: Context) -> Outcome:
    bad = [(key, host) for key, host in _hosts(context) if is_local(host) or _DEV_NAME.search(host)]
    remarks = [Remark(f"{key} names {host}", (key,)) for key, host in bad]
    return verdict(remarks, expected="hosts of this environment")


@check(
    "ARQ-STO-008",
    "The Postgres database is not a system or test database",
    severity=OUTSIDE_DEV,
    why="Tests drop databases with such names, or the server itself uses them.",
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
    remarks = [Remark(f"the database name is {name or 'empty'}", (key,))] if own else []
    return verdict(remarks, expected="a database of this deployment")


@check(
    "ARQ-STO-009",
    "Staging and production do not share datastores",
    severity=OUTSIDE_DEV,
    why="Tests in staging would write into the history of production.",
    fix=("$EDITOR FILE   # use the hosts of this environment",),
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
    "storage.durability is hot or durable",
    severity=OUTSIDE_DEV,
    why="With durability memory, a restart loses acknowledged messages.",
    fix=("$EDITOR FILE   # storage: {durability: durable}",),
    reads=("storage.durability", "rooms"),
)
def acks_survive(context: Context) -> Outcome:
    settings = context.settings
    remarks = []
    if settings.storage.durability == "memory":
        remarks.append(Remark("storage.durability is memory", ("storage.durability",)))
    remarks += [
        Remark(
            f'the rule for rooms "{rule.match}" sets durability memory',
            (),
            context.resolved.location("rooms"),
        )
        for rule in settings.rooms
        if rule.durability == "memory"
    ]
    return verdict(remarks, expected="hot or durable")


@check(
    "ARQ-STO-011",
    "The storage engine supports the configured durability",
    severity=EVERYWHERE,
    why="The engine memory never writes to disk, so no ack could be durable.",
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
        Remark(f"{key} requires {level}, but storage.backend is {storage.backend}", (key,))
        for key, level in high
    ]
    return verdict(remarks, expected="a storage engine that writes to disk")


@check(
    "ARQ-STO-012",
    "The storage engine can be shared by several nodes",
    severity=WARNING_OUTSIDE_DEV,
    why="An embedded engine belongs to one process: a second node would have separate rooms.",
    fix=("$EDITOR FILE   # storage: {backend: valkey}",),
    reads=("storage.backend",),
)
def engine_is_shared(context: Context) -> Outcome:
    engine = engine_of(context.settings)
    remarks = [] if engine.shared else [f"storage.backend is {engine.name}"]
    return verdict(remarks, expected=names(lambda each: each.shared))


@check(
    "ARQ-STO-013",
    "Several workers use a shared storage engine",
    severity=EVERYWHERE,
    why="Each worker would have its own rooms, and clients in the same room would not see each other.",
    fix=("$EDITOR FILE   # server: {workers: 1}", "$EDITOR FILE   # storage: {backend: valkey}"),
    reads=("server.workers", "storage.backend"),
)
def workers_share(context: Context) -> Outcome:
    workers, engine = context.settings.server.workers, engine_of(context.settings)
    apart = workers > 1 and not engine.shared
    text = f"server.workers is {workers} and storage.backend is {engine.name}"
    expected = f"one worker, or {names(lambda each: each.shared)}"
    return verdict([Remark(text, ("server.workers",))] if apart else [], expected=expected)


@check(
    "ARQ-STO-014",
    "History is bounded",
    severity=WARNING_EVERYWHERE,
    why="An unbounded room grows until the storage engine is full; then every room refuses messages.",
    fix=("$EDITOR FILE   # storage: {history: {max_messages: 10000, max_age: 24h}}",),
    reads=("storage.history", "rooms"),
)
def history_is_bounded(context: Context) -> Outcome:
    history = context.settings.storage.history
    remarks = []
    if not history.max_messages and not history.max_age:
        remarks.append(
            Remark(
                "neither storage.history.max_messages nor max_age is set", ("storage.history.max_messages",)
            )
        )
    for rule in context.settings.rooms:
        room = context.settings.room_settings(rule.match.replace("*", "x"))
        if rule.history and room.history and not room.max_messages and not room.max_age_us:
            text = f'the rule for rooms "{rule.match}" keeps messages without a limit'
            remarks.append(Remark(text, (), context.resolved.location("rooms")))
    return verdict(remarks, expected="a maximum number of messages, or a maximum age")


@check(
    "ARQ-STO-015",
    "storage.dedup_window is at least 30 s",
    severity=WARN_IN_DEV,
    why="A client that received no ack publishes again; outside the window, the message is stored twice.",
    fix=("$EDITOR FILE   # storage: {dedup_window: 5m}",),
    reads=("storage.dedup_window",),
)
def repeats_are_recognised(context: Context) -> Outcome:
    seconds = context.settings.storage.dedup_window
    return verdict(
        [f"storage.dedup_window is {seconds:g} s"] if seconds < 30 else [], expected="at least 30 s"
    )


@check(
    "ARQ-STO-016",
    "The projector has a projection store",
    severity=EVERYWHERE,
    why="Without a store, the projector reads episodes but cannot write them.",
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
    "datastores.valkey uses one of url, cluster or sentinel",
    severity=EVERYWHERE,
    why="Sentinel and cluster exclude each other; sentinel needs both the service name and the nodes.",
    fix=("$EDITOR FILE   # datastores: {valkey: {sentinel: {service: arqonbus, nodes: […]}}}",),
    reads=(_URL, "datastores.valkey.cluster", "datastores.valkey.sentinel"),
)
def valkey_is_described_once(context: Context) -> Outcome:
    valkey = context.settings.datastores.valkey
    sentinel = valkey.sentinel
    remarks = []
    if valkey.cluster and sentinel.nodes:
        remarks.append(Remark("cluster and sentinel.nodes are both set", ("datastores.valkey.cluster",)))
    if bool(sentinel.nodes) != bool(sentinel.service):
        remarks.append(
            Remark("only one of sentinel.service and sentinel.nodes is set", ("datastores.valkey.sentinel",))
        )
    return verdict(remarks, expected="url, url with cluster, or sentinel")


@check(
    "ARQ-STO-018",
    "datastores.valkey.url has a host and a port only",
    severity=EVERYWHERE,
    why="User, password and options have their own settings; the bus does not start with them in the URL.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: valkeys://HOST:6379}}",),
    reads=(_URL,),
)
def valkey_url_is_plain(context: Context) -> Outcome:
    url = context.settings.datastores.valkey.url
    if url is None:
        return skipped("no Valkey is configured")
    remarks = []
    if url.scheme == "unix":
        remarks.append("the URL is a Unix socket path")
    if url.user:
        remarks.append("the URL contains a user")
    if url.scheme != "unix" and url.path.strip("/") not in ("", "0"):
        remarks.append(f"the URL contains the path {url.path}; the bus uses database 0 only")
    if url.query:
        remarks.append("the URL contains options")
    return verdict(remarks, expected="valkeys://host:port")


@check(
    "ARQ-STO-019",
    "The database directory is writable",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The embedded storage engine cannot open its file, and the bus does not start.",
    fix=("install -d -o arqonbus -m 0700 DIRECTORY",),
    reads=("state_dir", "storage.backend"),
)
def state_can_be_written(context: Context) -> Outcome:
    disks = [disk for disk in context.host.disks if disk.key == "state_dir"]
    if engine_of(context.settings).file(context.settings) is None or not disks:
        return skipped("the storage engine keeps no files on this host")
    remarks = [f"{disk.path} is not writable" for disk in disks if not disk.writable]
    fix = [f"install -d -o arqonbus -m 0700 {disk.path}" for disk in disks if not disk.writable]
    return verdict(remarks, expected="a directory that the user of the bus can write to", fix=fix)


@check(
    "ARQ-STO-020",
    "No room rule sets a lower durability than storage.durability",
    severity=WARNING_OUTSIDE_DEV,
    why="A reader of storage.durability expects it to apply to every room.",
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
    remarks = [
        Remark(f'the rule for rooms "{rule.match}" sets durability {rule.durability}', (), place)
        for rule in less
    ]
    return verdict(remarks, expected=f"{declared} or higher")


@check(
    "ARQ-STO-021",
    "Rooms with durability memory are not used across nodes",
    severity=WARN_IN_DEV,
    why="Such a room exists on each node separately: other nodes and the projector do not see its messages.",
    fix=("$EDITOR FILE   # rooms: {durability: hot}",),
    reads=("rooms", "storage.backend"),
)
def memory_is_not_shared(context: Context) -> Outcome:
    settings, place = context.settings, context.resolved.location("rooms")
    engine = engine_of(settings)
    remarks = [
        Remark(
            f'rooms "{rule.match}" have durability memory, but storage.backend {engine.name} is shared',
            (),
            place,
        )
        for rule in settings.rooms
        if engine.shared and rule.durability == "memory"
    ]
    if not remarks and settings.room_settings(_EPISODES).in_process:
        remarks = [Remark(f"{_EPISODES} has durability memory and is never projected", (), place)]
    return verdict(remarks, expected="hot or durable for rooms that several nodes or the projector use")


@check(
    "ARQ-STO-022",
    "durable_history is supported by storage and room settings",
    severity=EVERYWHERE,
    why="The bus does not start if it cannot keep the history that the profile requires.",
    fix=("$EDITOR FILE   # rooms: {durable_history: postgres} with storage.backend valkey, and Postgres",),
    reads=("rooms", "storage.backend", "storage.mode", *ADDRESSES),
)
def durable_history_can_be_kept(context: Context) -> Outcome:
    settings, place = context.settings, context.resolved.location("rooms")
    remarks = [Remark(f'rooms "{match}": {because}', (), place) for match, because in unkeepable(settings)]
    return verdict(remarks, expected="valkey and Postgres, mode strict, and a history")


@check(
    "ARQ-STO-023",
    "Mode degraded has a storage engine in another process",
    severity=EVERYWHERE,
    why="An embedded engine cannot fail separately from the bus; the bus does not start in this mode.",
    fix=("$EDITOR FILE   # storage: {mode: strict}",),
    reads=("storage.backend", "storage.mode", "rooms"),
)
def degraded_has_an_engine(context: Context) -> Outcome:
    expected = f"strict, or the storage engine {names(lambda each: each.make_renewable is not None)}"
    return verdict(_remarks(undegradable(context.settings)), expected=expected)
