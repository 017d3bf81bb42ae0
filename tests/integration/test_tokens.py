"""What a token grants is asked on every operation, and what it was signed with as long as it is in use."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from arqonbus.client import Client, Rejected
from arqonbus.commands.dispatch import COMMANDS
from arqonbus.config import Settings
from arqonbus.protocol import wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.replies import now_us
from arqonbus.shield.tokens import Claims, mint
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import BINARY, Raw
from tests.integration.waiting import until

# What a token without any grant may do: look after itself, and see that it sees nothing.
PUBLIC = {"op.ping", "op.status", "op.help", "op.auth.refresh", "op.rooms.list", "op.rooms.leave"}


def example(kind: Any) -> dict[str, Any]:
    """Valid arguments of a command: those that are required, each by its type."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
            values[field.encode_name] = of_type(msgspec.inspect.type_info(field.type))
    return values


def of_type(kind: Any) -> Any:
    match kind:
        case msgspec.inspect.StrType():
            return "x" * max(1, kind.min_length or 0)
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return max(1, kind.ge or 0)
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.ListType():
            return [of_type(kind.item_type)]
        case msgspec.inspect.UnionType():
            return of_type(kind.types[0])
        case msgspec.inspect.LiteralType():
            return kind.values[0]
        case msgspec.inspect.StructType():
            return example(kind.cls)
    return {}


async def outcome(client: Client, name: str) -> str:
    try:
        await client.command(name, example(COMMANDS[name].arguments))
    except Rejected as error:
        return str(error.error.code)
    return "OK"


async def test_every_command_is_refused_without_a_grant(start_bus: StartBus) -> None:
    """All of them, from the table that the bus itself uses; the public ones are declared here."""
    bus = await start_bus("storage.backend=sqlite")
    nobody = await bus.client("nobody", grants=())
    somebody = await bus.client("somebody")
    await somebody.publish("x", "not for everybody")
    outcomes = {name: await outcome(nobody, name) for name in COMMANDS}
    refused = {name for name, code in outcomes.items() if code == "AUTHORIZATION_ERROR"}
    assert refused == set(COMMANDS) - PUBLIC, outcomes
    assert (await nobody.command("op.rooms.list"))["rooms"] == []
    visible = {each["name"] for each in (await nobody.command("op.help"))["operations"]}
    assert not {name for name in visible if COMMANDS[name].who == "admin"}


async def test_every_kind_of_message_is_refused_without_a_grant(bus: Bus) -> None:
    """To a room, to a client, without an ack; and what is no message of clients at all."""
    other = await bus.client("other")
    raw = await Raw.open(bus.settings.server.port)
    await raw.upgrade(bus.token("nobody", grants=()), "arqonbus.v1.protobuf")
    await raw.envelopes()
    room = {"kind": MESSAGE, "room": "x"}
    for fields in (
        room,
        {**room, "channel": "c"},
        {**room, "headers": {"ack": "none"}},
        {"kind": MESSAGE, "recipient": other.welcome["client"]},
        {"kind": COMMAND, "name": "op.rooms.join", "payload": b'{"room": "x"}'},
    ):
        raw.send_frame(BINARY, wire_protobuf.frame_of([Envelope(id=new_ulid(), time_us=now_us(), **fields)]))
        assert [each.status.code for each in await raw.envelopes()] == ["AUTHORIZATION_ERROR"], fields
    for kind in set(Envelope.DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number) - {
        MESSAGE,
        COMMAND,
    }:
        envelope = Envelope(id=new_ulid(), time_us=now_us(), kind=kind, room="x")  # type: ignore[arg-type]
        raw.send_frame(BINARY, wire_protobuf.frame_of([envelope]))
        assert (await raw.envelopes())[0].status.code in ("VALIDATION_ERROR", "AUTHORIZATION_ERROR")


ROLES = 'roles=[{"name": "reader", "grants": [{"room": "orders.*", "allow": ["subscribe", "history"]}]}]'


