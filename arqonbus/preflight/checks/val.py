"""VAL: what the Valkey server that the profile names says about itself."""

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
_HIDDEN = "its user may not ask for that (ARQ-VAL-016)"


def _answers(context: Context) -> ValkeyAnswers:
    if context.facts is None or context.facts.valkey is None:
        raise LookupError("Valkey was not asked")
    return context.facts.valkey


def not_asked(context: Context) -> str:
    """Why there are no answers, or nothing."""
    if not context.settings.datastores.valkey.configured:
        return "no Valkey is configured"
    if context.facts is None or context.facts.valkey is None:
        return "Valkey was not asked"
    return ""


@check(
    _FIRST,
    "Valkey answers, and lets us in",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Without its engine a strict bus refuses every publish.",
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
            Remark(said.failure.text, (_URL,)), expected="a Valkey that answers", fix=said.failure.fix
        )
    return passed(said.probe_ms)


@check(
    "ARQ-VAL-002",
    "The bus has a user of its own",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="The default user may do everything, FLUSHALL included, and serves whoever knows one password.",
    fix=("$EDITOR FILE   # datastores: {valkey: {user: arqonbus}}", "valkey-cli ACL LIST"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def has_its_own_user(context: Context) -> Outcome:
    user = _answers(context).user
    remarks = [Remark(f"we are the user {user or 'default'}", (f"{_STORE}.user",))]
    return verdict(remarks if user in ("", "default") else [], expected="a named ACL user")


@check(
    "ARQ-VAL-003",
    "Nobody gets in without a password",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Whoever reaches the port has all messages of all tenants.",
    fix=("valkey-cli ACL SETUSER default off", "valkey-cli ACL SAVE"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def is_closed(context: Context) -> Outcome:
    open_ = _answers(context).anonymous
    return verdict(
        ["it answered before we gave a password"] if open_ else [], expected="the default user off"
    )


@check(
    "ARQ-VAL-004",
    "Valkey is new enough",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Older ones know no functions, or no WAITAOF, and cannot store a message as the bus does.",
    fix=("valkey-server --version", "apt-get install valkey-server"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def is_new_enough(context: Context) -> Outcome:
    version = _answers(context).version
    if _number(version) >= LEAST_VERSION:
        return passed()
    wanted = ".".join(map(str, LEAST_VERSION))
    return failed(f"it is version {version or 'unknown'}", expected=f"{wanted} or newer")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


@check(
    "ARQ-VAL-005",
    "Valkey refuses rather than forgets when it is full",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Any other policy than noeviction deletes rooms, silently, as soon as memory is short.",
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
    "Valkey writes an append-only file",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Without it a restart of Valkey loses everything that was acked.",
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
    "The append-only file is flushed as the durability says",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A declared durability that the engine's settings cannot reach is refused at each publish.",
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
        return skipped("nothing is promised to be on disk")
    if said.aof is None:
        return skipped(_HIDDEN)
    key = ("storage.durability",)
    if not said.aof:
        return failed(Remark("durable is promised and appendonly is no", key), expected="appendonly yes")
    flush = (said.settings or {}).get("appendfsync")
    wrong = [Remark("durable is promised and appendfsync is no", key)] if flush == "no" else []
    return verdict(wrong, expected="appendfsync always, or everysec with slower acks")


@check(
    "ARQ-VAL-008",
    "The function library is not newer than this version",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A newer version of the bus has worked here; this one would call functions that it does not know.",
    fix=("arqonbus --version   # run the version that loaded the library, or a later one",),
    reads=(_STORE,),
    requires=(_FIRST,),
    tags=("upgrade",),
)
def library_is_not_newer(context: Context) -> Outcome:
    from arqonbus.storage.valkey.engine import LIBRARY_VERSION

    found = _answers(context).library
    if found is None:
        return skipped("the library is not there yet; the bus loads it")
    newer = found > LIBRARY_VERSION
    return verdict([f"it is version {found}"] if newer else [], expected=f"version {LIBRARY_VERSION}")


@check(
    "ARQ-VAL-009",
    "What is written to Valkey can be read and deleted",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A server that answers and does not store is worse than one that is away.",
    fix=("valkey-cli INFO persistence", "valkey-cli ACL GETUSER arqonbus"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def stores(context: Context) -> Outcome:
    said = _answers(context)
    if said.probe_problem:
        return failed(said.probe_problem, expected="what was written", latency_ms=said.probe_ms)
    return passed(said.probe_ms)


@check(
    "ARQ-VAL-010",
    "Valkey answers quickly",
    phase=Phase.ONLINE,
    severity=WARNING_EVERYWHERE,
    why="Every ack waits for it.",
    fix=("valkey-cli --latency -h HOST", "valkey-cli SLOWLOG GET 10"),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-VAL-009"),
    tags=("latency",),
)
def is_quick(context: Context) -> Outcome:
    return _within(_answers(context).probe_ms, SLOW_MS)


@check(
    "ARQ-VAL-011",
    "Valkey is not too slow to be used",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Publishers time out before they are acked, publish again, and make it worse.",
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
    text = f"write, read and delete took {milliseconds:.1f} ms"
    return failed(text, expected=f"{bound:g} ms at most", latency_ms=milliseconds)


@check(
    "ARQ-VAL-012",
    "The connection to Valkey is encrypted",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="The password and every message cross the network in the clear.",
    fix=("$EDITOR FILE   # datastores: {valkey: {url: valkeys://…, tls: {enabled: true, ca_file: …}}}",),
    reads=(_STORE,),
    requires=(_FIRST,),
    tags=("encryption",),
)
def is_encrypted(context: Context) -> Outcome:
    encrypted = _answers(context).encrypted
    return verdict([] if encrypted else [Remark("TLS was not used", (_URL,))], expected="TLS")


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
    return verdict([Remark(f"it is a {said.role}", (_URL,))] if replica else [], expected="the primary")


@check(
    "ARQ-VAL-014",
    "The profile knows whether Valkey is a cluster",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A node of a cluster serves its own slots only; most rooms would be answered with MOVED.",
    fix=("$EDITOR FILE   # datastores: {valkey: {cluster: true}}",),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def cluster_is_declared(context: Context) -> Outcome:
    declared, found = context.settings.datastores.valkey.cluster, _answers(context).cluster
    text = f"the server {'is' if found else 'is not'} a node of a cluster, and the profile says otherwise"
    remarks = [Remark(text, (f"{_STORE}.cluster",))] if declared != found else []
    return verdict(remarks, expected="datastores.valkey.cluster as the server is")


@check(
    "ARQ-VAL-015",
    "Valkey is not about to be full, and its disk works",
    phase=Phase.ONLINE,
    severity=WARNING_OUTSIDE_DEV,
    why="When memory is full, or a write to the file failed, every publish is refused.",
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
        remarks.append(f"{used * 100 // most} % of maxmemory is used")
    if info.get("aof_last_write_status", "ok") != "ok":
        remarks.append("the last write to the append-only file failed")
    if info.get("loading", "0") != "0":
        remarks.append("it is still loading its data")
    return verdict(remarks, expected="80 % at most, and a file that can be written")


@check(
    "ARQ-VAL-016",
    "Preflight may look at Valkey's settings",
    phase=Phase.ONLINE,
    severity=WARNING_OUTSIDE_DEV,
    why="What cannot be looked at is not checked: eviction, the append-only file, memory.",
    fix=("valkey-cli ACL SETUSER arqonbus +info '+config|get'", "valkey-cli ACL SAVE"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def may_be_looked_at(context: Context) -> Outcome:
    refused = [command for command in _answers(context).refused if command in ("INFO", "CONFIG GET")]
    return verdict(
        [f"our user may not use {' and '.join(refused)}"] if refused else [], expected="read access"
    )


@check(
    "ARQ-VAL-017",
    "Our user may do what the bus does",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A command that is refused is one that a publish needs: the bus would start and then fail.",
    fix=("valkey-cli ACL GETUSER arqonbus   # compare with images/valkey/users.acl",),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def may_do_its_work(context: Context) -> Outcome:
    refused = [command for command in _answers(context).refused if command not in ("INFO", "CONFIG GET")]
    return verdict([f"our user may not use {command}" for command in refused], expected="the bus's commands")


@check(
    "ARQ-VAL-018",
    "Every slot of the cluster is served",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A room whose slot nobody serves refuses every publish, while its neighbours work.",
    fix=("valkey-cli --cluster check HOST:6379", "valkey-cli --cluster fix HOST:6379"),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-VAL-014"),
)
def serves_every_slot(context: Context) -> Outcome:
    said = _answers(context)
    if not said.cluster:
        return skipped("it is no cluster")
    served = sum(each.last - each.first + 1 for each in said.ranges)
    return verdict(
        [f"{SLOTS - served} of {SLOTS} slots are served by nobody"] if served < SLOTS else [],
        expected="all slots served",
    )


@check(
    "ARQ-VAL-019",
    "Every primary of the cluster answers, and is set up alike",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Each of them has rooms of its own: what is wrong with one is wrong for all messages of its rooms.",
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
        return skipped("it is no cluster")
    return verdict(
        [remark for node in said.nodes for remark in _unlike(node, said)],
        expected=f"every primary as {said.where}",
    )


def _unlike(node: ValkeyAnswers, first: ValkeyAnswers) -> list[str]:
    """What sets a primary apart from the one whose settings the other checks judge."""
    if node.failure is not None:
        return [node.failure.text]
    if node.probe_problem:
        return [f"{node.where}: {node.probe_problem}"]
    pairs = {
        "version": (node.version, first.version),
        "function library": (node.library, first.library),
        "append-only file": (node.aof, first.aof),
        "TLS": (node.encrypted, first.encrypted),
        "open to everybody": (node.anonymous, first.anonymous),
        "commands refused to us": (node.refused, first.refused),
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
    """A value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value not in (None, "") else "none"
