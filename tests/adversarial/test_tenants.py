"""A tenant cannot learn of another, or touch it, by any operation and any name; logs stay what they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from arqonbus.client import Client, ClientError, Rejected
from arqonbus.commands.dispatch import COMMANDS
from arqonbus.protocol import wire_json, wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, REPLY, SIGNAL, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from tests.adversarial.conftest import ProdBus
from tests.integration.raw import BINARY, PING, TEXT, masked

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("adversarial")]

CANARY = "canary-of-blue"
ROOM, GROUP = "treasury", "tellers"


@dataclass
class Blue:
    """What the tenant that is attacked has: a room with a message, a group with a job, a client."""

    client: Client
    epoch: str
    sequence: int
    message: str
    cursor: str

    @property
    def name(self) -> str:
        """Its client id."""
        return str(self.client.welcome["client"])


@pytest.fixture
async def blue(prod: ProdBus) -> AsyncIterator[Blue]:
    async with prod.client("blue", "blue", role="admin") as client:
        await client.command("op.rooms.join", {"room": ROOM, "presence": True})
        await client.command("op.groups.ensure", {"room": ROOM, "group": GROUP, "start": "begin"})
        for _ in range(3):
            ack = await client.publish(ROOM, {"secret": CANARY}, channel="vault", name=CANARY)
        page = await client.command("op.history.get", {"room": ROOM, "limit": 1})
        given = {"room": ROOM, "group": GROUP, "consumer": "w"}
        await client.command("op.groups.read", {**given, "limit": 1})
        yield Blue(client, ack.epoch, ack.sequence, ack.id, str(page.get("cursor", "")))


def attempts(blue: Blue) -> list[tuple[str, dict[str, Any]]]:
    """Every operation with every argument that could point at what is blue's."""
    point: dict[str, Any] = {
        "room": ROOM, "group": GROUP, "consumer": "w", "epoch": blue.epoch, "sequence": blue.sequence,
        "sequences": [1, 2, 3], "cursor": blue.cursor, "channel": "vault", "client": blue.name,
        "since": {"epoch": blue.epoch, "sequence": 0}, "limit": 10, "id": blue.message, "ids": [blue.message],
        "tenant": "blue", "subject": "blue", "name": CANARY, "agent": "a", "episode": "e", "start": "begin",
    }  # fmt: skip
    found: list[tuple[str, dict[str, Any]]] = []
    for name, command in COMMANDS.items():
        if name in ("op.policy.reload", "op.auth.refresh"):  # of the whole bus, and with a token of one's own
            continue
        fields = [field for field in command.arguments.__struct_fields__ if field in point]
        found.append((name, {}))
        found.append((name, {field: point[field] for field in fields}))
        found.append((name, {field: point[field] for field in fields if field != "cursor"}))
        found += [(name, {**{f: point[f] for f in fields}, extra: "blue"}) for extra in ("tenant", "as")]
    return found


@pytest.mark.parametrize("role", ["user", "admin"])
async def test_every_operation(prod: ProdBus, blue: Blue, role: str) -> None:
    """Nothing of blue stands in any answer, and blue is as it was. What is made is the attacker's own."""
    before = await _of(blue)
    answers: list[str] = []
    async with prod.client("mallory", "red", role=role) as red:
        for name, arguments in attempts(blue):
            try:
                async with asyncio.timeout(5):
                    answers.append(_heard(await red.command(name, arguments)))
            except (ClientError, TimeoutError) as error:
                answers.append(f"{error!r} {error}")
    heard = "\n".join(answers)
    assert len(answers) > 3 * len(COMMANDS) - 10
    assert CANARY not in heard
    assert blue.message not in heard
    assert await _of(blue) == before


def _heard(answer: Any) -> str:
    """An answer as text, without what the attacker typed herself and the audit of her tenant repeats."""
    if isinstance(answer, dict) and "entries" in answer:
        answer = {**answer, "entries": [each for each in answer["entries"] if each["actor"] != "mallory"]}
    return json.dumps(answer, default=repr)


async def _of(blue: Blue) -> list[Any]:
    history = await blue.client.command("op.history.get", {"room": ROOM})
    groups = await blue.client.command("op.groups.list", {"room": ROOM})
    present = await blue.client.command("op.rooms.presence", {"room": ROOM})
    rooms = await blue.client.command("op.rooms.list", {})
    return [history, groups, present, rooms]


@pytest.mark.parametrize("subprotocol", ["arqonbus.v1.protobuf", "arqonbus.v1.json"])
async def test_a_message_of_another_tenant(prod: ProdBus, blue: Blue, subprotocol: str) -> None:
    """An envelope that names blue as its tenant is refused, whatever kind it is of."""
    raw = await prod.joined(subprotocol)
    for kind, code in (
        (MESSAGE, "TENANT_MISMATCH"),
        (COMMAND, "TENANT_MISMATCH"),
        (REPLY, "VALIDATION_ERROR"),
        (SIGNAL, "VALIDATION_ERROR"),
    ):
        envelope = Envelope(
            id=new_ulid(), kind=kind, tenant="blue", room=ROOM, name="op.ping", time_us=now_us()
        )
        if subprotocol.endswith("json"):
            raw.send_frame(TEXT, wire_json.encode(envelope))
        else:
            raw.send_frame(BINARY, wire_protobuf.frame_of([envelope]))
        [answer] = await raw.envelopes()
        assert answer.status.code == code


