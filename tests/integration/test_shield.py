"""What is published is judged first: by the content policy, by schemas, by signatures, on a running bus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.protobuf import descriptor_pb2

from arqonbus.client import Client, Message, Rejected
from arqonbus.config import Resolved, load
from arqonbus.protocol import signatures
from arqonbus.protocol.errors import BusError
from arqonbus.protocol.signatures import MessageSigner
from arqonbus.service.bus import reload
from tests.integration.conftest import REPOSITORY, Bus, StartBus
from tests.integration.waiting import until

CARD = '{"name": "card", "pattern": "4[0-9]{15}", "action": "redact"}'
WORD = '{"name": "word", "pattern": "classified", "action": "block", "rooms": ["orders", "public.*"]}'
NUMBER = "4111111111111111"
AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"


def policy(mode: str, *more: str) -> list[str]:
    return [f"policy.mode={mode}", f"policy.rules=[{CARD}, {WORD}]", "policy.secrets=block", *more]


async def refusal(work: Any) -> BusError:
    with pytest.raises(Rejected) as caught:
        await work
    return caught.value.error


async def metric(bus: Bus, text: str) -> bool:
    async with httpx.AsyncClient() as http:
        return text in (await http.get(bus.http("/metrics"))).text


# -- content policy


async def test_what_the_policy_finds_is_redacted_or_blocked(start_bus: StartBus, wire: str) -> None:
    """Redacted for every reader and in the history; blocked with the place and the rule, and nowhere held."""
    bus = await start_bus(*policy("enforce"))
    client = await bus.client(wire=wire, role="admin")
    async with await client.subscribe("orders") as orders:
        await client.publish("orders", {"card": NUMBER, "n": 1}, headers={"note": f"card {NUMBER}"})
        blocked = await refusal(client.publish("orders", {"memo": f"key {AWS_KEY}"}))
        assert blocked.code == "POLICY_BLOCKED"
        assert blocked.details == {"rule": "aws-access-key", "where": "payload.memo"}
        assert AWS_KEY not in blocked.message
        assert (await refusal(client.publish("orders", b"classified \xff"))).code == "POLICY_BLOCKED"
        await client.publish("other", {"x": "classified"})
        await client.publish("orders", {"n": 2})
        first, second = await anext(orders), await anext(orders)
    assert first.json() == {"card": "[redacted]", "n": 1}
    assert dict(first.headers) == {"note": "card [redacted]"}
    assert second.json() == {"n": 2}
    held = [message.payload async for message in client.history("orders")]
    assert len(held) == 2
    assert not any(NUMBER.encode() in payload for payload in held)
    assert await metric(bus, 'arqonbus_policy_findings_total{action="redact",mode="enforce",rule="card"} 2.0')
    said = await client.command("op.policy.get")
    assert {"rule": "word", "action": "block", "mode": "enforce", "count": 1} in said["found"]


async def test_monitor_counts_and_changes_nothing(start_bus: StartBus) -> None:
    """So that a policy can be tried before it holds."""
    bus = await start_bus(*policy("monitor"))
    client = await bus.client()
    body = {"card": NUMBER, "x": "classified", "key": AWS_KEY}
    await client.publish("orders", body)
    assert [message.json() async for message in client.history("orders")] == [body]
    assert await metric(bus, 'arqonbus_policy_findings_total{action="block",mode="monitor",rule="word"} 1.0')


async def test_direct_messages_and_commands_are_judged_too(start_bus: StartBus) -> None:
    """A message to one client, and the arguments of a command, as those of the room that they name."""
    heard: list[Message] = []
    bus = await start_bus(*policy("enforce"), "storage.backend=sqlite")
    alice = await bus.client("alice")
    bob = await bus.client("bob", on_direct=heard.append)
    await alice.send(bob.welcome["client"], {"card": NUMBER})
    assert (await refusal(alice.send(bob.welcome["client"], {"key": AWS_KEY}))).code == "POLICY_BLOCKED"
    await until(lambda: len(heard) == 1, 5)
    assert heard[0].json() == {"card": "[redacted]"}
    group = {"room": "orders", "group": "g"}
    await alice.publish("orders", 1)
    await alice.command("op.groups.ensure", group)
    jobs = (await alice.command("op.groups.read", {**group, "consumer": "c", "limit": 1}))["jobs"]
    nack = {
        **group,
        "consumer": "c",
        "epoch": jobs[0]["message"]["epoch"],
        "sequence": jobs[0]["message"]["sequence"],
    }
    refused = await refusal(alice.command("op.groups.nack", {**nack, "reason": "it was classified"}))
    assert (refused.code, refused.details["where"]) == ("POLICY_BLOCKED", "payload.reason")
    await alice.command("op.auth.refresh", {"token": bus.token("alice")})


async def test_a_policy_is_taken_over_whole_or_not_at_all(start_bus: StartBus) -> None:
    """op.policy.reload validates, then swaps; a bad one changes nothing, and the connections stay."""
    bus = await start_bus(*policy("off"))
    server, telemetry = bus.settings.server, bus.settings.telemetry
    kept = [
        f"state_dir={bus.settings.state_dir}",
        f"server.port={server.port}",
        f"telemetry.port={telemetry.port}",
    ]

    def profile(*overrides: str) -> Resolved:
        return load("dev", root=REPOSITORY, environ={}, overrides=[*kept, *overrides])

    running, given = profile(*policy("off")), [""]

    def on_reload() -> Sequence[str]:
        nonlocal running
        running, changed = reload(bus.service, running, lambda: profile(*given))
        return changed

    bus.node.services = replace(bus.node.services, reload=on_reload)
    admin, user = await bus.client("root", role="admin"), await bus.client("alice")
    await user.publish("orders", "classified 1")
    given = policy("enforce")
    assert await admin.command("op.policy.reload") == {"changed": ["policy.mode"]}
    assert (await refusal(user.publish("orders", "classified 2"))).code == "POLICY_BLOCKED"
    large = [{"name": f"r{n}", "pattern": f"{n}x.{{990}}"} for n in range(150)]
    for rules in ('[{"name": "bad", "pattern": "("}]', json.dumps(large)):
        given = ["policy.mode=enforce", f"policy.rules={rules}"]
        assert (await refusal(admin.command("op.policy.reload"))).code == "CONFLICT"
        assert (await refusal(user.publish("orders", "classified 3"))).code == "POLICY_BLOCKED"
    assert (await refusal(user.command("op.policy.get"))).code == "AUTHORIZATION_ERROR"
    assert (await refusal(user.command("op.policy.reload"))).code == "AUTHORIZATION_ERROR"
    assert (admin.reconnects, user.reconnects) == (0, 0)


async def test_what_is_blocked_stands_in_the_audit(
    start_bus: StartBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who, in which room, by which rule, and how often; not what it was."""
    monkeypatch.setattr("arqonbus.service.gates.AUDIT_SECONDS", 0.1)
    bus = await start_bus(*policy("enforce"), "storage.backend=sqlite", "projector.phase=enforced")
    client = await bus.client("alice", role="admin")
    for _ in range(3):
        await refusal(client.publish("orders", "classified"))

    async def entries() -> list[dict[str, Any]]:
        return [
            e for e in (await client.command("op.audit.list"))["entries"] if e["action"] == "policy.block"
        ]

    found: list[dict[str, Any]] = []
    for _ in range(200):
        found = await entries()
        if sum(entry["arguments"]["count"] for entry in found) == 3:
            break
        await asyncio.sleep(0.05)
    assert sum(entry["arguments"]["count"] for entry in found) == 3
    last = found[-1]
    assert (last["actor"], last["arguments"]["room"], last["arguments"]["rule"]) == (
        "alice",
        "orders",
        "word",
    )
    assert "classified" not in json.dumps(found)


