"""PRO: what may be spoken on the wire, and whether the sizes fit into each other."""

from __future__ import annotations

from arqonbus.config import Glob
from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check
from arqonbus.protocol.envelope import MAX_HEADER_BYTES

PROXY_BYTES = 16 * 2**20
ENVELOPE_BYTES = 1024  # ids, room, type, stamps


@check(
    "ARQ-PRO-001",
    "Services speak protobuf",
    severity=OUTSIDE_DEV,
    why="One wire for infrastructure means one meaning: JSON loses 64-bit numbers and unknown fields.",
    fix=("$EDITOR FILE   # protocol: {infra: protobuf}",),
    reads=("protocol.infra",),
)
def services_speak_protobuf(context: Context) -> Outcome:
    infra = context.settings.protocol.infra
    return verdict([f"protocol.infra is {infra}"] if infra != "protobuf" else [], expected="protobuf")


@check(
    "ARQ-PRO-002",
    "Services do not speak JSON",
    severity=OUTSIDE_DEV,
    why="An exception that is open is used, and cannot be closed again without breaking its user.",
    fix=("$EDITOR FILE   # protocol: {allow_json_infra: false}",),
    reads=("protocol.allow_json_infra",),
)
def services_do_not_speak_json(context: Context) -> Outcome:
    allowed = context.settings.protocol.allow_json_infra
    return verdict(["protocol.allow_json_infra is on"] if allowed else [], expected="false")


@check(
    "ARQ-PRO-003",
    "Payloads meet the schema of their room",
    severity=OUTSIDE_DEV,
    why="What no schema knows reaches every subscriber, and stays in the history.",
    fix=("$EDITOR FILE   # protocol: {schema_strict: true}", "or a waiver in waivers.yaml, with its end"),
    reads=("protocol.schema_strict",),
)
def schemas_are_strict(context: Context) -> Outcome:
    strict = context.settings.protocol.schema_strict
    return verdict([] if strict else ["protocol.schema_strict is off"], expected="true")


@check(
    "ARQ-PRO-004",
    "The largest payload fits into a frame",
    severity=EVERYWHERE,
    why="A payload of the promised size would close the connection of its sender.",
    fix=("$EDITOR FILE   # protocol: {max_frame_bytes: 2MiB, max_payload_bytes: 1MiB}",),
    reads=("protocol.max_frame_bytes", "protocol.max_payload_bytes"),
)
def payload_fits_frame(context: Context) -> Outcome:
    protocol = context.settings.protocol
    needed = protocol.max_payload_bytes + MAX_HEADER_BYTES + ENVELOPE_BYTES
    tight = protocol.max_frame_bytes < needed
    text = f"payload, headers and envelope need {needed} bytes and a frame has {protocol.max_frame_bytes}"
    return verdict([Remark(text, ("protocol.max_frame_bytes",))] if tight else [], expected="a larger frame")


@check(
    "ARQ-PRO-005",
    "Frames pass the proxies in front",
    severity=WARNING_OUTSIDE_DEV,
    why="Proxies and browsers hold a whole frame in memory; many refuse more than 16 MiB.",
    fix=("$EDITOR FILE   # protocol: {max_frame_bytes: 2MiB}",),
    reads=("protocol.max_frame_bytes",),
)
def frames_pass_proxies(context: Context) -> Outcome:
    size = context.settings.protocol.max_frame_bytes
    return verdict(
        [f"a frame may have {size} bytes"] if size > PROXY_BYTES else [], expected="16 MiB at most"
    )


@check(
    "ARQ-PRO-006",
    "The largest payload fits into a client's queue",
    severity=EVERYWHERE,
    why="One message of the promised size would make every subscriber a slow one, and drop it.",
    fix=("$EDITOR FILE   # limits: {send_queue_bytes: 1MiB}",),
    reads=("limits.send_queue_bytes", "protocol.max_payload_bytes"),
)
def payload_fits_queue(context: Context) -> Outcome:
    queue, payload = context.settings.limits.send_queue_bytes, context.settings.protocol.max_payload_bytes
    text = f"a queue has {queue} bytes and a payload may have {payload}"
    remarks = [Remark(text, ("limits.send_queue_bytes",))] if queue < payload else []
    return verdict(remarks, expected="a queue of one payload at least")


@check(
    "ARQ-PRO-007",
    "Every rule for rooms can match",
    severity=WARNING_EVERYWHERE,
    why="The first rule that matches is a room's only one; what stands behind a wider one never holds.",
    fix=("$EDITOR FILE   # rooms: the narrow patterns first",),
    reads=("rooms",),
)
def rules_can_match(context: Context) -> Outcome:
    patterns = [rule.match for rule in context.settings.rooms]
    if not patterns:
        return skipped("there are no rules for rooms")
    hidden = []
    for number, pattern in enumerate(patterns):
        cover = next((each for each in patterns[:number] if _covers(each, pattern)), None)
        if cover is not None:
            text = f'the rule "{pattern}" stands behind "{cover}", which takes all its rooms'
            hidden.append(Remark(text, (f"rooms[{number}].match",), context.resolved.location("rooms")))
    return verdict(hidden, expected="each pattern before the wider ones")


def _covers(wide: str, narrow: str) -> bool:
    # A star of the narrow pattern can be anything; a letter that no other pattern holds stands for it.
    return wide == narrow or Glob(wide).matches(narrow.replace("*", "Zq"))


@check(
    "ARQ-PRO-008",
    "Schemas, keys of signers and the policy can be used",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus does not start with a schema, a key or rules that it cannot judge by.",
    fix=("ls -l FILE", "arqonbus schema list --profile PROFILE"),
    reads=("schemas", "auth.signers", "policy"),
)
def schemas_can_be_read(context: Context) -> Outcome:
    files = [f for f in context.host.files if f.key == "schemas" and f.state != "file"]
    missing = [f"{file.path} {file.reason or 'is no regular file'}" for file in files]
    return verdict([*missing, *context.host.unusable], expected="files that can be read and say something")


@check(
    "ARQ-PRO-009",
    "Bursts are not smaller than the rate",
    severity=WARNING_EVERYWHERE,
    why="A client that keeps to the rate is refused as soon as two of its messages arrive together.",
    fix=("$EDITOR FILE   # limits: {messages_burst: twice messages_per_second}",),
    reads=("limits.messages_per_second", "limits.messages_burst", "limits.bytes_per_second"),
)
def bursts_fit_rates(context: Context) -> Outcome:
    limits, payload = context.settings.limits, context.settings.protocol.max_payload_bytes
    remarks = []
    if limits.messages_per_second and limits.messages_burst < limits.messages_per_second:
        text = f"{limits.messages_burst} at once and {limits.messages_per_second} per second"
        remarks.append(Remark(text, ("limits.messages_burst",)))
    if 0 < limits.bytes_per_second < payload:
        text = f"{limits.bytes_per_second} bytes per second and a payload of {payload}"
        remarks.append(Remark(text, ("limits.bytes_per_second",)))
    return verdict(remarks, expected="a burst of one second at least, and a payload per second")
