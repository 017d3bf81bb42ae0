"""The commands of the projection on a running bus: for admins, in their tenant, as the phase allows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from arqonbus.client import Client, Rejected
from arqonbus.protocol.ids import new_ulid
from tests.contract.projection.records import NOON, arrivals, event, letter
from tests.integration.conftest import Bus, StartBus

P = "op.continuum.projector"
OPERATIONS = {
    "status": {},
    "dlq.list": {},
    "dlq.show": {"id": "x"},
    "dlq.discard": {"id": "x", "reason": "y"},
    "get": {"agent_id": "a", "episode_id": new_ulid()},
    "list": {},
    "dlq.replay": {"id": "x"},
    "project_event": {"event": {}},
    "backfill": {},
    "rebuild": {},
}
FROM_SHADOW, FROM_READ_ONLY = tuple(OPERATIONS)[:4], tuple(OPERATIONS)[:6]


@pytest.fixture
async def bus(start_bus: StartBus) -> Bus:
    return await start_bus("projector.phase=enforced", "storage.backend=sqlite")


@pytest.fixture
async def admin(bus: Bus) -> Client:
    return await bus.client("root", role="admin")


async def _code(work: Any) -> str:
    with pytest.raises(Rejected) as caught:
        await work
    return str(caught.value.code)


def _fill(bus: Bus, *tenants: str, episodes: int = 3) -> Any:
    made = [event(n, n, episode=n, tenant=tenant) for tenant in tenants for n in range(episodes)]
    return bus.node.services.projection.project(arrivals(*made), [letter(1, tenant) for tenant in tenants])


def _event(**fields: Any) -> dict[str, Any]:
    sound = {
        "event_id": new_ulid(),
        "event_type": "episode.updated",
        "tenant_id": "demo",
        "agent_id": "agent-1",
        "episode_id": new_ulid(),
        "source_ts": "2026-03-15T12:00:00Z",
        "schema_version": 1,
        "payload": {"content_ref": "ram://1", "tags": ["a"], "metadata": {"big": 2**60, "f": 1e300}},
    }
    return sound | fields


@pytest.mark.parametrize(
    ("phase", "there"),
    [
        ("emit_only", ()),
        ("shadow", FROM_SHADOW),
        ("read_only", FROM_READ_ONLY),
        ("replay", tuple(OPERATIONS)),
        ("enforced", tuple(OPERATIONS)),
    ],
)
async def test_the_phase_decides_what_is_there(
    start_bus: StartBus, phase: str, there: tuple[str, ...]
) -> None:
    """Everything else is FEATURE_DISABLED, whatever its arguments."""
    bus = await start_bus(f"projector.phase={phase}", "storage.backend=sqlite")
    admin = await bus.client("root", role="admin")
    disabled = set()
    for name, arguments in OPERATIONS.items():
        try:
            await admin.command(f"{P}.{name}", arguments)
        except Rejected as refused:
            if refused.code == "FEATURE_DISABLED":
                disabled.add(name)
    assert disabled == set(OPERATIONS) - set(there)


async def test_a_bus_without_a_store_says_so(bus: Bus, admin: Client) -> None:
    """CAPABILITY_UNAVAILABLE for everything, the audit too."""
    bus.node.services = replace(bus.node.services, projection=None)
    for name, arguments in OPERATIONS.items():
        assert await _code(admin.command(f"{P}.{name}", arguments)) == "CAPABILITY_UNAVAILABLE"
    assert await _code(admin.command("op.audit.list")) == "CAPABILITY_UNAVAILABLE"


async def test_only_admins_may(bus: Bus) -> None:
    """Not even look."""
    user = await bus.client("alice")
    for name, arguments in OPERATIONS.items():
        assert await _code(user.command(f"{P}.{name}", arguments)) == "AUTHORIZATION_ERROR"
    assert await _code(user.command("op.audit.list")) == "AUTHORIZATION_ERROR"


async def test_an_admin_sees_and_changes_its_tenant_only(bus: Bus, admin: Client) -> None:
    """The same ids, asked for by the admin of another tenant, are not there, and cursors lead nowhere."""
    await _fill(bus, "demo")
    other = await bus.client("root", tenant="other", role="admin")
    status = await other.command(f"{P}.status")
    assert set(status["counts"].values()) == {0}
    assert status["books"]["arrived"] == 0
    assert (await other.command(f"{P}.list", {"cursor": f"demo:a:{new_ulid()}"}))["episodes"] == []
    assert (await other.command(f"{P}.dlq.list"))["dead_letters"] == []
    buried = letter(1).id
    first = event(0)
    for name, arguments in (
        ("dlq.show", {"id": buried}),
        ("dlq.replay", {"id": buried}),
        ("dlq.replay", {"id": buried, "event": _event(tenant_id="other")}),
        ("dlq.discard", {"id": buried, "reason": "mine now"}),
        ("get", {"agent_id": first.agent, "episode_id": first.episode}),
    ):
        assert await _code(other.command(f"{P}.{name}", arguments)) == "NOT_FOUND"
    assert (await other.command(f"{P}.rebuild", {"cursor": f"demo:a:{new_ulid()}"}))["episodes"] == 0
    code = await _code(other.command(f"{P}.project_event", {"event": _event()}))
    assert code == "TENANT_MISMATCH"
    assert (await admin.command("op.audit.list"))["entries"] == []
    assert {row["actor"] for row in (await other.command("op.audit.list"))["entries"]} == {"root"}


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("backfill", {"dry_run": "false"}, "dry_run"),
        ("rebuild", {"dry_run": 0}, "dry_run"),
        ("backfill", {"from_ts": "2026-03-15T12:00:00"}, "from_ts"),
        ("backfill", {"to_ts": 5}, "to_ts"),
        ("backfill", {"limit": 0}, "limit"),
        ("backfill", {"cursor": "nonsense"}, "cursor"),
        ("backfill", {"tenant_id": "other"}, "tenant_id"),
        ("list", {"limit": "5"}, "limit"),
        ("list", {"agent_id": "a b"}, "agent_id"),
        ("list", {"deleted": None}, "deleted"),
        ("get", {"agent_id": "a"}, "episode_id"),
        ("get", {"agent_id": "a", "episode_id": "b"}, "episode_id"),
        ("dlq.list", {"state": "closed"}, "state"),
        ("dlq.list", {"cursor": "x"}, "cursor"),
        ("dlq.discard", {"id": "x"}, "reason"),
        ("dlq.discard", {"id": "x", "reason": " "}, "reason"),
        ("dlq.discard", {"id": "x", "reason": "a\nb"}, "reason"),
        ("project_event", {"event": "text"}, "event"),
    ],
)
async def test_arguments_are_strictly_typed(
    admin: Client, name: str, arguments: dict[str, Any], field: str
) -> None:
    """And the one that is wrong is named."""
    with pytest.raises(Rejected) as caught:
        await admin.command(f"{P}.{name}", arguments)
    assert caught.value.code == "VALIDATION_ERROR"
    assert field in str(caught.value)


async def test_an_event_is_projected_by_hand_and_read_back(admin: Client) -> None:
    """Once, with its metadata as it was; what is no event is refused with its faults."""
    sent = _event()
    assert (await admin.command(f"{P}.project_event", {"event": sent}))["outcome"] == "projected"
    assert (await admin.command(f"{P}.project_event", {"event": sent}))["outcome"] == "duplicate"
    older = _event(episode_id=sent["episode_id"], source_ts="2026-03-15T11:00:00Z")
    assert (await admin.command(f"{P}.project_event", {"event": older}))["outcome"] == "stale"
    asked = {"agent_id": "agent-1", "episode_id": sent["episode_id"]}
    shown = (await admin.command(f"{P}.get", asked))["episode"]
    assert shown["metadata"] == sent["payload"]["metadata"]
    assert (shown["event_id"], shown["source_ts"]) == (sent["event_id"], "2026-03-15T12:00:00.000000Z")
    with pytest.raises(Rejected, match="source_ts is no time in UTC"):
        await admin.command(f"{P}.project_event", {"event": _event(source_ts="2026-03-15T12:00:00")})
    books = (await admin.command(f"{P}.status"))["books"]
    assert books == {
        "arrived": 3, "projected": 1, "duplicate": 1, "stale": 1, "dead_lettered": 0, "difference": 0
    }  # fmt: skip


async def test_pages_of_episodes_end_at_their_limit_or_size(bus: Bus, admin: Client) -> None:
    """Each episode once, however large they are."""
    large = [event(n, episode=n, metadata={"text": ["x" * 60_000] * 2}) for n in range(12)]
    await bus.node.services.projection.project(arrivals(*large), [])
    for limit in (5, 500):
        seen: list[str] = []
        arguments: dict[str, Any] = {"limit": limit}
        while True:
            page = await admin.command(f"{P}.list", arguments)
            assert len(page["episodes"]) <= min(limit, 5)
            seen += [each["episode_id"] for each in page["episodes"]]
            if "cursor" not in page:
                break
            arguments["cursor"] = page["cursor"]
        assert sorted(seen) == sorted(each.episode for each in large)
        assert len(seen) == 12


async def test_a_dead_letter_is_corrected_and_replayed(bus: Bus, admin: Client) -> None:
    """It is validated again, keeps its ids, and a second replay changes nothing."""
    good = _event()
    bad = good | {"schema_version": "1"}
    buried = letter(7, payload=json.dumps(bad).encode(), agent="agent-1", event=good["event_id"])
    await bus.node.services.projection.project([], [buried])
    asked = {"id": buried.id}
    with pytest.raises(Rejected, match="schema_version is text, and not a whole number"):
        await admin.command(f"{P}.dlq.replay", asked)
    shown = (await admin.command(f"{P}.dlq.show", asked))["dead_letter"]
    assert json.loads(shown["payload"]) == bad
    with pytest.raises(Rejected, match=r"event_id is .*a correction keeps that of the record"):
        await admin.command(f"{P}.dlq.replay", asked | {"event": good | {"event_id": new_ulid()}})
    assert (await admin.command(f"{P}.dlq.replay", asked | {"event": good}))["outcome"] == "projected"
    assert (await admin.command(f"{P}.dlq.replay", asked))["outcome"] == "replayed already"
    assert await _code(admin.command(f"{P}.dlq.discard", asked | {"reason": "late"})) == "CONFLICT"
    assert (await admin.command(f"{P}.dlq.list"))["dead_letters"] == []
    (ended,) = (await admin.command(f"{P}.dlq.list", {"state": None}))["dead_letters"]
    assert (ended["state"], ended["resolved_by"], ended["resolution"]) == ("replayed", "root", "corrected")
    rows = (await admin.command("op.audit.list"))["entries"]
    assert [row["action"] for row in rows] == ["dlq.replay"] * 4 + ["dlq.discard"]
    assert [row["outcome"].partition(":")[0] for row in rows] == [
        "refused", "refused", "projected", "replayed already", "refused"
    ]  # fmt: skip
    assert all(row["actor"] == "root" and row["arguments"]["id"] == buried.id for row in rows)


async def test_pages_of_dead_letters_follow_each_other(bus: Bus, admin: Client) -> None:
    """Each once, and the last page has no cursor."""
    await bus.node.services.projection.project([], [letter(n) for n in range(120)])
    seen: list[str] = []
    for limit, cursor in ((60, True), (50, True), (10, False)):
        arguments: dict[str, Any] = {"limit": limit, "cursor": seen[-1] if seen else ""}
        page = await admin.command(f"{P}.dlq.list", arguments)
        seen += [each["id"] for each in page["dead_letters"]]
        assert page.get("cursor") == (seen[-1] if cursor else None)
    assert seen == [letter(n).id for n in range(120)]


async def test_a_dead_letter_that_was_discarded_is_not_replayed(bus: Bus, admin: Client) -> None:
    """CONFLICT, with who discarded it and why."""
    await _fill(bus, "demo")
    asked = {"id": letter(1).id}
    await admin.command(f"{P}.dlq.discard", asked | {"reason": "a test of the agent's"})
    with pytest.raises(Rejected, match="was discarded by root: a test of the agent's"):
        await admin.command(f"{P}.dlq.replay", asked | {"event": _event()})


async def test_a_backfill_goes_step_by_step(bus: Bus, admin: Client) -> None:
    """With a cursor, half-open, and a dry run that changes nothing."""
    await _fill(bus, "demo", episodes=10)
    window = {"from_ts": NOON.isoformat(), "to_ts": NOON.replace(second=9).isoformat(), "limit": 4}
    steps = []
    arguments: dict[str, Any] = window | {"dry_run": True}
    while True:
        steps.append(await admin.command(f"{P}.rebuild", arguments))
        if "cursor" not in steps[-1]:
            break
        arguments["cursor"] = steps[-1]["cursor"]
    assert [step["episodes"] for step in steps] == [4, 4, 1]
    assert {step["changed"] for step in steps} == {0}
    done = await admin.command(f"{P}.backfill", {})
    assert (done["episodes"], done["changed"]) == (10, 0)
    page = await admin.command("op.audit.list", {"limit": 2})
    assert page["cursor"] == 2
    rest = await admin.command("op.audit.list", {"cursor": 2})
    assert [row["number"] for row in rest["entries"]] == [3, 4]
    assert rest["entries"][1]["outcome"] == "0 of 10 episodes changed, 0 have no event"


async def test_a_store_that_is_away_is_said_to_be(bus: Bus, admin: Client) -> None:
    """STORAGE_UNAVAILABLE, to be tried again; the bus goes on."""
    await bus.node.services.projection.close()
    for name in ("status", "list", "dlq.list"):
        assert await _code(admin.command(f"{P}.{name}")) == "STORAGE_UNAVAILABLE"
    assert (await admin.command("op.ping"))["pong"]
