"""The gates in front of publishing: signatures, schemas, the content policy, episodes.

One gate per room, put together when the room is first published to. A profile that asks for nothing in a room
has no gate there, and its messages go by unread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from arqonbus.bus.session import Gate
from arqonbus.config import Settings
from arqonbus.continuum.events import ROOM as EPISODES
from arqonbus.continuum.gate import EpisodeGate
from arqonbus.protocol.envelope import COMMAND, Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.service.boundary import boundary
from arqonbus.shield.policy import ContentPolicy, Inspector
from arqonbus.shield.schemas import SchemaRegistry
from arqonbus.shield.signatures import SignatureBook
from arqonbus.shield.tokens import Identity
from arqonbus.storage.ports import StorageError
from arqonbus.storage.projection import ProjectionStore

MAX_ROOMS = 4096  # whose gates are remembered
LOG_SECONDS = 10.0  # between two lines about findings of one rule in one tenant
MAX_SAID = 10_000  # tenants and rules of which that is remembered, before old ones are forgotten
AUDIT_SECONDS = 5.0
MAX_UNAUDITED = 1_000  # kinds of blocks of one tenant that wait for the audit; more are counted together
OTHERS = "(others)"  # the subject of those

Decision = tuple[str, str, str]  # rule, action, mode
Block = tuple[str, str, str]  # subject, room, rule

logger = logging.getLogger(__name__)


class ProfileGates:
    """The gates of a profile. Raises ValueError for a schema, a key or a policy that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self.decisions: Counter[Decision] = Counter()
        self.blocked: dict[str, Counter[Block]] = {}  # by tenant; not yet audited
        self.prepare(settings)()

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read another profile's schemas, keys and policy; what takes them over. Raises ValueError."""
        policy, registry = ContentPolicy(settings.policy), SchemaRegistry(settings)
        return partial(self._take_over, settings, policy, registry, SignatureBook(settings.auth.signers))

    def _take_over(
        self, settings: Settings, policy: ContentPolicy, registry: SchemaRegistry, signers: SignatureBook
    ) -> None:
        self._settings, self._policy, self._registry, self._signers = settings, policy, registry, signers
        self._episodes = EpisodeGate(boundary(settings), frozenset(settings.policy.redacted_keys))
        self._enforced = settings.policy.mode == "enforce"
        self._said: dict[tuple[str, str], float] = {}
        self._rooms: dict[str, Gate | None] = {}
        self._commands: Gate | None = None if settings.policy.mode == "off" else self._judge_command

    def of(self, room: str) -> Gate | None:
        """See Gates.of."""
        if room not in self._rooms:
            if len(self._rooms) >= MAX_ROOMS:
                self._rooms.clear()
            self._rooms[room] = self._gate(room)
        return self._rooms[room]

    def of_commands(self) -> Gate | None:
        """See Gates.of_commands."""
        return self._commands

    def _gate(self, room: str) -> Gate | None:
        """The gates of a room, as one chain. Messages without a room pass the policy alone."""
        inspector = self._policy.of(room)
        signed = bool(room) and self._settings.room_settings(room).signature
        schemas = self._registry.of(room) if room else None
        # The boundary blocks keys whether or not a policy is on, and its redaction is the policy's.
        episodes = self._episodes if room == EPISODES else None
        if inspector is None and not signed and schemas is None and episodes is None:
            return None

        def gate(identity: Identity, envelope: Envelope) -> bool:
            if signed:
                self._signers.check(envelope, identity.tenant, identity.subject)
            if schemas is not None:
                schemas.check(envelope)
            changed = inspector is not None and self._inspect(inspector, identity, envelope)
            if episodes is not None:
                changed |= episodes(identity, envelope)
            if changed and signed:
                raise BusError(Code.POLICY_BLOCKED, "the policy would redact a signed message; leave it out")
            return changed

        return gate

    def _judge_command(self, identity: Identity, envelope: Envelope) -> bool:
        """Arguments are judged as what is published to the room that they name would be."""
        if envelope.name.startswith("op.auth."):  # which carries a token, and keeps it from everybody
            return False
        inspector = self._policy.of(_room_argument(envelope.payload))
        return inspector is not None and self._inspect(inspector, identity, envelope)

    def _inspect(self, inspector: Inspector, identity: Identity, envelope: Envelope) -> bool:
        judgement = inspector.judge(envelope)
        if not judgement.findings:
            return False
        mode = self._settings.policy.mode
        for finding in judgement.findings:
            self.decisions[finding.rule, finding.action, mode] += 1
        blocked = judgement.blocked
        self._say(identity, envelope, (blocked or judgement.findings[0]).rule)
        if not self._enforced:
            return False
        if blocked is not None:
            self._note(identity, envelope, blocked.rule)
            raise BusError(
                Code.POLICY_BLOCKED,
                f"{blocked.where} holds what the policy blocks: {blocked.rule}",
                details={"rule": blocked.rule, "where": blocked.where},
            )
        if judgement.headers is not None:
            envelope.headers.clear()
            envelope.headers.update(judgement.headers)
        if judgement.payload is not None:
            envelope.payload = judgement.payload
        return judgement.headers is not None or judgement.payload is not None

    def _note(self, identity: Identity, envelope: Envelope, rule: str) -> None:
        """Keep it for the audit of the tenant. No tenant fills what is kept of another."""
        # No grant covers the room that a command names in its envelope.
        room = "" if envelope.kind == COMMAND else envelope.room
        blocks = self.blocked.setdefault(identity.tenant, Counter())
        if (identity.subject, room, rule) not in blocks and len(blocks) >= MAX_UNAUDITED:
            blocks[OTHERS, "", rule] += 1
        else:
            blocks[identity.subject, room, rule] += 1

    def _say(self, identity: Identity, envelope: Envelope, rule: str) -> None:
        now = time.monotonic()
        key = (identity.tenant, rule)
        if now - self._said.get(key, -LOG_SECONDS) < LOG_SECONDS:
            return
        if len(self._said) >= MAX_SAID:
            self._said = {key: at for key, at in self._said.items() if now - at < LOG_SECONDS}
        self._said[key] = now
        facts: dict[str, Any] = {"rule": rule, "mode": self._settings.policy.mode, "tenant": identity.tenant}
        logger.warning(
            "the policy found something", extra={**facts, "sub": identity.subject, "room": envelope.room}
        )


async def keep_audit(gates: ProfileGates, store_of: Callable[[], ProjectionStore | None]) -> None:
    """Write what was blocked to the audit, counted over AUDIT_SECONDS, until cancelled."""
    while True:
        await asyncio.sleep(AUDIT_SECONDS)
        store = store_of()
        if store is None:
            gates.blocked.clear()
            continue
        blocked, gates.blocked = gates.blocked, {}
        kinds = [(tenant, *kind) for tenant, blocks in blocked.items() for kind in blocks.items()]
        for tenant, (subject, room, rule), count in kinds:
            facts = {"room": room, "rule": rule, "count": count}
            try:
                await store.record(tenant, subject, "policy.block", facts, "blocked")
            except StorageError as error:
                logger.error(
                    "blocked messages are missing in the audit", extra={**facts, "reason": str(error)}
                )


def _room_argument(payload: bytes) -> str:
    try:
        arguments = msgspec.json.decode(payload) if payload else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    room = arguments.get("room") if isinstance(arguments, dict) else None
    return room if isinstance(room, str) else ""


__all__ = ["ProfileGates", "keep_audit"]
