"""The two wire formats behind one face, so that the rest of the bus never asks which it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from arqonbus.bus.frames import BINARY, TEXT, framed
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import Entry


class Wire(Protocol):
    """Envelopes in WebSocket frames. Every frame that is returned is complete."""

    subprotocol: str
    json: bool

    def entries(self, epoch: str, entries: Sequence[Entry]) -> bytes:
        """One frame of stored messages, stamped with their place in the log."""

    def encode(self, envelope: Envelope) -> bytes:
        """One envelope, ready to be joined with others by `join`."""

    def join(self, encoded: Iterable[bytes]) -> bytes:
        """One frame of encoded envelopes."""


class ProtobufWire:
    """Binary frames; the bytes of the producer are passed on as they are."""

    subprotocol = "arqonbus.v1.protobuf"
    json = False

    def entries(self, epoch: str, entries: Sequence[Entry]) -> bytes:
        return framed(wire_protobuf.stamped_frame(epoch, entries), BINARY)

    def encode(self, envelope: Envelope) -> bytes:
        raw = envelope.SerializeToString()
        return wire_protobuf.length_prefix(len(raw)) + raw

    def join(self, encoded: Iterable[bytes]) -> bytes:
        return framed(b"".join(encoded), BINARY)


class JsonWire:
    """Text frames; each stored message is transcoded once per batch, whatever the number of readers."""

    subprotocol = "arqonbus.v1.json"
    json = True

    def entries(self, epoch: str, entries: Sequence[Entry]) -> bytes:
        parse, stamped, encode = Envelope.FromString, wire_protobuf.stamped, wire_json.encode
        return self.join(
            [encode(parse(stamped(e.data, epoch, e.time_us, e.sequence))) for e in entries],
        )

    def encode(self, envelope: Envelope) -> bytes:
        return wire_json.encode(envelope)

    def join(self, encoded: Iterable[bytes]) -> bytes:
        return framed(b"\n".join(encoded), TEXT)


PROTOBUF: Wire = ProtobufWire()
JSON: Wire = JsonWire()
BY_SUBPROTOCOL = {wire.subprotocol: wire for wire in (PROTOBUF, JSON)}

__all__ = ["BY_SUBPROTOCOL", "JSON", "PROTOBUF", "JsonWire", "ProtobufWire", "Wire"]
