"""The episode gate: what is refused or redacted before it enters the log."""

import json
from typing import Any

import pytest

from arqonbus.continuum.events import ROOM, encode_event
from arqonbus.continuum.gate import EpisodeGate
from arqonbus.continuum.reflex import Boundary
from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError
from arqonbus.shield.policy import REDACTED
from tests.servers.episodes import event
from tests.unit.bus.people import identity, message, session

GATE = EpisodeGate(Boundary(), frozenset({"password", "card"}))
ACME = identity()


class OneGate:
    """The gates of a bus that judges nothing but episodes."""

    def of(self, room: str) -> EpisodeGate | None:
        return GATE if room == ROOM else None

    def of_commands(self) -> None:
        return None


def published(**payload: Any) -> Envelope:
    """A message with an event whose payload has these fields too."""
    given = json.loads(encode_event(event("acme")))
    given["payload"] |= payload
    return message(room=ROOM, payload=json.dumps(given).encode())


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"raw_content": "all of it"}, "event.payload.raw_content"),
        (
            {"metadata": {"deep": [{"embedding_vector": [1]}]}},
            "event.payload.metadata.deep[0].embedding_vector",
        ),
        ({"metadata": {"v": [0.5] * 33}}, "event.payload.metadata.v is a vector"),
        ({"content_ref": "data:text/plain;base64,AAAA"}, "event.payload.content_ref is an inline body"),
        ({"metadata": {"note": "x" * 70_000}}, "event.payload.metadata.note is larger"),
    ],
)
def test_memory_itself_is_refused_with_its_path(field: dict[str, Any], named: str) -> None:
    """POLICY_BLOCKED names the place, and not what stands there."""
    with pytest.raises(BusError) as refused:
        GATE(ACME, published(**field))
    assert refused.value.code == "POLICY_BLOCKED"
    assert named in refused.value.message
    assert "all of it" not in refused.value.message


def test_another_tenant_is_refused() -> None:
    """Whatever else is in the event."""
    with pytest.raises(BusError) as refused:
        GATE(identity(tenant="other"), published())
    assert refused.value.code == "TENANT_MISMATCH"


@pytest.mark.parametrize("payload", [b"", b"no json", b"[]", b"7", b'{"schema_version": "1"}'])
def test_what_is_merely_no_event_passes(payload: bytes) -> None:
    """The projector buries it, where it can be seen."""
    assert GATE(ACME, message(room=ROOM, payload=payload)) is False


def test_redaction_leaves_nothing_of_the_old_text_in_the_log() -> None:
    """Values of named keys are replaced at any depth; the message is made anew, stamps and all."""
    alice = session(gates=OneGate())
    secret = "c4nary"
    envelope = published(metadata={"password": secret, "list": [{"card": {"number": secret}}], "kept": 1})
    intake = alice.receive([wire_protobuf.frame_of([envelope])], 0.0)
    ((item,),) = intake.publications.values()
    assert secret.encode() not in item.data
    stored = json.loads(Envelope.FromString(item.data).payload)["payload"]["metadata"]
    assert stored == {"password": REDACTED, "list": [{"card": REDACTED}], "kept": 1}
    assert GATE(ACME, Envelope.FromString(item.data)) is False, "what is redacted is not redacted again"


def test_other_rooms_and_sound_events_are_left_alone() -> None:
    """Their bytes are the producer's, bit for bit."""
    alice = session(gates=OneGate())
    other = message(payload=b'{"password": "x", "raw_content": "x"}')
    sound = published(metadata={"a": 1})
    for envelope in (other, sound):
        intake = alice.receive([wire_protobuf.frame_of([envelope])], 0.0)
        ((item,),) = intake.publications.values()
        assert item.data.startswith(envelope.SerializeToString())
    for _ in range(2):  # a room that was published to is remembered, and is looked at all the same
        refused = alice.receive([wire_protobuf.frame_of([published(raw_content="x")])], 0.0)
        assert refused.answers[0].status.code == "POLICY_BLOCKED"