async def test_a_direct_message_to_another_tenant(prod: ProdBus, blue: Blue) -> None:
    """To red a client of blue is one that does not exist."""
    async with prod.client() as red:
        refusals = []
        for recipient in (blue.name, new_ulid() + blue.name[26:]):
            with pytest.raises(Rejected) as refused:
                await red.send(recipient, {"hello": 1})
            refusals.append((refused.value.code, str(refused.value)))
    assert refusals[0] == refusals[1]
    assert refusals[0][0] == "NOT_FOUND"


NAMES = {
    "a path": "../blue/treasury",
    "absolute": "/treasury",
    "a key": "tenant:blue:room:treasury",
    "a brace": "{blue}treasury",
    "a colon": "blue:treasury",
    "a star": "*",
    "a question": "treasur?",
    "a class": "[t]reasury",
    "a nul": "treasury\0",
    "a line": "treasury\r\nx",
    "an escape": "\x1b[2J",
    "a space": "treasury ",
    "a homoglyph": "trеasury",
    "full width": "ｔreasury",
    "zero width": "trea\u200bsury",
    "right to left": "\u202eyrusaert",
    "combining": "tréasury",
    "a percent": "%74reasury",
    "sql": "x'; DROP TABLE rooms; --",
    "lua": "x]] redis.call('FLUSHALL') --",
    "long": "x" * 129,
    "json": '{"a":1}',
    "a subject": "treasury.>",
    "a tilde": "~",
    "a dollar": "$JS.API",
    "empty": "",
    "surrogate pair": "💰",
    "a comma": "a,b",
}
FIELDS = {
    "op.rooms.join": "room", "op.rooms.info": "room", "op.rooms.create": "room", "op.rooms.delete": "room",
    "op.rooms.presence": "room", "op.history.get": "room", "op.groups.list": "room",
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
async def test_names_that_are_none(prod: ProdBus, blue: Blue, case: str) -> None:
    """In every field of a name, of every operation that has one: refused as invalid, and never looked up."""
    async with prod.client("mallory", "red", role="admin") as red:
        for name, field in FIELDS.items():
            if name == "op.history.get" and not NAMES[case]:
                continue  # without a room it is all of the tenant's
            with pytest.raises(Rejected) as refused:
                await red.command(name, {field: NAMES[case]})
            assert refused.value.code == "VALIDATION_ERROR"
        for arguments in ({"group": NAMES[case]}, {"group": "g", "consumer": NAMES[case]}):
            with pytest.raises(Rejected) as refused:
                await red.command("op.groups.read", {"room": "r", "consumer": "w", **arguments})
            assert (
                refused.value.code in ("VALIDATION_ERROR", "NOT_FOUND")
                if "consumer" in arguments
                else "VALIDATION_ERROR"
            )
    prod.lines()


LOGGED = [
    'a\r\n{"level":"error"}',
    "\x1b[31mred\x1b[0m",
    '"}\n{"level":"critical","message":"forged"}',
    "\u2028\u2029\x85",
    "\0",
]


@pytest.mark.parametrize("text", LOGGED)
async def test_log_lines_stay_lines(prod: ProdBus, text: str) -> None:
    """Whatever stands in paths, headers, names and payloads: a log line is one JSON object, and ours."""
    before = len(prod.lines())
    raw = await prod.raw()
    quoted = text.encode("unicode_escape").decode().replace(" ", "%20")
    await raw.upgrade(
        prod.token(),
        target=f"/v1/ws/{quoted}",
        headers=f"User-Agent: {quoted}\r\nX-Forwarded-For: {quoted}\r\n",
    )
    async with prod.client() as client:
        await client.publish("logs", {"x": text}, name=text, headers={"h": text})
        with pytest.raises(Rejected):
            await client.command(f"op.{text}", {"room": text})
        with pytest.raises(Rejected):
            await client.command("op.rooms.join", {"room": text})
    fresh = prod.lines()[before:]
    assert not [
        line for line in fresh if line["level"] in ("error", "critical") or line.get("message") == "forged"
    ]
    assert "\x1b" not in prod.log.read_text("utf-8")


async def test_a_storm_of_joins(prod: ProdBus) -> None:
    """Rooms beyond what a connection may be in are refused, and others are served."""
    most = prod.settings.limits.joins_per_connection
    async with prod.client() as red, prod.client("other", "green") as other:
        outcomes = await asyncio.gather(
            *(red.command("op.rooms.join", {"room": f"storm.{n}"}) for n in range(most + 50)),
            return_exceptions=True,
        )
        assert (await other.publish("calm", {"n": 1})).durability == "durable"
        codes = {error.code for error in outcomes if isinstance(error, Rejected)}
        assert codes <= {"RATE_LIMITED", "TOO_LARGE", "CONFLICT"}
        assert len([one for one in outcomes if isinstance(one, Exception)]) >= 50


async def test_a_flood_of_pings(prod: ProdBus) -> None:
    """From a client that reads none of the answers: what waits for it is bounded."""
    raw = await prod.joined()
    before = prod.memory()

    flood = b"".join(masked(PING, b"x" * 125) for _ in range(2000))
    try:
        async with asyncio.timeout(10):
            for _ in range(100):
                raw.send(flood)
                await raw.writer.drain()
    except (ConnectionError, TimeoutError):
        pass
    assert prod.memory() - before < 32 * 2**20
