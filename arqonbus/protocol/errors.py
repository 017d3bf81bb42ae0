"""Every error code of the bus, in one table, and the exception that carries one.

The table is the source of the generated reference. A code is never renamed or reused; its text may
improve. No text here or in a message built from it may hold a payload, a token or exception text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Stable error codes, as they stand in `status.code` and in the JSON body of a refused upgrade."""

    OK = "OK"
    DECODE_ERROR = "DECODE_ERROR"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    TENANT_MISMATCH = "TENANT_MISMATCH"
    AUTHORIZATION_ERROR = "AUTHORIZATION_ERROR"
    ORIGIN_REFUSED = "ORIGIN_REFUSED"
    INFRA_PROTOCOL_REQUIRED = "INFRA_PROTOCOL_REQUIRED"
    SUBPROTOCOL_UNSUPPORTED = "SUBPROTOCOL_UNSUPPORTED"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    DUPLICATE = "DUPLICATE"
    RATE_LIMITED = "RATE_LIMITED"
    TOO_LARGE = "TOO_LARGE"
    TOO_MANY_CONNECTIONS = "TOO_MANY_CONNECTIONS"
    DRAINING = "DRAINING"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    CAPABILITY_UNAVAILABLE = "CAPABILITY_UNAVAILABLE"
    FEATURE_DISABLED = "FEATURE_DISABLED"
    POLICY_BLOCKED = "POLICY_BLOCKED"
    SEQUENCE_GAP = "SEQUENCE_GAP"
    SEQUENCE_REGRESSION = "SEQUENCE_REGRESSION"
    POSITION_LOST = "POSITION_LOST"
    EXPIRED = "EXPIRED"
    TIMEOUT = "TIMEOUT"
    INTERNAL_ERROR = "INTERNAL_ERROR"


@dataclass(frozen=True, slots=True)
class ErrorExplanation:
    """The meaning of a code and its remedy, one sentence each."""

    meaning: str
    remedy: str
    retry: bool = False


EXPLANATIONS: Mapping[Code, ErrorExplanation] = {
    Code.OK: ErrorExplanation("The request was carried out.", "Nothing to do."),
    Code.DECODE_ERROR: ErrorExplanation(
        "The frame is not a sequence of envelopes in the negotiated wire format.",
        "Check the subprotocol and the framing; the offset names the first byte that could not be read.",
    ),
    Code.VALIDATION_ERROR: ErrorExplanation(
        "A field or an argument has the wrong type, form or value.",
        "Correct the field that the message names.",
    ),
    Code.UNAUTHENTICATED: ErrorExplanation(
        "The token is missing, malformed, expired or not signed by a key that this bus trusts.",
        "Send a valid token in the Authorization header or as a bearer subprotocol.",
    ),
    Code.TENANT_MISMATCH: ErrorExplanation(
        "The envelope names another tenant than the token.",
        "Leave the tenant out; the bus sets it from the token.",
    ),
    Code.AUTHORIZATION_ERROR: ErrorExplanation(
        "The token does not grant this operation here.",
        "Ask for a token whose grants cover the room and the operation.",
    ),
    Code.ORIGIN_REFUSED: ErrorExplanation(
        "The page's origin is not one that this bus serves.",
        "Add the origin to server.origins of the profile.",
    ),
    Code.INFRA_PROTOCOL_REQUIRED: ErrorExplanation(
        "Services speak protobuf on this bus.",
        "Connect with the subprotocol arqonbus.v1.protobuf and send binary frames.",
    ),
    Code.SUBPROTOCOL_UNSUPPORTED: ErrorExplanation(
        "None of the offered subprotocols is spoken here.",
        "Offer arqonbus.v1.protobuf or arqonbus.v1.json.",
    ),
    Code.NOT_FOUND: ErrorExplanation("What was asked for does not exist in this tenant.", "Check the name."),
    Code.CONFLICT: ErrorExplanation(
        "The thing exists already, or changed meanwhile.", "Read it again and decide."
    ),
    Code.DUPLICATE: ErrorExplanation("The id was used already.", "Nothing to do if it was a retry."),
    Code.RATE_LIMITED: ErrorExplanation(
        "More was sent than the limits of this identity allow.",
        "Wait for retry_after_ms and send more slowly.",
        retry=True,
    ),
    Code.TOO_LARGE: ErrorExplanation(
        "The frame, payload or header set exceeds its limit.", "Send less at once."
    ),
    Code.TOO_MANY_CONNECTIONS: ErrorExplanation(
        "This node holds as many connections as its profile allows.",
        "Connect again after Retry-After, or to another node.",
        retry=True,
    ),
    Code.DRAINING: ErrorExplanation(
        "This node is going away and takes no new work.",
        "Connect again; another node will answer.",
        retry=True,
    ),
    Code.STORAGE_UNAVAILABLE: ErrorExplanation(
        "The message could not be stored at the level that the profile declares.",
        "Publish again with the same id; a message that was stored after all is not stored twice.",
        retry=True,
    ),
    Code.CAPABILITY_UNAVAILABLE: ErrorExplanation(
        "The storage engine of this bus cannot do that.", "Use a backend that has the capability."
    ),
    Code.FEATURE_DISABLED: ErrorExplanation(
        "The profile has this feature switched off.", "Ask its operator."
    ),
    Code.POLICY_BLOCKED: ErrorExplanation(
        "The content policy does not let this pass.", "Remove what the message names."
    ),
    Code.SEQUENCE_GAP: ErrorExplanation(
        "The log has a hole between the two sequences that are named.", "Treat the range as lost."
    ),
    Code.SEQUENCE_REGRESSION: ErrorExplanation(
        "The log repeats or goes back at the two sequences that are named.", "Report it: this is a defect."
    ),
    Code.POSITION_LOST: ErrorExplanation(
        "The log no longer holds the position, or counts in another epoch.",
        "Read the state again from its source, then join without since.",
    ),
    Code.EXPIRED: ErrorExplanation("The token or the cursor is past its time.", "Get a new one."),
    Code.TIMEOUT: ErrorExplanation(
        "The request was not complete in the time that the profile allows.",
        "Connect again and send the whole request at once.",
        retry=True,
    ),
    Code.INTERNAL_ERROR: ErrorExplanation(
        "The bus failed in a way that it did not foresee.",
        "Give the incident id to the operator; the log has it.",
    ),
}


class BusError(Exception):
    """A refusal that reaches a user: a stable code and one sentence.

    `retry_after_ms` is a hint (0: none). `details` holds short machine-readable facts, such as the
    name of the argument at fault; keys and values are strings.
    """

    def __init__(
        self, code: Code, message: str, *, retry_after_ms: int = 0, details: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.details: Mapping[str, str] = details or {}


class DecodeError(BusError):
    """A frame that cannot be read. `offset` is the first byte at fault, or -1 when it is not known."""

    def __init__(self, message: str, offset: int = -1) -> None:
        details = {"offset": str(offset)} if offset >= 0 else {}
        super().__init__(Code.DECODE_ERROR, message, details=details)
        self.offset = offset


class Invalid(BusError):
    """A field of an envelope or an argument of a command that is not acceptable."""

    def __init__(self, field_name: str, message: str, code: Code = Code.VALIDATION_ERROR) -> None:
        super().__init__(code, message, details={"field": field_name})
        self.field_name = field_name


__all__ = ["EXPLANATIONS", "BusError", "Code", "DecodeError", "ErrorExplanation", "Invalid"]