# -- schemas

ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "email": {"type": "string", "format": "email", "pattern": "(a+)+@"},
    },
    "required": ["id"],
    "additionalProperties": False,
}


def descriptors() -> bytes:
    """shop.Order with id and a map of labels."""
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    order = file.message_type.add(name="Order")
    order.field.add(name="id", number=1, type="TYPE_INT64", label="LABEL_OPTIONAL")
    order.field.add(name="note", number=2, type="TYPE_STRING", label="LABEL_OPTIONAL")
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()


@pytest.fixture
def schemas(tmp_path: Path) -> list[str]:
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    (tmp_path / "shop.binpb").write_bytes(descriptors())
    listed = [
        {"name": "order", "content_type": "application/vnd.order+json", "file": str(tmp_path / "order.json")},
        {
            "name": "proto",
            "content_type": "application/x-protobuf; schema=shop.Order",
            "file": str(tmp_path / "shop.binpb"),
            "message": "shop.Order",
        },
    ]
    rooms = [{"match": "orders.*", "schema": ["order", "proto"]}]
    return [f"schemas={json.dumps(listed)}", f"rooms={json.dumps(rooms)}"]


@pytest.mark.parametrize("strict", [True, False])
async def test_messages_are_valid_or_refused(start_bus: StartBus, schemas: list[str], strict: bool) -> None:
    """By their content type; place and rule are named, the value is not; strict refuses other types."""
    bus = await start_bus(*schemas, f"protocol.schema_strict={str(strict).lower()}")
    client = await bus.client()

    async def publish(
        payload: Any, content_type: str = "application/vnd.order+json", room: str = "orders.eu"
    ) -> None:
        await client.publish(room, payload, content_type=content_type)

    await publish({"id": 1})
    await publish({"id": "x"}, room="elsewhere")
    for payload, said in (
        ({"id": "s3cret"}, "payload.id is not valid for order: type"),
        ({"id": 1, "s3cret": 2}, "additionalProperties"),
        ({}, "required"),
        ({"id": 1, "email": "a" * 5000}, "payload.email is not valid"),
        (b'{"id": 1, "id": "s3cret"}', "every key once"),
        (b"\xff", "is not JSON"),
    ):
        error = await refusal(publish(payload))
        assert error.code == "VALIDATION_ERROR"
        assert said in error.message
        assert "s3cret" not in error.message.replace("payload.s3cret", "")
    protobuf = "Application/X-Protobuf;schema=shop.Order"
    await publish(b"\x08\x07\x12\x01a", protobuf)
    assert "is not a shop.Order" in (await refusal(publish(b"\x08", protobuf))).message
    unknown = publish(b"\x08\x07\x78\x01", protobuf)
    other = publish(b"anything", "text/plain")
    if strict:
        assert "does not know" in (await refusal(unknown)).message
        assert "none that this room declares" in (await refusal(other)).message
    else:
        await unknown
        await other


