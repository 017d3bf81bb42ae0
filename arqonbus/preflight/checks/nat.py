"""NAT: what the NATS server that the profile names says in its greeting."""

from __future__ import annotations

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
