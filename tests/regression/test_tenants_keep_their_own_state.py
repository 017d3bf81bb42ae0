"""One tenant fills or breaks what is kept for all of them: the bus forgets another tenant's revocations, its
audited findings, or stops the projection of everybody's episodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arqonbus.client import Rejected
from arqonbus.continuum.events import ROOM, encode_event
from arqonbus.continuum.projector import GROUP
from arqonbus.protocol.envelope import COMMAND, MESSAGE, Envelope
from arqonbus.protocol.errors import BusError
from arqonbus.service import gates, revoking
from arqonbus.shield.tokens import Claims, mint
from arqonbus.storage.memory.log import MemoryLog
from arqonbus.storage.ports import FROM_BEGIN, MAX_GROUPS, GroupKey, LogListener, RoomKey, StorageError
from tests.contract.storage.conftest import append
from tests.integration.conftest import Bus, StartBus, settings_of
from tests.integration.raw import Raw
from tests.integration.waiting import until
from tests.servers.episodes import event
from tests.unit.bus.people import identity

SECRET = "AKIA" + "IOSFODNN7EXAMPLE"


async def status(bus: Bus, tenant: str, jti: str) -> int:
    token = mint(bus.settings, Claims(tenant, "somebody", 600, token_id=jti))
    return (await (await Raw.open(bus.settings.server.port)).upgrade(token)).status


async def test_revocations_of_one_tenant_do_not_end_those_of_another(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant that has as many as it may have is refused one more, and nothing is forgotten."""
    monkeypatch.setattr(revoking, "MAX_PER_TENANT", 5)
    acme = await bus.client("ops", "acme", role="admin")
    evil = await bus.client("ops", "evil", role="admin")
    await acme.command("op.auth.revoke", {"jti": "stolen"})
    for number in range(5):
        await evil.command("op.auth.revoke", {"jti": f"own-{number}"})
    with pytest.raises(Rejected, match="CONFLICT"):
        await evil.command("op.auth.revoke", {"jti": "one-more"})
    await evil.command("op.auth.revoke", {"jti": "own-3"})  # what is revoked can be revoked again
    assert await status(bus, "acme", "stolen") == 401
    assert [await status(bus, "evil", f"own-{number}") for number in range(5)] == [401] * 5
    assert await status(bus, "evil", "one-more") == 101
    await acme.command("op.auth.revoke", {"jti": "another"})
    assert await status(bus, "acme", "another") == 401


def test_findings_in_one_tenant_do_not_crowd_out_those_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the room that a command names in its envelope, which no grant covers, is no key of the audit."""
    monkeypatch.setattr(gates, "MAX_UNAUDITED", 10)
    judging = gates.ProfileGates(settings_of(tmp_path, "policy.mode=enforce", "policy.secrets=block"))
    of_commands, of_messages = judging.of_commands(), judging.of("orders")
    assert of_commands is not None
    assert of_messages is not None
    secret = json.dumps({"x": SECRET}).encode()
    for number in range(50):
        command = Envelope(kind=COMMAND, name="op.ping", room=f"r{number}", payload=secret)
        with pytest.raises(BusError, match="blocks"):
            of_commands(identity(tenant="evil"), command)
        message = Envelope(kind=MESSAGE, room=f"r{number}", payload=secret)
        with pytest.raises(BusError, match="blocks"):
            of_messages(identity(tenant="evil"), message)
    with pytest.raises(BusError, match="blocks"):
        of_messages(identity(tenant="victim"), Envelope(kind=MESSAGE, room="orders", payload=secret))
    assert list(judging.blocked["victim"]) == [("alice", "orders", "aws-access-key")]
    evil = judging.blocked["evil"]
    assert evil["alice", "", "aws-access-key"] == 50
    assert len(evil) == 11
    assert sum(evil.values()) == 100


@pytest.mark.parametrize("trouble", ["groups", "store"])
async def test_one_tenant_does_not_end_the_projection_of_others(
    start_bus: StartBus, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """Whether its room has all the groups that it may have, or its data cannot be used."""
    bus = await start_bus("storage.backend=sqlite", "projector.phase=replay")
    store = bus.node.groups.store
    room = RoomKey("aaa-evil", ROOM)
    if trouble == "groups":
        for number in range(MAX_GROUPS):
            await store.ensure(GroupKey(room, f"g{number}"), FROM_BEGIN, 0)
    else:
        ensure = store.ensure

        async def broken(group: GroupKey, start: int, max_deliveries: int) -> bool:
            if group == GroupKey(room, GROUP):
                raise StorageError("This room cannot be used.")
            return await ensure(group, start, max_deliveries)

        monkeypatch.setattr(store, "ensure", broken)
    projector = bus.service.projector
    assert projector is not None
    for tenant in ("aaa-evil", "good"):
        client = await bus.client("agent", tenant)
        await client.publish(ROOM, encode_event(event(tenant)), name="episode.created")
    admin = await bus.client("ops", "good", role="admin")

    async def is_projected() -> bool:
        return len((await admin.command("op.continuum.projector.list"))["episodes"]) == 1

    await until(is_projected)
    await until(lambda: projector.tenants == (2 if trouble == "groups" else 1))
    assert projector.counters.store_up


async def test_message_ids_of_one_tenant_do_not_push_out_those_of_another() -> None:
    """They are remembered by room, and rooms belong to tenants."""
    log = MemoryLog(dedup_max=10)
    await log.open(LogListener())
    await append(log, RoomKey("good", "orders"), "ours")
    for number in range(100):
        await append(log, RoomKey("evil", "orders"), f"theirs-{number}")
        await append(log, RoomKey("evil", f"orders-{number}"), "ours")
    assert (await append(log, RoomKey("good", "orders"), "ours")).duplicates == {0}
    await log.close()