# -- signatures


class Key:
    """An Ed25519 key pair in PEM."""

    def __init__(self) -> None:
        key = Ed25519PrivateKey.generate()
        self.private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self.public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


async def test_signed_rooms_take_what_its_author_signed(start_bus: StartBus, tmp_path: Path) -> None:
    """Verified at the edge and kept for readers; nobody signs for others, nothing signed is changed."""
    alice, eve = Key(), Key()
    (tmp_path / "alice.pem").write_text(alice.public)
    signers = [
        {"tenant": "demo", "subject": "alice", "file": str(tmp_path / "alice.pem")},
        {"tenant": "demo", "subject": "eve", "pem": eve.public},
    ]
    rooms = '[{"match": "signed", "signature": true}]'
    bus = await start_bus(
        f"auth.signers={json.dumps(signers)}",
        f"rooms={rooms}",
        "policy.mode=enforce",
        f"policy.rules=[{CARD}]",
    )
    signer = MessageSigner(alice.private)
    writer = await bus.client("alice", signer=signer)
    async with await (await bus.client("bob")).subscribe("signed") as reader:
        await writer.publish("signed", {"n": 1}, name="counted")
        message = await anext(reader)
    key = signatures.public_key(alice.public)
    assert signatures.is_signed_by(message.envelope, "demo", key)
    message.envelope.name = "changed"
    assert not signatures.is_signed_by(message.envelope, "demo", key)

    plain, wrong = await bus.client("alice"), await bus.client("alice", signer=MessageSigner(eve.private))
    stranger = await bus.client("carol", signer=signer)
    other_tenant = await bus.client("alice", "other", signer=signer)
    assert "there is no signature" in (await refusal(plain.publish("signed", 1))).message
    for client in (wrong, stranger, other_tenant):
        error = await refusal(client.publish("signed", 1))
        assert (error.code, error.details["field"]) == ("VALIDATION_ERROR", "signature")
    assert (await refusal(writer.publish("signed", {"card": NUMBER}))).code == "POLICY_BLOCKED"
    await plain.publish("unsigned", 1)


async def test_a_signature_is_of_one_room_and_one_message(start_bus: StartBus) -> None:
    """What was signed for one place cannot be published in another, under another id, or as another type."""
    alice = Key()
    signers = json.dumps([{"tenant": "demo", "subject": "alice", "pem": alice.public}])
    bus = await start_bus(f"auth.signers={signers}", 'rooms=[{"match": "*", "signature": true}]')

    class Elsewhere(MessageSigner):
        """Signs, then changes what was signed."""

        change: tuple[str, Any]

        def sign(self, envelope: Any, tenant: str) -> None:
            super().sign(envelope, tenant)
            setattr(envelope, *self.change)

    signer = Elsewhere(alice.private)
    client: Client = await bus.client("alice", signer=signer)
    for change in (
        ("room", "b"),
        ("channel", "c"),
        ("name", "n"),
        ("content_type", "text/plain"),
        ("payload", b"2"),
        ("signature", b"x" * 64),
    ):
        signer.change = change
        assert "the signature is not yours" in (await refusal(client.publish("a", 1))).message, change
