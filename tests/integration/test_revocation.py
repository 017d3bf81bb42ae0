"""Tokens that are revoked are refused, and their connections end, on every node."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from arqonbus.client import Rejected
from arqonbus.service.bus import BusService
from arqonbus.shield.tokens import Claims, mint
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import Raw
from tests.integration.waiting import until
from tests.servers.valkey import running_server


async def opened(bus: Bus, token: str) -> Raw:
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(token, "arqonbus.v1.json")).status == 101
    await raw.frame()
    return raw


async def status(bus: Bus, token: str) -> int:
    return (await (await Raw.open(bus.settings.server.port)).upgrade(token)).status


def named(bus: Bus, subject: str, jti: str, tenant: str = "demo") -> str:
    return mint(bus.settings, Claims(tenant, subject, 600, token_id=jti))


async def test_the_file_is_read_again_when_it_changes(
    start_bus: StartBus, tmp_path: Path, transport: str
) -> None:
    """By jti, by subject and by tenant; connections of what is named are closed with 4102, others stay."""
    file = tmp_path / "revoked.yaml"
    file.write_text("[]\n")
    bus = await start_bus(f"auth.revoked={file}", f"server.transport={transport}")
    tokens = {
        "jti": named(bus, "alice", "leaked"),
        "sub": named(bus, "mallory", "one"),
        "tenant": named(bus, "carol", "two", "acme"),
        "fine": named(bus, "alice", "good"),
    }
    raws = {name: await opened(bus, token) for name, token in tokens.items()}
    file.write_text(
        "- jti: leaked\n- {tenant: demo, sub: mallory}\n"
        "- {tenant: acme, issued_before: 2100-01-01T00:00:00Z}\n"
        "- {tenant: demo, sub: alice, issued_before: 2020-01-01T00:00:00Z}\n"
        "- {jti: good, until: 2020-01-01T00:00:00Z}\n"
    )
    for name in ("jti", "sub", "tenant"):
        assert (await raws[name].frame()).close_code == 4102
        assert await status(bus, tokens[name]) == 401
    assert await status(bus, tokens["fine"]) == 101
    assert not raws["fine"].reader.at_eof()
    file.write_text("- {jti: 5}\n")
    await until(lambda: bus.service.admission._revoking._seen_file[1] == 11, 5)
    assert await status(bus, tokens["jti"]) == 401, "a file that cannot be read leaves the one of before"


async def test_a_revoked_token_cannot_be_used_to_refresh(bus: Bus) -> None:
    """A connection of another token of the same subject goes on, and cannot move to the revoked one."""
    admin = await bus.client("ops", role="admin")
    alice = await bus.client("alice")
    leaked = named(bus, "alice", "leaked")
    assert (await admin.command("op.auth.revoke", {"jti": "leaked"})) == {"revoked": {"jti": "leaked"}}
    with pytest.raises(Rejected) as caught:
        await alice.command("op.auth.refresh", {"token": leaked})
    assert caught.value.error.code == "UNAUTHENTICATED"
    assert (await alice.command("op.ping"))["pong"] is True


async def test_admins_revoke_in_their_own_tenant_alone(bus: Bus) -> None:
    """A subject of the same name, or a token of the same id, in another tenant is not meant."""
    admin = await bus.client("ops", role="admin")
    own, other = named(bus, "alice", "x"), named(bus, "alice", "x", "acme")
    raw = await opened(bus, own)
    await opened(bus, other)
    await admin.command("op.auth.revoke", {"sub": "alice"})
    assert (await raw.frame()).close_code == 4102
    await admin.command("op.auth.revoke", {"jti": "x"})
    assert (await status(bus, own), await status(bus, other)) == (401, 101)
    user = await bus.client("bob")
    for work, code in (
        (user.command("op.auth.revoke", {"sub": "ops"}), "AUTHORIZATION_ERROR"),
        (admin.command("op.auth.revoke", {}), "VALIDATION_ERROR"),
        (admin.command("op.auth.revoke", {"sub": "a", "jti": "b"}), "VALIDATION_ERROR"),
    ):
        with pytest.raises(Rejected) as caught:
            await work
        assert caught.value.error.code == code


async def test_everybody_includes_the_caller(bus: Bus) -> None:
    """After a leak of the key's use, all tokens of the tenant until now are void; a later one is good."""
    raw = await opened(bus, named(bus, "bob", "b"))
    other = await opened(bus, named(bus, "carol", "c", "acme"))
    admin = await bus.client("ops", role="admin")
    await admin.command("op.auth.revoke", {"everybody": True})
    assert (await raw.frame()).close_code == 4102
    assert not other.reader.at_eof()
    assert await status(bus, bus.token("dave")) == 401


@pytest.mark.servers
async def test_all_nodes_of_an_engine_follow(start_bus: StartBus, tmp_path: Path) -> None:
    """What an admin revokes on one node holds on the other, and on one that is started later."""
    with running_server(tmp_path / "valkey") as server:
        shared = ("storage.backend=valkey", f"datastores.valkey.url={server.url}")
        one, two = await start_bus(*shared), await start_bus(*shared)
        token = named(one, "mallory", "m")
        raw = await opened(two, token)
        admin = await one.client("ops", role="admin")
        await admin.command("op.auth.revoke", {"sub": "mallory"})
        assert (await raw.frame()).close_code == 4102
        assert await status(two, token) == 401
        three = await start_bus(*shared)
        await until_refused(three, token)


async def until_refused(bus: Bus, token: str) -> None:
    async with asyncio.timeout(5):
        while await status(bus, token) != 401:  # noqa: ASYNC110 - it is the bus that is asked
            await asyncio.sleep(0.05)


async def test_a_restart_forgets_nothing(start_bus: StartBus) -> None:
    """Where the log outlives the bus, so do revocations."""
    first = await start_bus("storage.backend=sqlite")
    admin = await first.client("ops", role="admin")
    token = named(first, "mallory", "m")
    await admin.command("op.auth.revoke", {"jti": "m"})
    await admin.close()
    await first.service.stop()
    again = BusService(first.settings)
    await again.start()
    try:
        await until_refused(first, token)
    finally:
        await again.stop()


async def test_a_bus_whose_file_cannot_be_read_does_not_start(start_bus: StartBus, tmp_path: Path) -> None:
    """No list is not an empty list."""
    with pytest.raises(ValueError, match=r"auth\.revoked names a file that cannot be read"):
        await start_bus(f"auth.revoked={tmp_path / 'none.yaml'}")


async def test_nobody_is_of_the_tenant_where_the_bus_keeps_its_own(bus: Bus) -> None:
    """Else its admin could read and delete what is revoked."""
    assert await status(bus, mint(bus.settings, Claims("arqonbus.shield", "x", 60, role="admin"))) == 401


@pytest.fixture(params=["picows", "websockets"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)
