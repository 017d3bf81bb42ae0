"""One connection as a state machine: bytes in, decisions out. No I/O, no clock of its own.

A session knows who is on the other side, what they may do and how much they may send. It reads frames
and sorts what is in them into publications, commands and direct messages, and it answers what is wrong.
What is accepted has been parsed once and is kept as the producer's bytes with the sender's stamp behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from arqonbus.bus.buckets import TokenBucket
from arqonbus.bus.frames import Close
from arqonbus.bus.quotas import Account
from arqonbus.bus.wire import Wire
from arqonbus.config import Settings
from arqonbus.config.rooms import Action
from arqonbus.protocol import replies, wire_json, wire_protobuf
from arqonbus.protocol.canonical import MAX_OVERHEAD_BYTES, check_canonical, check_size, is_canonical
from arqonbus.protocol.envelope import COMMAND, MAX_TIME_US, Envelope, check, is_plain
from arqonbus.protocol.errors import BusError, Code, DecodeError, Invalid
from arqonbus.protocol.ids import is_message_id
from arqonbus.protocol.names import is_name
from arqonbus.shield.tokens import Identity
from arqonbus.storage.ports import Item, RoomKey

MAX_CACHED_ROOMS = 1024
MAX_ECHOED_ID = 64  # characters of an id that is not valid, in the error about it
ACK_HEADER = "ack"

_item_of = partial(tuple.__new__, Item)  # half the cost of calling the named tuple
_NO_ITEMS: list[Item] = []


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Limits of one session. Rates are per second; 0: unlimited."""

    messages_per_second: int
    messages_burst: int
    bytes_per_second: int
    bytes_burst: int
    max_payload_bytes: int
    bad_frames: int

    @staticmethod
    def of(settings: Settings) -> SessionLimits:
        """Those of a profile."""
        limits = settings.limits
        return SessionLimits(
            messages_per_second=limits.messages_per_second,
            messages_burst=limits.messages_burst,
            bytes_per_second=limits.bytes_per_second,
            # A frame that may be sent at all must also fit the rate.
            bytes_burst=max(4 * limits.bytes_per_second, settings.protocol.max_frame_bytes),
            max_payload_bytes=settings.protocol.max_payload_bytes,
            bad_frames=limits.bad_frames,
        )


class Direct(NamedTuple):
    """One accepted message to a client. `data` carries the sender's stamp."""

    id: str
    recipient: str
    data: bytes
    ack: bool


