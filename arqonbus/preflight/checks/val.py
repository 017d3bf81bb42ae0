"""VAL: version, settings, permissions and latency of the Valkey server."""

from __future__ import annotations

from arqonbus.preflight.facts import ValkeyAnswers
from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    failed,
    passed,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check
from arqonbus.storage.valkey.keys import SLOTS

LEAST_VERSION = (8, 0)
SLOW_MS, TOO_SLOW_MS = 50.0, 250.0

_FIRST = "ARQ-VAL-001"
_URL = "datastores.valkey.url"
_STORE = "datastores.valkey"
_HIDDEN = "the Valkey user may not read this (ARQ-VAL-016)"


def _answers(context: Context) -> ValkeyAnswers:
    if context.facts is None or context.facts.valkey is None:
        raise LookupError("Valkey was not queried")
    return context.facts.valkey


def not_asked(context: Context) -> str:
    """Reason why Valkey was not queried; empty if it was."""
    if not context.settings.datastores.valkey.configured:
        return "no Valkey is configured"
    if context.facts is None or context.facts.valkey is None:
        return "Valkey was not queried"
    return ""


@check(
    _FIRST,
    "Valkey is reachable and accepts the credentials",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="If Valkey is unreachable, a bus in mode strict refuses every publish.",
    fix=("valkey-cli -u URL PING",),
    reads=(_STORE,),
    tags=("reach",),
)
def answers(context: Context) -> Outcome:
    because = not_asked(context)
    if because:
        return skipped(because)
    said = _answers(context)
    if said.failure is not None:
        return failed(
            Remark(said.failure.text, (_URL,)), expected="a reachable Valkey server", fix=said.failure.fix
        )
    return passed(said.probe_ms)


