"""More than anybody may send, and what should take for ever: others are served meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from arqonbus.client import Client, Rejected
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.adversarial.conftest import ProdBus
from tests.integration.raw import BINARY, TEXT, Raw

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("adversarial")]

SLOWEST_SECONDS = 4.0  # that another tenant may wait for an ack, on a busy machine


@asynccontextmanager
async def others_are_served(prod: ProdBus) -> AsyncIterator[None]:
    """A client of another tenant publishes all the while: each message is acked, and soon."""
    ended = asyncio.Event()
    waits: list[float] = []

    async def publish_on() -> None:
        async with prod.client("other", "green") as other:
            while not ended.is_set() or len(waits) < 5:
                began = time.monotonic()
                assert (await other.publish("calm", {"n": len(waits)})).durability == "durable"
                waits.append(time.monotonic() - began)

    publishing = asyncio.create_task(publish_on())
    try:
        yield
    finally:
        ended.set()
        await publishing
    assert max(waits) < SLOWEST_SECONDS


# -- expressions

LONG = 60_000
# What keeps a matcher busy that goes back, and what ends it: none of it, or one character more.
BUSY: dict[str, tuple[str, str, str]] = {
    "letters": ("a", "c", "b"),
    "choices": ("x", "z", "y"),
    "ends": ("1 ", "!", ""),
    "a token": ("eyJ", ".", ""),
    "a private key": ("-----BEGIN ", "", ""),
    "an url": ("://a:", "", ""),
    "base64": ("=A", "", ""),
    "a mail": ("a@", "", ""),
    "escapes": ("\\", "", ""),
    "not ascii": ("ａ", "", ""),
}


@pytest.mark.parametrize("case", BUSY)
async def test_expressions_that_go_back(prod: ProdBus, case: str) -> None:
    """Tens of them in a row, as a value, a key, a header, a text and bytes; the answer is that of RE2."""
    piece, miss, hit = BUSY[case]
    busy = piece * (LONG // len(piece.encode()))

    async def publish(text: str, **options: Any) -> str:
        try:
            await client.publish("judged.room", text, **options)
        except Rejected as refused:
            return refused.code
        return "OK"

    async with prod.client("mallory", "red") as client, others_are_served(prod):
        async with asyncio.timeout(60):
            work: list[Awaitable[str]] = [publish(busy + miss) for _ in range(10)]
            work += [publish({"x": [busy + miss], busy: 1}) for _ in range(5)]
            work += [publish((busy + miss).encode(), content_type=kind) for kind in ("text/plain", "")]
            work += [publish("short", headers={"x": piece * 200 + miss})]
            codes = set(await asyncio.gather(*work))
            assert codes <= {"OK", "POLICY_BLOCKED"}
            if case == "letters":
                assert await publish(busy + hit) == "POLICY_BLOCKED"
            if case == "ends":
                assert await publish("1 " * 100) == "POLICY_BLOCKED"


async def test_documents_that_are_slow_to_read(prod: ProdBus) -> None:
    """Deep, wide, full of escapes, of numbers and of keys: each is judged or refused, in time."""
    documents = [
        b"[" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"[" + b"[]," * 60_000 + b"[]]",
        b"{" + b",".join(b'"k%d":1' % n for n in range(15_000)) + b"}",
        b'{"a":1' + b',"a":1' * 20_000 + b"}",
        b'["' + b"\\u0061" * 30_000 + b'"]',
        b"[" + b"9" * 200_000 + b"]",
        b"[" + b"1e9999999," * 10_000 + b"0]",
        b'"' + b"\\ud800" * 10_000 + b'"',
    ]
    async with prod.client("mallory", "red") as client, others_are_served(prod):
        codes = []
        for document in documents:
            for content_type in (JSON_CONTENT, ""):
                try:
                    async with asyncio.timeout(10):
                        await client.publish("judged.room", document, content_type=content_type)
                    codes.append("OK")
                except Rejected as refused:
                    codes.append(refused.code)
    assert set(codes) <= {"OK", "POLICY_BLOCKED"}
    assert codes.count("POLICY_BLOCKED") >= 6


# -- messages

Send = Callable[[Raw, list[Envelope]], None]


def in_protobuf(raw: Raw, messages: list[Envelope]) -> None:
    raw.send_frame(BINARY, wire_protobuf.frame_of(messages))


def in_json(raw: Raw, messages: list[Envelope]) -> None:
    raw.send_frame(TEXT, b"\n".join(map(wire_json.encode, messages)))


def messages(count: int, room: str = "flood") -> list[Envelope]:
    return [Envelope(id=new_ulid(), kind=MESSAGE, room=room, time_us=now_us()) for _ in range(count)]


async def answers(raw: Raw, count: int) -> list[Envelope]:
    found: list[Envelope] = []
    while len(found) < count:
        found += await raw.envelopes()
    return found


@pytest.mark.parametrize(
    ("subprotocol", "send"), [("arqonbus.v1.protobuf", in_protobuf), ("arqonbus.v1.json", in_json)]
)
async def test_a_flood_of_messages(prod: ProdBus, subprotocol: str, send: Send) -> None:
    """From three connections of one identity: what is too much is refused with a hint that is true."""
    subject = f"flood-{subprotocol[-4:]}-{new_ulid()[-8:]}"
    rate = prod.settings.limits.identity.messages_per_second
    opened = [await prod.joined(subprotocol, subject=subject) for _ in range(3)]
    began = time.monotonic()
    async with others_are_served(prod):
        for _ in range(3):
            for raw in opened:
                send(raw, messages(rate))
        found = [answer for raw in opened for answer in await answers(raw, 3 * rate)]
    refused = [answer for answer in found if answer.status.code == "RATE_LIMITED"]
    taken = len(found) - len(refused)
    assert len(found) == 9 * rate
    assert {answer.status.code for answer in found} == {"OK", "RATE_LIMITED"}
    assert taken <= rate * (2 + time.monotonic() - began) + 1
    assert all(answer.status.retry_after_ms > 0 for answer in refused)
    await asyncio.sleep(min(answer.status.retry_after_ms for answer in refused[-10:]) / 1000)
    send(opened[0], messages(1))
    [answer] = await answers(opened[0], 1)
    assert answer.status.code == "OK"


async def test_a_flood_of_bytes(prod: ProdBus) -> None:
    """The largest payloads, one after the other, as fast as the line takes them."""
    size = prod.settings.protocol.max_payload_bytes
    raw = await prod.joined(subject="heavy", tenant="heavy")
    count = 12 * prod.settings.limits.identity.bytes_per_second // size
    body = json.dumps("x" * (size - 2)).encode()
    async with others_are_served(prod):
        for _ in range(count):
            one = messages(1, "heavy")[0]
            one.payload, one.content_type = body, JSON_CONTENT
            raw.send_frame(BINARY, wire_protobuf.frame_of([one]))
            await raw.writer.drain()
        found = await answers(raw, count)
    refused = [answer for answer in found if answer.status.code == "RATE_LIMITED"]
    assert refused
    assert all(answer.status.retry_after_ms > 0 for answer in refused)


# -- reloads


async def reloaded(admin: Client) -> list[str] | None:
    """What a reload changed; None where it is too soon for one."""
    try:
        return list((await admin.command("op.policy.reload", {}))["changed"])
    except Rejected as refused:
        if refused.code != "RATE_LIMITED":
            raise
        return None


async def test_a_flood_of_reloads(prod: ProdBus) -> None:
    """The profile is taken over once, by preflight's leave, and then not again so soon; by admins only."""
    async with prod.client("mallory", "red") as user:
        with pytest.raises(Rejected, match="AUTHORIZATION_ERROR"):
            await user.command("op.policy.reload", {})
    async with prod.client("root", "red", role="admin") as admin, others_are_served(prod):
        while (changed := await reloaded(admin)) is None:  # noqa: ASYNC110 - it is the bus that is asked
            await asyncio.sleep(0.5)
        assert changed == []
        for _ in range(20):
            with pytest.raises(Rejected) as refused:
                await admin.command("op.policy.reload", {})
            assert refused.value.code == "RATE_LIMITED"
            assert 0 < refused.value.error.retry_after_ms <= 5000