@dataclass(slots=True)
class ReceivedFrames:
    """The content of some frames. `close` is set when the connection has to end after the answers.

    `publications`: accepted messages by room, in order. `silent`: ids of those whose producer wants no ack.
    """

    publications: dict[RoomKey, list[Item]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    commands: list[Envelope] = field(default_factory=list)
    directs: list[Direct] = field(default_factory=list)
    answers: list[Envelope] = field(default_factory=list)
    size: int = 0  # bytes of the frames
    claimed_us: int = 0  # the time that the newest envelope says it was made, if there is one
    close: tuple[Close, str] | None = None


# Judges what an identity publishes: True if it changed the message. Raises BusError for what may not pass.
Gate = Callable[[Identity, Envelope], bool]


class Gates(Protocol):
    """A judge of messages before they are published and of commands before they run."""

    decisions: Counter[tuple[str, str, str]]  # of the content policy, by rule, action and mode

    def of(self, room: str) -> Gate | None:
        """The gate of a room; None if there is none. A message to one client has the room ''."""

    def of_commands(self) -> Gate | None:
        """The gate of commands."""


class NoGates:
    """Everything passes."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str, str]] = Counter()

    def of(self, room: str) -> Gate | None:
        return None

    def of_commands(self) -> Gate | None:
        return None


class Session:
    """The state of one authenticated connection."""

    __slots__ = (
        "_bytes",
        "_gates",
        "_limits",
        "_messages",
        "_publish_to",
        "_room_grants",
        "_stamp",
        "accounts",
        "bad_frames",
        "client",
        "identity",
        "received",
        "rejected",
        "unknown_keys",
        "wire",
    )

    def __init__(
        self,
        client: str,
        identity: Identity,
        wire: Wire,
        limits: SessionLimits,
        room_grants: Callable[[str], frozenset[Action]],
        rejected: Counter[str],
        now: float,
        gates: Gates,
    ) -> None:
        """`room_grants`: what the profile grants everybody in a room. `rejected`: counts refusals by code."""
        self._room_grants = room_grants
        self._gates = gates
        self.client = client
        self.wire = wire
        self.received = 0
        self.rejected = rejected
        self.unknown_keys = 0
        self.bad_frames = 0
        self._publish_to: dict[str, RoomKey] = {}
        self.accounts: Sequence[Account] = ()  # that this connection shares with others
        self.reload(limits, now)
        self._stamp = wire_protobuf.sender_stamp(identity.tenant, client)
        self.identity = identity

    def become(self, identity: Identity) -> None:
        """Replace the identity after a token refresh and drop cached grants."""
        self.identity = identity
        self._publish_to = {}

    def reload(self, limits: SessionLimits, now: float) -> None:
        """Apply new limits and drop cached grants."""
        self._limits = limits
        self._messages = TokenBucket(limits.messages_per_second, limits.messages_burst, now)
        self._bytes = TokenBucket(limits.bytes_per_second, limits.bytes_burst, now)
        self._publish_to = {}

    def receive(self, frames: Sequence[bytes | str], now: float) -> ReceivedFrames:
        """Sort frames that came together. Nothing in them can raise: what is wrong becomes an answer."""
        intake = ReceivedFrames(size=sum(map(_bytes_of, frames)) if self.wire.json else sum(map(len, frames)))
        if self.wire.json:
            self._receive_json(frames, now, intake)
        else:
            self._receive_protobuf(frames, now, intake)
        return intake

    def charge(self, size: int, now: float) -> bool:
        """Charge bytes to every byte rate. False if one of them has too few."""
        return self._bytes.take_whole(size, now) and all(
            account.bytes.take_whole(size, now) for account in self.accounts
        )

    def may(self, action: Action, room: str) -> bool:
        """True if the token, or the room's rule in the profile, grants the action in the room."""
        return self.identity.grants.allows(action, room) or action in self._room_grants(room)

    def demand(self, action: Action, room: str) -> RoomKey:
        """The key of a room in which the action is granted. Raises AUTHORIZATION_ERROR otherwise."""
        if not is_name(room):
            raise Invalid("room", "room is not 1-128 of A-Z a-z 0-9 . _ -")
        if not self.may(action, room):
            raise BusError(Code.AUTHORIZATION_ERROR, f"the token does not grant {action} in room {room}")
        return RoomKey(self.identity.tenant, room)

    def _receive_protobuf(self, frames: Sequence[bytes | str], now: float, intake: ReceivedFrames) -> None:
        decoded: wire_protobuf.Decoded = []
        size = intake.size
        affordable = self.charge(size, now)
        max_bytes = self._limits.max_payload_bytes + MAX_OVERHEAD_BYTES
        beyond: list[str] = []
        for frame in frames:
            if isinstance(frame, str):
                self._wrong_type(Code.INFRA_PROTOCOL_REQUIRED, "protobuf in binary frames", intake)
                break
            try:
                if affordable:
                    decoded += wire_protobuf.decode(frame, max_bytes=max_bytes)
                else:
                    beyond += wire_protobuf.claimed_ids(frame)
            except DecodeError as error:
                self._bad_frame(error, intake)
                if intake.close is not None:
                    break
        if beyond:
            self._refuse_rest(beyond, size, intake)
        if decoded:
            claimed = decoded[-1][0].time_us
            intake.claimed_us = claimed if claimed < MAX_TIME_US else 0  # no clock shows that: it is refused
        granted = self._granted(len(decoded), now)
        if granted < len(decoded):
            rest = [envelope.id for envelope, _ in decoded[granted:]]
            self._refuse_rest(rest, size * len(rest) // len(decoded), intake)
            del decoded[granted:]
        # The hot loop: one message after the other to the same room, in its everyday form.
        max_payload, stamp, publications = self._limits.max_payload_bytes, self._stamp, intake.publications
        last_room, key, items = "", None, _NO_ITEMS
        for envelope, raw in decoded:
            room = envelope.room
            if room != last_room:
                last_room = room
                key = self._publish_to.get(room)
                if key is not None:
                    items = publications.setdefault(key, [])
            if key is not None and len(raw) <= max_payload and is_plain(envelope, len(raw), room):
                items.append(_item_of((envelope.id, envelope.channel, raw + stamp)))
            else:
                self._sort(envelope, raw, intake)
                last_room = ""  # the room may have become known
        if not all(publications.values()):  # all that came to a room was refused
            intake.publications = {key: items for key, items in publications.items() if items}
        self.received += granted

    def _receive_json(self, frames: Sequence[bytes | str], now: float, intake: ReceivedFrames) -> None:
        lines: list[wire_json.JsonLine] = []
        size = intake.size
        affordable = self.charge(size, now)
        beyond: list[str] = []
        for frame in frames:
            if not isinstance(frame, str):
                self._wrong_type(Code.DECODE_ERROR, "JSON in text frames", intake)
                break
            try:
                if affordable:
                    lines += wire_json.decode(frame, max_payload_bytes=self._limits.max_payload_bytes)
                else:
                    beyond += wire_json.claimed_ids(frame)
            except DecodeError as error:
                self._bad_frame(error, intake)
                if intake.close is not None:
                    break
        if beyond:
            self._refuse_rest(beyond, size, intake)
        granted = self._granted(len(lines), now)
        for line in lines[:granted]:
            self.unknown_keys += line.unknown_keys
            if line.envelope is not None:
                intake.claimed_us = line.envelope.time_us
                self._sort(line.envelope, line.envelope.SerializeToString(), intake, canonical=True)
            elif line.error is not None:
                self._refuse(line.id, line.error, intake)
        self.received += granted
        if granted < len(lines):
            rest = [line.id for line in lines[granted:]]
            self._refuse_rest(rest, size * len(rest) // len(lines), intake)

    def _sort(
        self, envelope: Envelope, raw: bytes, intake: ReceivedFrames, *, canonical: bool = False
    ) -> None:
        """`canonical`: the bytes were made here, of the envelope."""
        ack = envelope.kind == COMMAND or envelope.headers.get(ACK_HEADER) != "none"
        try:
            check_size(envelope, raw, self._limits.max_payload_bytes)
            if not (canonical or is_canonical(envelope, raw)):
                check_canonical(envelope, raw, strict=self._is_judged(envelope))
            check(envelope)
            if envelope.tenant and envelope.tenant != self.identity.tenant:
                raise Invalid("tenant", "the tenant is not the token's; leave it out", Code.TENANT_MISMATCH)
            if envelope.kind == COMMAND:
                self._pass(self._gates.of_commands(), envelope)
                intake.commands.append(envelope)
            elif envelope.recipient:
                if not self.identity.grants.allows_somewhere("publish"):
                    raise BusError(Code.AUTHORIZATION_ERROR, "the token grants publish in no room")
                if self._pass(self._gates.of(""), envelope):
                    raw = envelope.SerializeToString()
                intake.directs.append(Direct(envelope.id, envelope.recipient, raw + self._stamp, ack))
            else:
                key = self._publishable(envelope.room)
                if self._pass(self._gates.of(envelope.room), envelope):
                    raw = envelope.SerializeToString()  # encoded again, so that no replaced byte stays
                item = Item(envelope.id, envelope.channel, raw + self._stamp)
                intake.publications.setdefault(key, []).append(item)
                if not ack:
                    intake.silent.add(envelope.id)
        except BusError as error:
            self._refuse(envelope.id, error, intake, ack=ack)

    def _is_judged(self, envelope: Envelope) -> bool:
        """True if a gate inspects publishes, so that fields which it cannot see are refused."""
        return envelope.kind != COMMAND and self._gates.of(envelope.room) is not None

    def _pass(self, gate: Gate | None, envelope: Envelope) -> bool:
        """Pass the envelope through the gate. True if the gate changed it. Raises BusError if refused."""
        return gate is not None and gate(self.identity, envelope)

    def _publishable(self, room: str) -> RoomKey:
        key = self._publish_to.get(room)
        if key is None:
            key = self.demand("publish", room)
            if self._gates.of(room) is not None:  # what is remembered passes without being looked at
                return key
            if len(self._publish_to) >= MAX_CACHED_ROOMS:
                self._publish_to.clear()
            self._publish_to[room] = key
        return key

    def _refuse(self, message_id: str, error: BusError, intake: ReceivedFrames, *, ack: bool = True) -> None:
        self.rejected[error.code] += 1
        if is_message_id(message_id):
            answer = replies.refusal(error, message_id) if ack else replies.error_signal(error, message_id)
        else:
            answer = replies.error_signal(error)
            if message_id and message_id[:MAX_ECHOED_ID].isprintable():
                answer.status.details["id"] = message_id[:MAX_ECHOED_ID]
        intake.answers.append(answer)

    def _granted(self, messages: int, now: float) -> int:
        """Number of envelopes that the rates allow, from the first on. Their bytes were charged before."""
        granted = self._messages.take(messages, now)
        for account in self.accounts:
            granted = account.messages.take(granted, now)
        return granted

    def _refuse_rest(self, ids: Sequence[str], size: int, intake: ReceivedFrames) -> None:
        """Refuse what is beyond the rates; after the hint all of it would be granted."""
        buckets = [(self._messages, self._bytes), *((each.messages, each.bytes) for each in self.accounts)]
        wait = max(max(messages.wait_ms(len(ids)), sizes.wait_ms(size)) for messages, sizes in buckets)
        error = BusError(Code.RATE_LIMITED, "more than the limits allow", retry_after_ms=wait)
        for message_id in ids:
            self._refuse(message_id, error, intake)

    def _wrong_type(self, code: Code, spoken: str, intake: ReceivedFrames) -> None:
        """A frame of the other wire's type: one error, then the end."""
        error = BusError(code, f"this connection speaks {spoken}")
        self.rejected[code] += 1
        intake.answers.append(replies.error_signal(error))
        intake.close = (Close.WRONG_TYPE, error.message)

    def _bad_frame(self, error: DecodeError, intake: ReceivedFrames) -> None:
        self.rejected[error.code] += 1
        self.bad_frames += 1
        intake.answers.append(replies.error_signal(error))
        if self.bad_frames >= self._limits.bad_frames:
            intake.close = (Close.POLICY, "too many frames that could not be read")


def _bytes_of(frame: bytes | str) -> int:
    """As on the wire: of text, in UTF-8."""
    return len(frame) if isinstance(frame, bytes) or frame.isascii() else len(frame.encode())


__all__ = ["Direct", "Gate", "Gates", "NoGates", "ReceivedFrames", "Session", "SessionLimits"]
