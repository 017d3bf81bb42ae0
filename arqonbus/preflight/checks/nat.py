"""NAT: what the NATS server that the profile names says in its greeting, and of the bridge's stream."""

from __future__ import annotations

from arqonbus.config.subjects import covers
from arqonbus.preflight.facts import NatsAnswers
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

_FIRST = "ARQ-NAT-001"
_URL = "datastores.nats.url"


def _answers(context: Context) -> NatsAnswers:
    if context.facts is None or context.facts.nats is None:
        raise LookupError("NATS was not asked")
    return context.facts.nats


@check(
    _FIRST,
    "NATS answers, and lets us in",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Messages that are to be exchanged with it would wait, and then be lost.",
    fix=("nc -v HOST 4222",),
    reads=(_URL,),
    tags=("reach",),
)
def answers(context: Context) -> Outcome:
    if context.settings.datastores.nats.url is None:
        return skipped("no NATS is configured")
    if context.facts is None or context.facts.nats is None:
        return skipped("NATS was not asked")
    said = context.facts.nats
    if said.failure is not None:
        return failed(
            Remark(said.failure.text, (_URL,)), expected="a NATS that answers", fix=said.failure.fix
        )
    return passed(said.probe_ms)


@check(
    "ARQ-NAT-002",
    "The connection to NATS is encrypted",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Messages cross the network in the clear.",
    fix=("$EDITOR FILE   # datastores: {nats: {url: tls://nats.your-domain:4222}}",),
    reads=(_URL,),
    requires=(_FIRST,),
    tags=("encryption",),
)
def is_encrypted(context: Context) -> Outcome:
    return verdict([] if _answers(context).encrypted else ["TLS was not used"], expected="TLS")


@check(
    "ARQ-NAT-003",
    "NATS asks who we are",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Whoever reaches the port could publish into the bus.",
    fix=("$EDITOR nats-server.conf   # authorization { … }",),
    reads=(_URL,),
    requires=(_FIRST,),
)
def asks_who_we_are(context: Context) -> Outcome:
    asks = _answers(context).auth_required
    return verdict([] if asks else ["it lets everybody in"], expected="authorization")


@check(
    "ARQ-NAT-004",
    "NATS takes payloads of our size",
    phase=Phase.ONLINE,
    severity=WARNING_EVERYWHERE,
    why="A larger message closes the connection to NATS.",
    fix=(
        "$EDITOR nats-server.conf   # max_payload: 2MB",
        "$EDITOR FILE   # protocol: {max_payload_bytes: 1MiB}",
    ),
    reads=(_URL, "protocol.max_payload_bytes"),
    requires=(_FIRST,),
)
def takes_our_payloads(context: Context) -> Outcome:
    theirs, ours = _answers(context).max_payload, context.settings.protocol.max_payload_bytes
    text = f"it takes {theirs} bytes and ours may have {ours}"
    remarks = [Remark(text, ("protocol.max_payload_bytes",))] if theirs < ours else []
    return verdict(remarks, expected="no less than protocol.max_payload_bytes")


@check(
    "ARQ-NAT-005",
    "NATS is supported",
    phase=Phase.ONLINE,
    severity=WARNING_OUTSIDE_DEV,
    why="Older servers get no corrections and have no headers.",
    fix=("nats-server --version",),
    reads=(_URL,),
    requires=(_FIRST,),
)
def is_supported(context: Context) -> Outcome:
    version = _answers(context).version
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return verdict(
        [f"it is version {version or 'unknown'}"] if number < (2, 9) else [], expected="2.9 or newer"
    )


@check(
    "ARQ-NAT-006",
    "The stream of the bridge is there, or may be made",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="The bridge waits until it is, and what is published to its subjects meanwhile is kept by nobody.",
    fix=(
        "nats stream add ARQONBUS --subjects 'SUBJECT,arqonbus.dead_letters' --storage file --defaults",
        "$EDITOR FILE   # bridge: {create_stream: true}",
    ),
    reads=(_URL, "bridge.mappings", "bridge.stream", "bridge.create_stream"),
    requires=(_FIRST,),
)
def stream_is_there(context: Context) -> Outcome:
    bridge, said = context.settings.bridge, _answers(context)
    if not bridge.mappings:
        return skipped("there is no bridge")
    remarks = []
    if said.jetstream_problem:
        remarks = [Remark(said.jetstream_problem, (_URL,))]
    elif said.stream_subjects is None and not bridge.create_stream:
        remarks = [Remark(f"there is no stream {bridge.stream}", ("bridge.stream", "bridge.create_stream"))]
    return verdict(remarks, expected="the stream, or bridge.create_stream")


@check(
    "ARQ-NAT-007",
    "The stream holds every subject of the bridge",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="What is published to a subject that no stream holds is gone, and the bridge never sees it.",
    fix=("nats stream edit ARQONBUS --subjects 'SUBJECT,arqonbus.dead_letters'",),
    reads=(_URL, "bridge.mappings", "bridge.stream", "bridge.dead_letters"),
    requires=("ARQ-NAT-006",),
)
def stream_holds_subjects(context: Context) -> Outcome:
    bridge, said = context.settings.bridge, _answers(context)
    if not bridge.mappings:
        return skipped("there is no bridge")
    held = said.stream_subjects
    if held is None:
        return skipped("the stream is made by the bridge")
    remarks = [
        Remark(f"{bridge.stream} does not hold {subject}", ("bridge.mappings",))
        for subject in bridge.subjects
        if not any(covers(pattern, subject) for pattern in held)
    ]
    if not said.dead_letters_held:
        remarks.append(Remark(f"no stream holds {bridge.dead_letters}", ("bridge.dead_letters",)))
    return verdict(remarks, expected="a stream with all of them")
