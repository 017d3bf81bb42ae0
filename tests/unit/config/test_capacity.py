"""The capacity bill of a profile, for preflight, the unit and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arqonbus.cli import main
from arqonbus.config import Settings, load
from arqonbus.config.capacity import ExpectedLoad, Figures, bill, memory_bill, memory_limit, projector_bill
from arqonbus.deploy.render import render

ROOT = Path(__file__).resolve().parents[3]
LOAD = ExpectedLoad(connections=25_000, publishes=1000, members=50, size=200, rooms=100, events=10)
MIB = 2**20


def settings(*overrides: str) -> Settings:
    return load("prod", root=ROOT, environ={}, overrides=overrides, secrets_of=()).settings


BASE = 192 * MIB + 1000 * (24 + 56) * 1024


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["limits.send_queue_bytes=1MiB"], BASE + 20 * MIB),
        (["limits.send_queue_bytes=4MiB"], BASE + 80 * MIB),
        (["limits.send_queue_bytes=1MiB", "storage.mode=degraded"], BASE + 20 * MIB + 64 * MIB),
        (["limits.send_queue_bytes=1MiB", "server.workers=2"], BASE + 20 * MIB + 192 * MIB),
    ],
)
def test_memory_follows_from_connections_queues_and_what_is_kept(overrides: list[str], expected: int) -> None:
    """Nothing else; the unit has that bill as its limit, with a quarter more before the kernel ends it."""
    overrides = ["server.max_connections=1000", *overrides]
    found = settings(*overrides)
    assert memory_bill(found) == expected
    assert memory_limit(found) == round(expected * 1.25)
    unit = render("systemd", load("prod", root=ROOT, environ={}, overrides=overrides, secrets_of=()))
    assert f"\nMemoryHigh={expected}\nMemoryMax={round(expected * 1.25)}\n" in unit


def test_tls_is_billed_where_it_ends() -> None:
    """In dev nobody speaks TLS to the bus."""
    overrides = ["server.max_connections=1000", "limits.send_queue_bytes=1MiB", "storage.mode=strict"]
    found = load("dev", root=ROOT, environ={}, overrides=overrides, secrets_of=()).settings
    assert memory_bill(found) == 192 * MIB + 1000 * 24 * 1024 + 20 * MIB


def test_a_projector_is_billed_for_two_full_batches() -> None:
    """Each with one event beyond it, of the largest size; the unit has that bill as its limit."""
    found = settings("protocol.max_frame_bytes=1MiB")
    figures = Figures(projector_bytes=100 * MIB, batch_copies=3)
    assert projector_bill(found, figures) == 100 * MIB + 2 * 9 * MIB * 3
    unit = render("systemd-projector", load("prod", root=ROOT, environ={}, secrets_of=()))
    expected = projector_bill(settings())
    assert f"\nMemoryHigh={expected}\nMemoryMax={round(expected * 1.25)}\n" in unit


@pytest.mark.parametrize(
    "override", ["storage.backend=memory", 'rooms=[{"match": "*", "durability": "memory"}]']
)
def test_rooms_that_a_node_holds_itself_have_no_limit(override: str) -> None:
    """Nothing in a profile says how many rooms there will be, and a node must not be ended for that."""
    assert memory_limit(settings(override)) is None
    resolved = load("prod", root=ROOT, environ={}, overrides=[override], secrets_of=())
    assert "Memory" not in render("systemd", resolved).replace("MemoryDenyWriteExecute", "")


def test_a_load_takes_nodes_stores_and_cores() -> None:
    """By hand: 100 rooms of 10 messages a second each hold their bound of 10 000, for 24 hours are more."""
    figures = Figures(delivery_us=5, entry_bytes=300, event_bytes=1000)
    found = bill(settings("server.max_connections=10000"), LOAD, figures)
    assert found.nodes == 3
    assert found.valkey_bytes == 100 * 10_000 * 500
    assert found.postgres_bytes_per_day == 864_000_000
    assert (found.deliveries, found.deliveries_per_core, found.cores) == (50_000, 200_000, 0.25)
    hour = bill(settings("storage.history.max_age=10s"), LOAD, figures)
    assert hour.valkey_bytes == 100 * 100 * 500


@pytest.mark.parametrize(
    "overrides",
    [["storage.backend=sqlite"], ["storage.history.max_age=0", "storage.history.max_messages=0"]],
)
def test_what_valkey_does_not_hold_or_no_profile_bounds_is_not_billed(overrides: list[str]) -> None:
    """It is said to be so, instead of a number."""
    assert bill(settings(*overrides), LOAD).valkey_bytes is None


def test_the_command_says_where_its_figures_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    """Documented ones are called so; in JSON too."""
    profiles = ["--profile", "prod", "--profiles-dir", str(ROOT / "profiles")]
    assert main(["capacity", *profiles, "--connections", "1000000"]) == 0
    said = capsys.readouterr().out
    assert "nodes of the bus       100  " in said
    assert "Documented figures from another host" in said
    assert main(["capacity", *profiles, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"]["source"] == "documented"
    assert told["bill"]["memory_bytes"] == memory_bill(settings())


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "many"])
def test_a_load_that_is_none_is_wrong_usage(wrong: str) -> None:
    """Before anything is computed."""
    with pytest.raises(SystemExit) as ended:
        main(["capacity", "--publishes", wrong])
    assert ended.value.code == 2