async def test_roles_of_the_profile_grant(start_bus: StartBus) -> None:
    """Beside the token's own grants; one that the profile does not know grants nothing; and hot."""
    bus = await start_bus(ROLES)
    token = mint(bus.settings, Claims("demo", "alice", 600, roles=("reader", "unheard-of")))
    async with Client(bus.url, token) as client:
        await client.command("op.rooms.join", {"room": "orders.eu"})
        for name, room in (("op.rooms.join", "other"), ("op.rooms.presence", "orders.eu")):
            with pytest.raises(Rejected):
                await client.command(name, {"room": room})
        with pytest.raises(Rejected):
            await client.publish("orders.eu", 1)
        bus.service.reload(bus.settings.model_copy(update={"roles": ()}))
        await until(lambda: not next(iter(bus.node.clients.values())).rooms, 5)
        with pytest.raises(Rejected):
            await client.command("op.rooms.join", {"room": "orders.eu"})


def rotated(settings: Settings, seconds: float) -> Settings:
    """The same profile after its secret was exchanged; the old one is good for so many seconds."""
    until_ = datetime.now(UTC) + timedelta(seconds=seconds)
    jwt = settings.auth.jwt
    previous = jwt.previous_secret.model_copy(update={"value": jwt.secret, "valid_until": until_})
    jwt = jwt.model_copy(update={"secret": SecretStr("n3w" + "k9QzV7wB" * 6), "previous_secret": previous})
    return settings.model_copy(update={"auth": settings.auth.model_copy(update={"jwt": jwt})})


@pytest.mark.parametrize("transport", ["picows", "websockets"])
async def test_a_connection_ends_with_the_key_that_signed_its_token(
    start_bus: StartBus, transport: str
) -> None:
    """After a rotation those of the old secret are warned, may refresh to a new token, and end with it."""
    bus = await start_bus(f"server.transport={transport}")
    new = rotated(bus.settings, 3.0)
    raws = [await Raw.open(bus.settings.server.port) for _ in range(2)]
    for raw in raws:
        assert (await raw.upgrade(bus.token(), "arqonbus.v1.protobuf")).status == 101
        await raw.envelopes()
    bus.service.reload(new)
    stays, goes = raws
    for raw in raws:
        assert (await raw.envelopes())[0].name == "token.expiring"
    payload = msgspec.json.encode({"token": mint(new, Claims("demo", "alice", 600))})
    refresh = Envelope(id=new_ulid(), kind=COMMAND, name="op.auth.refresh", time_us=now_us(), payload=payload)
    stays.send_frame(BINARY, wire_protobuf.frame_of([refresh]))
    assert (await stays.envelopes())[0].status.code == "OK"
    assert (await goes.frame()).close_code == 4101
    assert (await (await Raw.open(bus.settings.server.port)).upgrade(bus.token())).status == 401
    assert not stays.reader.at_eof()


async def test_a_secret_that_is_gone_ends_its_connections(bus: Bus) -> None:
    """Exchanged without a time for the old one, as after a leak."""
    raw = await Raw.open(bus.settings.server.port)
    await raw.upgrade(bus.token(), "arqonbus.v1.protobuf")
    await raw.envelopes()
    new = rotated(bus.settings, 60)
    jwt = new.auth.jwt.model_copy(update={"previous_secret": type(new.auth.jwt.previous_secret)()})
    auth = new.auth.model_copy(update={"jwt": jwt})
    bus.service.reload(new.model_copy(update={"auth": auth}))
    assert (await raw.frame()).close_code == 4102


async def test_tokens_live_no_longer_than_the_profile_says(start_bus: StartBus) -> None:
    """Neither a new connection nor a refresh takes one that does."""
    bus = await start_bus("auth.jwt.max_lifetime=10m")
    loose = bus.settings.auth.jwt.model_copy(update={"max_lifetime": 0.0})
    lax = bus.settings.model_copy(update={"auth": bus.settings.auth.model_copy(update={"jwt": loose})})
    long = mint(lax, Claims("demo", "alice", 601))
    assert (await (await Raw.open(bus.settings.server.port)).upgrade(long)).status == 401
    client = await bus.client("alice", ttl=600)
    with pytest.raises(Rejected, match="lives longer than the 600 s"):
        await client.command("op.auth.refresh", {"token": long})
    await asyncio.wait_for(client.command("op.ping"), 5)
