"""A message of NATS as an envelope of the bus, and back. Pure.

Headers of one side are headers of the other. Headers that have a meaning for NATS or the bridge, and
characters that a header line may not hold, travel as JSON in `ArqonBus-Headers`, so that no producer controls
the other side.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping

from arqonbus.protocol.envelope import MESSAGE, Envelope
from arqonbus.protocol.errors import Code, Invalid
from arqonbus.protocol.ids import derived_ulid, is_message_id

MESSAGE_ID = "Nats-Msg-Id"
CONTENT_TYPE = "Content-Type"
TRACE = "traceparent"
ORIGIN = "ArqonBus-Origin"
ID = "ArqonBus-Id"
SEQUENCE = "ArqonBus-Sequence"
EPOCH = "ArqonBus-Epoch"
SENDER = "ArqonBus-Sender"
CHANNEL = "ArqonBus-Channel"
NAME = "ArqonBus-Name"
CAUSE = "ArqonBus-Cause"
SIGNATURE = "ArqonBus-Signature"
HEADERS = "ArqonBus-Headers"
CODE = "ArqonBus-Code"
REASON = "ArqonBus-Reason"
SUBJECT = "ArqonBus-Subject"
CUT = "ArqonBus-Payload-Bytes"  # of a payload that was left out, because with its headers it is too large

_OURS = ("nats-", "arqonbus-")
_NAMED = frozenset({CONTENT_TYPE.lower(), TRACE})
_PLAIN_KEY = re.compile(r"[!#$%&'*+.^_`|~A-Za-z0-9-]{1,256}", re.ASCII)  # a token of RFC 9110
_DROPPED = "ack"  # asks the bus for no ack, and the bridge needs one


def to_envelope(
    room: str, headers: Mapping[str, str], payload: bytes, *, stream: str, sequence: int, time_us: int
) -> Envelope:
    """The envelope of a message in a stream, for a session to judge. Raises Invalid for unusable headers.

    Its id is the producer's `Nats-Msg-Id` if that is a message id, else one that its place in the stream
    gives, so that a redelivery is recognised.
    """
    own = headers.get(MESSAGE_ID, "")
    envelope = Envelope(
        id=own if is_message_id(own) else derived_ulid(time_us // 1000, "nats", stream, sequence),
        kind=MESSAGE,
        room=room,
        channel=headers.get(CHANNEL, ""),
        name=headers.get(NAME, ""),
        cause=headers.get(CAUSE, ""),
        time_us=time_us,
        content_type=headers.get(CONTENT_TYPE, ""),
        trace=headers.get(TRACE, ""),
        payload=payload,
        signature=_signature(headers.get(SIGNATURE, "")),
    )
    for key, value in headers.items():
        if not key.lower().startswith(_OURS) and key.lower() not in _NAMED:
            envelope.headers[key] = value
    for key, value in _packed(headers.get(HEADERS, "")).items():
        envelope.headers[key] = value
    envelope.headers.pop(_DROPPED, None)
    return envelope


def to_headers(envelope: Envelope, origin: str, epoch: str, sequence: int) -> dict[str, str]:
    """The headers of a stored message in NATS. Its payload is the message's."""
    headers = {
        MESSAGE_ID: f"{epoch}-{sequence}",
        ORIGIN: origin,
        ID: envelope.id,
        EPOCH: epoch,
        SEQUENCE: str(sequence),
        SENDER: envelope.sender,
    }
    optional = (
        (CONTENT_TYPE, envelope.content_type),
        (CHANNEL, envelope.channel),
        (CAUSE, envelope.cause),
        (TRACE, envelope.trace),
    )
    headers |= {key: value for key, value in optional if value}
    if envelope.signature:
        headers[SIGNATURE] = base64.b64encode(envelope.signature).decode()
    if envelope.name:
        headers[NAME] = one_line(envelope.name)
    packed: dict[str, str] = {}
    for key, value in envelope.headers.items():
        (headers if _is_plain(key, value) else packed)[key] = value
    if packed:
        headers[HEADERS] = json.dumps(packed)
    return headers


def to_dead_letter(
    headers: Mapping[str, str], subject: str, code: str, reason: str, *, stream: str, sequence: int
) -> dict[str, str]:
    """The headers of a message that the bus refuses for good."""
    kept = {key: value for key, value in headers.items() if not key.lower().startswith("nats-")}
    if MESSAGE_ID in headers:
        kept["ArqonBus-Nats-Msg-Id"] = headers[MESSAGE_ID]
    place = {MESSAGE_ID: f"arqonbus-dead-{stream}-{sequence}", SUBJECT: subject}
    return kept | place | {CODE: code, REASON: one_line(reason)}


def size_of(headers: Mapping[str, str], payload: bytes) -> int:
    """Bytes that count against the server's max_payload."""
    lines = sum(len(key.encode()) + len(value.encode()) + 4 for key, value in headers.items())
    return len("NATS/1.0\r\n\r\n") + lines + len(payload)


def one_line(text: str) -> str:
    """The text without what would end a header's line."""
    return "".join(character if character.isprintable() else "?" for character in text).strip()


def _is_plain(key: str, value: str) -> bool:
    lower = key.lower()
    return (
        _PLAIN_KEY.fullmatch(key) is not None
        and not lower.startswith(_OURS)
        and lower not in _NAMED
        and value.isprintable()
        and value == value.strip()
        and value != ""
    )


def _signature(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("signature", f"{SIGNATURE} is not base64") from None


def _packed(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise Invalid("headers", f"{HEADERS} is not a JSON object of texts", Code.VALIDATION_ERROR)
    return found


__all__ = ["MESSAGE_ID", "ORIGIN", "one_line", "size_of", "to_dead_letter", "to_envelope", "to_headers"]
