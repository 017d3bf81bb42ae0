"""NAT: the NATS server, and the JetStream stream of the bridge."""

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
        raise LookupError("NATS was not queried")
    return context.facts.nats


@check(
    _FIRST,
    "NATS is reachable and accepts the credentials",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="While NATS is unreachable, messages for it wait and can be lost.",
    fix=("nc -v HOST 4222",),
    reads=(_URL,),
    tags=("reach",),
)
def answers(context: Context) -> Outcome:
    if context.settings.datastores.nats.url is None:
        return skipped("no NATS is configured")
    if context.facts is None or context.facts.nats is None:
        return skipped("NATS was not queried")
    said = context.facts.nats
    if said.failure is not None:
        return failed(
            Remark(said.failure.text, (_URL,)), expected="a reachable NATS server", fix=said.failure.fix
        )
    return passed(said.probe_ms)


@check(
    "ARQ-NAT-002",
    "The connection to NATS is encrypted",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Without TLS, messages can be read on the network.",
    fix=("$EDITOR FILE   # datastores: {nats: {url: tls://nats.your-domain:4222}}",),
    reads=(_URL,),
    requires=(_FIRST,),
    tags=("encryption",),
)
def is_encrypted(context: Context) -> Outcome:
    return verdict([] if _answers(context).encrypted else ["the connection does not use TLS"], expected="TLS")


@check(
    "ARQ-NAT-003",
    "NATS requires credentials",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Without credentials, any client that reaches the port could publish to the bus.",
    fix=("$EDITOR nats-server.conf   # authorization { … }",),
    reads=(_URL,),
    requires=(_FIRST,),
)
def asks_who_we_are(context: Context) -> Outcome:
    asks = _answers(context).auth_required
    return verdict([] if asks else ["NATS accepts connections without credentials"], expected="authorization")


@check(
    "ARQ-NAT-004",
    "NATS accepts payloads of protocol.max_payload_bytes",
    phase=Phase.ONLINE,
    severity=WARNING_EVERYWHERE,
    why="NATS closes the connection when a message is too large.",
    fix=(
        "$EDITOR nats-server.conf   # max_payload: 2MB",
        "$EDITOR FILE   # protocol: {max_payload_bytes: 1MiB}",
    ),
    reads=(_URL, "protocol.max_payload_bytes"),
    requires=(_FIRST,),
)
def takes_our_payloads(context: Context) -> Outcome:
    theirs, ours = _answers(context).max_payload, context.settings.protocol.max_payload_bytes
    text = f"max_payload of NATS is {theirs} and protocol.max_payload_bytes is {ours}"
    remarks = [Remark(text, ("protocol.max_payload_bytes",))] if theirs < ours else []
    return verdict(remarks, expected="at least protocol.max_payload_bytes")


@check(
    "ARQ-NAT-005",
    "The NATS version is supported",
    phase=Phase.ONLINE,
    severity=WARNING_OUTSIDE_DEV,
    why="Older versions lack headers and get no security fixes.",
    fix=("nats-server --version",),
    reads=(_URL,),
    requires=(_FIRST,),
)
def is_supported(context: Context) -> Outcome:
    version = _answers(context).version
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return verdict(
        [f"NATS is version {version or 'unknown'}"] if number < (2, 9) else [], expected="2.9 or newer"
    )


@check(
    "ARQ-NAT-006",
    "The bridge's stream exists, or bridge.create_stream is on",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Until the stream exists, the bridge waits, and messages on its subjects are lost.",
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
        return skipped("no bridge is configured")
    remarks = []
    if said.jetstream_problem:
        remarks = [Remark(said.jetstream_problem, (_URL,))]
    elif said.stream_subjects is None and not bridge.create_stream:
        remarks = [
            Remark(f"the stream {bridge.stream} does not exist", ("bridge.stream", "bridge.create_stream"))
        ]
    return verdict(remarks, expected="an existing stream, or bridge.create_stream: true")


@check(
    "ARQ-NAT-007",
    "The stream covers every subject of the bridge",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Messages on a subject that no stream covers are lost; the bridge does not receive them.",
    fix=("nats stream edit ARQONBUS --subjects 'SUBJECT,arqonbus.dead_letters'",),
    reads=(_URL, "bridge.mappings", "bridge.stream", "bridge.dead_letters"),
    requires=("ARQ-NAT-006",),
)
def stream_holds_subjects(context: Context) -> Outcome:
    bridge, said = context.settings.bridge, _answers(context)
    if not bridge.mappings:
        return skipped("no bridge is configured")
    held = said.stream_subjects
    if held is None:
        return skipped("the bridge creates the stream")
    remarks = [
        Remark(f"the stream {bridge.stream} does not cover {subject}", ("bridge.mappings",))
        for subject in bridge.subjects
        if not any(covers(pattern, subject) for pattern in held)
    ]
    if not said.dead_letters_held:
        remarks.append(Remark(f"no stream covers {bridge.dead_letters}", ("bridge.dead_letters",)))
    return verdict(remarks, expected="streams that cover all subjects")
