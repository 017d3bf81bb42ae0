"""PRO: wire formats, schemas, and sizes that depend on each other."""

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
    "protocol.infra is protobuf",
    severity=OUTSIDE_DEV,
    why="JSON loses 64-bit numbers and unknown fields between services.",
    fix=("$EDITOR FILE   # protocol: {infra: protobuf}",),
    reads=("protocol.infra",),
)
def services_speak_protobuf(context: Context) -> Outcome:
    infra = context.settings.protocol.infra
    return verdict([f"protocol.infra is {infra}"] if infra != "protobuf" else [], expected="protobuf")


@check(
    "ARQ-PRO-002",
    "protocol.allow_json_infra is off",
    severity=OUTSIDE_DEV,
    why="Once services use JSON, the exception cannot be removed without breaking them.",
    fix=("$EDITOR FILE   # protocol: {allow_json_infra: false}",),
    reads=("protocol.allow_json_infra",),
)
def services_do_not_speak_json(context: Context) -> Outcome:
    allowed = context.settings.protocol.allow_json_infra
    return verdict(["protocol.allow_json_infra is on"] if allowed else [], expected="false")


@check(
    "ARQ-PRO-003",
    "protocol.schema_strict is on",
    severity=OUTSIDE_DEV,
    why="Payloads without a matching schema would reach every subscriber and stay in the history.",
    fix=(
        "$EDITOR FILE   # protocol: {schema_strict: true}",
        "or add a waiver with an expiry date to waivers.yaml",
    ),
    reads=("protocol.schema_strict",),
)
def schemas_are_strict(context: Context) -> Outcome:
    strict = context.settings.protocol.schema_strict
    return verdict([] if strict else ["protocol.schema_strict is off"], expected="true")


@check(
    "ARQ-PRO-004",
    "protocol.max_payload_bytes fits into protocol.max_frame_bytes",
    severity=EVERYWHERE,
    why="A payload of the allowed size would exceed the frame limit and close the sender's connection.",
    fix=("$EDITOR FILE   # protocol: {max_frame_bytes: 2MiB, max_payload_bytes: 1MiB}",),
    reads=("protocol.max_frame_bytes", "protocol.max_payload_bytes"),
)
def payload_fits_frame(context: Context) -> Outcome:
    protocol = context.settings.protocol
    needed = protocol.max_payload_bytes + MAX_HEADER_BYTES + ENVELOPE_BYTES
    tight = protocol.max_frame_bytes < needed
    text = f"payload, headers and envelope need {needed} bytes; max_frame_bytes is {protocol.max_frame_bytes}"
    return verdict([Remark(text, ("protocol.max_frame_bytes",))] if tight else [], expected="a larger frame")


@check(
    "ARQ-PRO-005",
    "protocol.max_frame_bytes is at most 16 MiB",
    severity=WARNING_OUTSIDE_DEV,
    why="Proxies and browsers buffer whole frames; many refuse more than 16 MiB.",
    fix=("$EDITOR FILE   # protocol: {max_frame_bytes: 2MiB}",),
    reads=("protocol.max_frame_bytes",),
)
def frames_pass_proxies(context: Context) -> Outcome:
    size = context.settings.protocol.max_frame_bytes
    return verdict(
        [f"protocol.max_frame_bytes is {size}"] if size > PROXY_BYTES else [], expected="at most 16 MiB"
    )


@check(
    "ARQ-PRO-006",
    "limits.send_queue_bytes holds the largest payload",
    severity=EVERYWHERE,
    why="One message of the allowed size would overflow every queue, and subscribers would count as slow.",
    fix=("$EDITOR FILE   # limits: {send_queue_bytes: 1MiB}",),
    reads=("limits.send_queue_bytes", "protocol.max_payload_bytes"),
)
def payload_fits_queue(context: Context) -> Outcome:
    queue, payload = context.settings.limits.send_queue_bytes, context.settings.protocol.max_payload_bytes
    text = f"limits.send_queue_bytes is {queue} and protocol.max_payload_bytes is {payload}"
    remarks = [Remark(text, ("limits.send_queue_bytes",))] if queue < payload else []
    return verdict(remarks, expected="a queue of at least one payload")


@check(
    "ARQ-PRO-007",
    "No room rule is hidden by an earlier one",
    severity=WARNING_EVERYWHERE,
    why="Only the first matching rule applies to a room; a rule after a wider one never applies.",
    fix=("$EDITOR FILE   # rooms: the narrow patterns first",),
    reads=("rooms",),
)
def rules_can_match(context: Context) -> Outcome:
    patterns = [rule.match for rule in context.settings.rooms]
    if not patterns:
        return skipped("the profile has no room rules")
    hidden = []
    for number, pattern in enumerate(patterns):
        cover = next((each for each in patterns[:number] if _covers(each, pattern)), None)
        if cover is not None:
            text = f'the rule "{pattern}" is after "{cover}", which matches all its rooms'
            hidden.append(Remark(text, (f"rooms[{number}].match",), context.resolved.location("rooms")))
    return verdict(hidden, expected="each pattern before the wider ones")


def _covers(wide: str, narrow: str) -> bool:
    # A wildcard of the narrow pattern can match anything: replace it by a letter that no pattern contains.
    return wide == narrow or Glob(wide).matches(narrow.replace("*", "Zq"))


@check(
    "ARQ-PRO-008",
    "Schemas, signer keys and content policy are valid",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus does not start with an invalid schema, key or policy.",
    fix=("ls -l FILE", "arqonbus schema list --profile PROFILE"),
    reads=("schemas", "auth.signers", "policy"),
)
def schemas_can_be_read(context: Context) -> Outcome:
    files = [f for f in context.host.files if f.key == "schemas" and f.state != "file"]
    missing = [f"{file.path} {file.reason or 'is not a regular file'}" for file in files]
    return verdict([*missing, *context.host.unusable], expected="readable, valid files")


@check(
    "ARQ-PRO-009",
    "limits.messages_burst and limits.bytes_per_second are large enough",
    severity=WARNING_EVERYWHERE,
    why="Otherwise messages are refused although the client stays within its rate.",
    fix=("$EDITOR FILE   # limits: {messages_burst: twice messages_per_second}",),
    reads=("limits.messages_per_second", "limits.messages_burst", "limits.bytes_per_second"),
)
def bursts_fit_rates(context: Context) -> Outcome:
    limits, payload = context.settings.limits, context.settings.protocol.max_payload_bytes
    remarks = []
    if limits.messages_per_second and limits.messages_burst < limits.messages_per_second:
        rate = f"messages_per_second is {limits.messages_per_second}"
        text = f"limits.messages_burst is {limits.messages_burst} and {rate}"
        remarks.append(Remark(text, ("limits.messages_burst",)))
    if 0 < limits.bytes_per_second < payload:
        text = f"limits.bytes_per_second is {limits.bytes_per_second}, below a payload of {payload}"
        remarks.append(Remark(text, ("limits.bytes_per_second",)))
    return verdict(
        remarks, expected="a burst of at least one second, and bytes for at least one payload per second"
    )
