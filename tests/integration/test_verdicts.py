"""Preflight and `serve` give one verdict on a profile: what passes starts, what cannot start fails."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arqonbus.client import Client
from arqonbus.config import Resolved, Settings, load, with_dev_key
from arqonbus.preflight.decision import judge
from arqonbus.preflight.facts import Facts
from arqonbus.preflight.intake import Intake
from arqonbus.preflight.model import Phase
from arqonbus.service.bus import BusService
from arqonbus.shield.tokens import Claims, mint
from arqonbus.storage import engines
from arqonbus.storage.memory.log import MemoryLog
from arqonbus.storage.ports import StorageError
from tests.integration.conftest import REPOSITORY, settings_of
from tests.servers.processes import free_port

# The checks that judge by the same functions as a start; others may be stricter than a start is.
OF_A_START = {"ARQ-CFG-021", "ARQ-STO-004", "ARQ-STO-022", "ARQ-STO-023"}
NOWHERE = "127.0.0.1:1"  # a port on which nothing listens

_modes = st.sampled_from(["strict", "degraded"])
_rules = st.fixed_dictionaries(
    {"match": st.sampled_from(["*", "orders.*"])},
    optional={
        "mode": _modes,
        "durability": st.sampled_from(["memory", "hot", "durable"]),
        "durable_history": st.just("postgres"),
        "history": st.sampled_from(["off", {"max_messages": 5}]),
    },
)
profiles = st.fixed_dictionaries(
    {
        "environment": st.just("dev"),
        "storage": st.fixed_dictionaries(
            {"backend": st.sampled_from(["memory", "sqlite", "valkey"])},
            optional={"mode": _modes, "durability": st.sampled_from(["memory", "hot", "durable"])},
        ),
    },
    optional={
        "rooms": st.lists(_rules, max_size=2),
        "projector": st.fixed_dictionaries({"phase": st.sampled_from(["emit_only", "shadow", "enforced"])}),
        "workers": st.sampled_from([1, 1, 4]),
        "otlp_endpoint": st.just("http://127.0.0.1:4318"),
        "datastores": st.fixed_dictionaries(
            {},
            optional={
                "valkey": st.just({"url": f"valkey://{NOWHERE}"}),
                "postgres": st.just({"url": f"postgresql://arqonbus@{NOWHERE}/arqonbus"}),
            },
        ),
    },
)


def resolved_of(root: Path, profile: dict[str, Any]) -> Resolved:
    """The profile, written as a file and loaded like any other. YAML takes JSON."""
    profile = dict(profile)
    server = {"port": free_port(), "drain_seconds": 0, "workers": profile.pop("workers", 1)}
    telemetry = {"port": free_port()}
    if "otlp_endpoint" in profile:
        telemetry["otlp_endpoint"] = profile.pop("otlp_endpoint")
    profile |= {"server": server, "telemetry": telemetry, "state_dir": str(root / "state")}
    file = root / "profiles" / "any" / "profile.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(profile), "utf-8")
    return load("any", root=root, environ={})


def failed(resolved: Resolved, root: Path) -> set[str]:
    """The static checks that fail."""
    report = judge(Intake(resolved, root), Facts(gathered_at=0.0), phases=(Phase.STATIC,))
    assert not report.loaded.unread
    return {result.check.id for result in report.failures}


async def refused(served: Settings) -> bool:
    """Whether a bus refuses to start with these settings. An engine that does not answer is no refusal."""
    service = BusService(with_dev_key(served))
    try:
        await asyncio.wait_for(service.start(), 30)
    except ValueError:
        return True
    except StorageError:
        return False
    await service.stop()
    return False


@given(profiles)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_preflight_and_serve_agree_on_any_profile(profile: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        resolved = resolved_of(root, profile)
        assert asyncio.run(refused(resolved.settings)) == bool(failed(resolved, root) & OF_A_START)


@pytest.mark.parametrize(
    ("profile", "id"),
    [
        ({"workers": 4}, "ARQ-CFG-021"),
        ({"otlp_endpoint": "https://otel.acme.io:4318"}, "ARQ-CFG-021"),
        ({"storage": {"backend": "sqlite", "mode": "degraded"}}, "ARQ-STO-023"),
        ({"storage": {"backend": "valkey"}}, "ARQ-STO-004"),
    ],
)
async def test_what_serve_refuses_fails_preflight(profile: dict[str, Any], id: str, tmp_path: Path) -> None:
    resolved = resolved_of(tmp_path, {"environment": "dev", **profile})
    assert await refused(resolved.settings)
    assert id in failed(resolved, tmp_path)


def test_the_dev_profile_passes_in_a_fresh_clone() -> None:
    """It projects to a file beside the log, without Postgres."""
    resolved = load("dev", root=REPOSITORY, environ={})
    assert resolved.settings.projector.projects
    assert failed(resolved, REPOSITORY) == set()


async def test_an_engine_is_added_by_its_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bus serves with it, and preflight judges it by what the description says, not by its name."""
    fake = engines.StorageEngine(
        "fake", "Fake", lambda _settings, _context: MemoryLog(), persistent=False, groups=False, shared=True
    )
    monkeypatch.setitem(engines.ENGINES, fake.name, fake)
    made = settings_of(tmp_path, "projector.phase=shadow")
    chosen = made.model_copy(update={"storage": made.storage.model_copy(update={"backend": fake.name})})
    service = BusService(chosen)
    await service.start()
    try:
        token = mint(chosen, Claims("demo", "alice", 60))
        async with Client(service.url, token) as client, await client.subscribe("orders") as orders:
            await client.publish("orders", "hello")
            assert (await anext(aiter(orders))).json() == "hello"
    finally:
        await service.stop()
    base = load("dev", root=REPOSITORY, environ={})
    found = failed(dataclasses.replace(base, settings=chosen), REPOSITORY)
    assert {"ARQ-PRJ-001", "ARQ-STO-016"} <= found  # a shared engine and no Postgres
    lacking = dataclasses.replace(fake, shared=False, missing=lambda _settings: "nobody says where it is")
    monkeypatch.setitem(engines.ENGINES, fake.name, lacking)
    found = failed(dataclasses.replace(base, settings=chosen), REPOSITORY)
    assert "ARQ-STO-004" in found
    assert not {"ARQ-PRJ-001", "ARQ-STO-016"} & found
    with pytest.raises(ValueError, match="nobody says where it is"):
        await BusService(chosen).start()


def test_every_name_of_the_setting_is_described() -> None:
    allowed = Settings.model_json_schema()["$defs"]["Storage"]["properties"]["backend"]["enum"]
    assert set(allowed) == set(engines.ENGINES)
