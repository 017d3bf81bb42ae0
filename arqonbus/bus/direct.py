"""Messages from client to client, on one node or between two. Never stored, so the ack says `memory`.

A client id ends with the id of its node, so that the node of any client is known without asking. A message to
another node is acked only after that node has found the client and queued the message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from arqonbus.bus.background import Background
from arqonbus.bus.peer import Peer
from arqonbus.bus.session import Direct
from arqonbus.protocol import replies, wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.ids import ULID_LENGTH, new_ulid
from arqonbus.storage.ports import Durability, EventLog, StorageError

ANSWER_TIMEOUT = 3.0
_SERVER_TIME_TAG = wire_protobuf.varint(Envelope.SERVER_TIME_US_FIELD_NUMBER << 3)

logger = logging.getLogger(__name__)


class _HandedMessage(msgspec.Struct, tag="hand", array_like=True):
    """A message handed to another node."""

    ticket: str
    origin: str
    tenant: str
    recipient: str
    data: bytes


class _Answer(msgspec.Struct, tag="answer", array_like=True):
    """The outcome of a direct message."""

    ticket: str
    found: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_HandedMessage | _Answer).decode


def client_id(node: str) -> str:
    """A new client id on a node; a valid name."""
    return f"{new_ulid()}.{node}"


def node_of(client: str) -> str:
    """The node in a client id; empty if it is none."""
    return client[ULID_LENGTH + 1 :] if client[ULID_LENGTH : ULID_LENGTH + 1] == "." else ""


class Directory:
    """Finds clients and hands them their direct messages."""

    def __init__(
        self,
        node: str,
        event_log: EventLog,
        clients: dict[str, Peer],
        ready: Callable[[Peer], None],
    ) -> None:
        self._node = node
        self._event_log = event_log
        self._clients = clients
        self._ready = ready
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._background = Background()

    def send(self, peer: Peer, message: Direct) -> None:
        """Deliver one direct message and answer its sender."""
        tenant = peer.session.identity.tenant
        node = node_of(message.recipient)
        if node == self._node or not self._event_log.shared:
            self._settle(
                peer, message, "found" if self._hand(tenant, message.recipient, message.data) else "absent"
            )
        elif not node:
            self._settle(peer, message, "absent")
        else:
            self._background.run(self._send_to_node(peer, message, node, tenant))

    def heard(self, data: bytes) -> None:
        """Bytes of another node."""
        try:
            note = _decode(data)
        except msgspec.DecodeError:
            logger.warning("another node sent something unreadable")
            return
        if isinstance(note, _Answer):
            waiting = self._waiting.pop(note.ticket, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(note.found)
        else:
            found = self._hand(note.tenant, note.recipient, note.data)
            self._background.run(self._reply(note.origin, _Answer(note.ticket, found)))

    async def close(self) -> None:
        """Give up what is under way."""
        await self._background.end()

    def _hand(self, tenant: str, recipient: str, data: bytes) -> bool:
        peer = self._clients.get(recipient)
        if peer is None or peer.closing or peer.session.identity.tenant != tenant:
            return False
        stamped = data + _SERVER_TIME_TAG + wire_protobuf.varint(replies.now_us())
        if peer.queue.wire.json:
            peer.answer(Envelope.FromString(stamped))
        else:
            peer.queue.answer(wire_protobuf.length_prefix(len(stamped)) + stamped)
        self._ready(peer)
        return True

    async def _send_to_node(self, peer: Peer, message: Direct, node: str, tenant: str) -> None:
        ticket = new_ulid()
        waiting = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        try:
            note = _HandedMessage(ticket, self._node, tenant, message.recipient, message.data)
            if not await self._event_log.direct(node, _encode(note)):
                self._settle(peer, message, "absent")
                return
            async with asyncio.timeout(ANSWER_TIMEOUT):
                found = await waiting
            self._settle(peer, message, "found" if found else "absent")
        except (StorageError, TimeoutError):
            self._settle(peer, message, "unknown")
        finally:
            self._waiting.pop(ticket, None)

    async def _reply(self, node: str, answer: _Answer) -> None:
        try:
            await self._event_log.direct(node, _encode(answer))
        except StorageError as failure:
            logger.warning("an answer did not reach another node", extra={"reason": str(failure)})

    def _settle(self, peer: Peer, message: Direct, outcome: Literal["found", "absent", "unknown"]) -> None:
        if outcome == "found":
            if not message.ack:
                return
            answer = replies.reply(message.id)
            answer.durability = Durability.MEMORY.value  # type: ignore[assignment]
        else:
            error = (
                BusError(Code.NOT_FOUND, "no such client is connected in this tenant")
                if outcome == "absent"
                else BusError(
                    Code.STORAGE_UNAVAILABLE,
                    "the recipient's node did not answer",
                    retry_after_ms=500,
                    details={"outcome": "unknown"},
                )
            )
            peer.session.rejected[error.code] += 1
            refuse = replies.refusal if message.ack else replies.error_signal
            answer = refuse(error, message.id)
        peer.answer(answer)
        self._ready(peer)


__all__ = ["Directory", "client_id", "node_of"]