@check(
    "ARQ-VAL-002",
    "The bus connects to Valkey as a named ACL user",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="The default user may run every command, FLUSHALL included.",
    fix=("$EDITOR FILE   # datastores: {valkey: {user: arqonbus}}", "valkey-cli ACL LIST"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def has_its_own_user(context: Context) -> Outcome:
    user = _answers(context).user
    remarks = [Remark(f"the bus connects as the user {user or 'default'}", (f"{_STORE}.user",))]
    return verdict(remarks if user in ("", "default") else [], expected="a named ACL user")


@check(
    "ARQ-VAL-003",
    "Valkey requires a password",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Without a password, any client that reaches the port can read all messages of all tenants.",
    fix=("valkey-cli ACL SETUSER default off", "valkey-cli ACL SAVE"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def is_closed(context: Context) -> Outcome:
    open_ = _answers(context).anonymous
    return verdict(
        ["Valkey answered without a password"] if open_ else [], expected="the default user disabled"
    )


@check(
    "ARQ-VAL-004",
    "The Valkey version is supported",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Older versions lack functions or WAITAOF, which the bus needs to store messages.",
    fix=("valkey-server --version", "apt-get install valkey-server"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def is_new_enough(context: Context) -> Outcome:
    version = _answers(context).version
    if _number(version) >= LEAST_VERSION:
        return passed()
    wanted = ".".join(map(str, LEAST_VERSION))
    return failed(f"Valkey is version {version or 'unknown'}", expected=f"{wanted} or newer")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


@check(
    "ARQ-VAL-005",
    "maxmemory-policy is noeviction",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="With any other policy, Valkey silently deletes rooms when memory runs out.",
    fix=("valkey-cli CONFIG SET maxmemory-policy noeviction && valkey-cli CONFIG REWRITE",),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def evicts_nothing(context: Context) -> Outcome:
    said = _answers(context)
    policy = (said.settings or {}).get("maxmemory-policy") or (said.info or {}).get("maxmemory_policy")
    if policy is None:
        return skipped(_HIDDEN)
    return verdict([f"maxmemory-policy is {policy}"] if policy != "noeviction" else [], expected="noeviction")


@check(
    "ARQ-VAL-006",
    "appendonly is yes",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Without the append-only file, a restart of Valkey loses acknowledged messages.",
    fix=("valkey-cli CONFIG SET appendonly yes && valkey-cli CONFIG REWRITE",),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def writes_to_disk(context: Context) -> Outcome:
    aof = _answers(context).aof
    if aof is None:
        return skipped(_HIDDEN)
    return verdict([] if aof else ["appendonly is no"], expected="appendonly yes")


@check(
    "ARQ-VAL-007",
    "appendfsync supports storage.durability",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="The bus refuses a publish whose durability Valkey's settings cannot provide.",
    fix=("valkey-cli CONFIG SET appendfsync always && valkey-cli CONFIG REWRITE",),
    reads=(_STORE, "storage.durability", "storage.backend", "rooms"),
    requires=(_FIRST,),
)
def flushes_as_declared(context: Context) -> Outcome:
    said, settings = _answers(context), context.settings
    durable = settings.storage.durability == "durable" or any(
        r.durability == "durable" for r in settings.rooms
    )
    if settings.storage.backend != "valkey" or not durable:
        return skipped("no room has durability durable")
    if said.aof is None:
        return skipped(_HIDDEN)
    key = ("storage.durability",)
    if not said.aof:
        return failed(Remark("durability is durable and appendonly is no", key), expected="appendonly yes")
    flush = (said.settings or {}).get("appendfsync")
    wrong = [Remark("durability is durable and appendfsync is no", key)] if flush == "no" else []
    return verdict(wrong, expected="appendfsync always, or everysec with slower acks")


@check(
    "ARQ-VAL-008",
    "The function library is not newer than this version",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A newer version of the bus has used this server; its functions may be incompatible.",
    fix=("arqonbus --version   # run the version that loaded the library, or a later one",),
    reads=(_STORE,),
    requires=(_FIRST,),
    tags=("upgrade",),
)
def library_is_not_newer(context: Context) -> Outcome:
    from arqonbus.storage.valkey.engine import LIBRARY_VERSION

    found = _answers(context).library
    if found is None:
        return skipped("the function library is not loaded yet; the bus loads it")
    newer = found > LIBRARY_VERSION
    return verdict([f"it is version {found}"] if newer else [], expected=f"version {LIBRARY_VERSION}")


@check(
    "ARQ-VAL-009",
    "Valkey stores, returns and deletes a test key",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A server that answers but does not store would lose messages unnoticed.",
    fix=("valkey-cli INFO persistence", "valkey-cli ACL GETUSER arqonbus"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def stores(context: Context) -> Outcome:
    said = _answers(context)
    if said.probe_problem:
        return failed(said.probe_problem, expected="the value that was written", latency_ms=said.probe_ms)
    return passed(said.probe_ms)


@check(
    "ARQ-VAL-010",
    f"Valkey answers within {SLOW_MS:g} ms",
    phase=Phase.ONLINE,
    severity=WARNING_EVERYWHERE,
    why="Every ack waits for Valkey.",
    fix=("valkey-cli --latency -h HOST", "valkey-cli SLOWLOG GET 10"),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-VAL-009"),
    tags=("latency",),
)
def is_quick(context: Context) -> Outcome:
    return _within(_answers(context).probe_ms, SLOW_MS)


@check(
    "ARQ-VAL-011",
    f"Valkey answers within {TOO_SLOW_MS:g} ms",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Publishers time out before their acks and retry, which adds load.",
    fix=("valkey-cli --latency -h HOST", "valkey-cli SLOWLOG GET 10"),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-VAL-009"),
    tags=("latency",),
)
def is_usable(context: Context) -> Outcome:
    return _within(_answers(context).probe_ms, TOO_SLOW_MS)


def _within(milliseconds: float | None, bound: float) -> Outcome:
    if milliseconds is None:
        return skipped("nothing was measured")
    if milliseconds <= bound:
        return passed(milliseconds)
    text = f"writing, reading and deleting a key took {milliseconds:.1f} ms"
    return failed(text, expected=f"at most {bound:g} ms", latency_ms=milliseconds)


@check(
    "ARQ-VAL-012",
    "The connection to Valkey is encrypted",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Without TLS, the password and every message can be read on the network.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: valkeys://…, tls: {enabled: true, ca_file: …}}}",),
    reads=(_STORE,),
    requires=(_FIRST,),
    tags=("encryption",),
)
def is_encrypted(context: Context) -> Outcome:
    encrypted = _answers(context).encrypted
    return verdict([] if encrypted else [Remark("the connection does not use TLS", (_URL,))], expected="TLS")


@check(
    "ARQ-VAL-013",
    "Valkey is a primary",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A replica refuses every write.",
    fix=("valkey-cli ROLE", "$EDITOR FILE   # the address of the primary"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def is_primary(context: Context) -> Outcome:
    said = _answers(context)
    replica = said.role not in ("master", "primary") and not said.cluster
    return verdict([Remark(f"the server is a {said.role}", (_URL,))] if replica else [], expected="a primary")


@check(
    "ARQ-VAL-014",
    "datastores.valkey.cluster matches the server",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A cluster node serves only its own slots; commands for most rooms would be answered with MOVED.",
    fix=("$EDITOR FILE   # datastores: {valkey: {cluster: true}}",),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def cluster_is_declared(context: Context) -> Outcome:
    declared, found = context.settings.datastores.valkey.cluster, _answers(context).cluster
    server = "a cluster node" if found else "not a cluster node"
    text = f"datastores.valkey.cluster is {str(declared).lower()}, but the server is {server}"
    remarks = [Remark(text, (f"{_STORE}.cluster",))] if declared != found else []
    return verdict(remarks, expected="true for a cluster node, otherwise false")


@check(
    "ARQ-VAL-015",
    "Valkey has free memory and can write to disk",
    phase=Phase.ONLINE,
    severity=WARNING_OUTSIDE_DEV,
    why="When memory is full or a disk write failed, every publish is refused.",
    fix=("valkey-cli INFO memory", "valkey-cli INFO persistence", "df -h"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def has_room(context: Context) -> Outcome:
    info = _answers(context).info
    if info is None:
        return skipped(_HIDDEN)
    used, most = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    remarks = []
    if most and used > most * 0.8:
        remarks.append(f"{used * 100 // most} % of maxmemory is in use")
    if info.get("aof_last_write_status", "ok") != "ok":
        remarks.append("the last write to the append-only file failed")
    if info.get("loading", "0") != "0":
        remarks.append("Valkey is still loading its data")
    return verdict(remarks, expected="at most 80 % of maxmemory, and a writable append-only file")


@check(
    "ARQ-VAL-016",
    "The Valkey user may run INFO and CONFIG GET",
    phase=Phase.ONLINE,
    severity=WARNING_OUTSIDE_DEV,
    why="Without these commands, eviction, the append-only file and memory are not checked.",
    fix=("valkey-cli ACL SETUSER arqonbus +info '+config|get'", "valkey-cli ACL SAVE"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def may_be_looked_at(context: Context) -> Outcome:
    refused = [command for command in _answers(context).refused if command in ("INFO", "CONFIG GET")]
    return verdict(
        [f"the Valkey user may not run {' and '.join(refused)}"] if refused else [],
        expected="permission for INFO and CONFIG GET",
    )


@check(
    "ARQ-VAL-017",
    "The Valkey user may run every command of the bus",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="The bus would start, and fail at the first refused command.",
    fix=("valkey-cli ACL GETUSER arqonbus   # compare with images/valkey/users.acl",),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def may_do_its_work(context: Context) -> Outcome:
    refused = [command for command in _answers(context).refused if command not in ("INFO", "CONFIG GET")]
    return verdict(
        [f"the Valkey user may not run {command}" for command in refused],
        expected="permission for every command in images/valkey/users.acl",
    )


@check(
    "ARQ-VAL-018",
    "Every slot of the cluster is served",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A room in an unserved slot refuses every publish, while other rooms work.",
    fix=("valkey-cli --cluster check HOST:6379", "valkey-cli --cluster fix HOST:6379"),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-VAL-014"),
)
def serves_every_slot(context: Context) -> Outcome:
    said = _answers(context)
    if not said.cluster:
        return skipped("Valkey is not a cluster")
    served = sum(each.last - each.first + 1 for each in said.ranges)
    return verdict(
        [f"{SLOTS - served} of {SLOTS} slots are not served"] if served < SLOTS else [],
        expected="all slots served",
    )


@check(
    "ARQ-VAL-019",
    "Every primary of the cluster is reachable and configured alike",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Each primary holds its own rooms: a fault of one affects every message in those rooms.",
    fix=(
        "valkey-cli --cluster call HOST:6379 CONFIG GET '*'",
        "valkey-cli --cluster call HOST:6379 ACL LIST",
    ),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-VAL-014"),
)
def primaries_are_alike(context: Context) -> Outcome:
    said = _answers(context)
    if not said.cluster:
        return skipped("Valkey is not a cluster")
    return verdict(
        [remark for node in said.nodes for remark in _unlike(node, said)],
        expected=f"every primary configured like {said.where}",
    )


def _unlike(node: ValkeyAnswers, first: ValkeyAnswers) -> list[str]:
    """Differences between a primary and the one whose settings the other checks judge."""
    if node.failure is not None:
        return [node.failure.text]
    if node.probe_problem:
        return [f"{node.where}: {node.probe_problem}"]
    pairs = {
        "version": (node.version, first.version),
        "function library": (node.library, first.library),
        "append-only file": (node.aof, first.aof),
        "TLS": (node.encrypted, first.encrypted),
        "access without a password": (node.anonymous, first.anonymous),
        "commands that the Valkey user may not run": (node.refused, first.refused),
    }
    pairs |= {
        name: ((node.settings or {}).get(name), (first.settings or {}).get(name))
        for name in ("maxmemory-policy", "appendfsync", "maxmemory")
    }
    return [
        f"{node.where} differs in {name}: {_said(theirs)}, elsewhere {_said(ours)}"
        for name, (theirs, ours) in pairs.items()
        if theirs != ours
    ]


def _said(value: object) -> str:
    """Text for a value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value not in (None, "") else "none"
