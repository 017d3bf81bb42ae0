"""The gate for events before they enter the log: they pass, are redacted, or are refused.

Refused is memory itself where a reference belongs, and another tenant's name. Everything else that may be
wrong with an event is not the publisher's to wait for: it enters the log, and the projector puts it to the
dead letters, where it can be seen, corrected and replayed.
"""

from __future__ import annotations

from collections.abc import Set
from itertools import islice
from typing import Any

import msgspec

from arqonbus.continuum.reflex import Boundary
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.shield.policy import REDACTED
from arqonbus.shield.tokens import Identity

MOST_NAMED = 5


class EpisodeGate:
    """Judges what is published to the room of episodes. Raises POLICY_BLOCKED or TENANT_MISMATCH."""

    def __init__(self, boundary: Boundary, redacted_keys: Set[str] = frozenset()) -> None:
        self._boundary = boundary
        self._redacted_keys = redacted_keys

    def __call__(self, identity: Identity, envelope: Envelope) -> bool:
        """True if something in the event had to be redacted, and was."""
        try:
            event = msgspec.json.decode(envelope.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if isinstance(event, dict) and event.get("tenant_id", identity.tenant) != identity.tenant:
            raise BusError(Code.TENANT_MISMATCH, "tenant_id is not the tenant of the token")
        faults = list(islice(self._boundary.faults(event, "event"), MOST_NAMED))
        if faults:
            raise BusError(Code.POLICY_BLOCKED, "; ".join(faults))
        if not self._redact(event):
            return False
        envelope.payload = msgspec.json.encode(event)
        return True

    def _redact(self, value: Any) -> bool:
        """Replace values of redacted keys, at any depth. Whether there were any."""
        found = False
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in self._redacted_keys and inner != REDACTED:
                    value[key] = REDACTED
                    found = True
                else:
                    found |= self._redact(inner)
        elif isinstance(value, list):
            for inner in value:
                found |= self._redact(inner)
        return found


__all__ = ["EpisodeGate"]
