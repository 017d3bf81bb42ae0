"""The runbooks whose faults need servers, worked through from top to bottom on a small real deployment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults import disk
from tests.runbooks.outages import OUTAGES
from tests.runbooks.runbook import RUNBOOKS, parse
from tests.runbooks.scenes import SCENES
from tests.runbooks.stack import Stack
from tests.runbooks.watch import hurried, watching
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.processes import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

STAGED = {**SCENES, **OUTAGES}
ALERTS = {file.stem for file in (RUNBOOKS / "alerts").glob("*.md")}
FIRE_SECONDS = CLEAR_SECONDS = 60.0  # the longest window is 9 s here; a machine under load takes longer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server of a worker; each scene has a database of its own in it."""
    with running_postgres() as server:
        yield server


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(f"runbook {name}")) for name in STAGED]
)
def test_the_commands_make_the_fault_clear(name: str, tmp_path: Path, postgres: PostgresServer) -> None:
    """The fault is seen where the runbook says, and is gone where it says so. What has the name of an alert
    makes it fire at first, by a real Prometheus with real figures, and makes it end.
    """
    if name == "disk-full" and disk.why_not():
        pytest.skip(disk.why_not())
    (file,) = RUNBOOKS.rglob(f"{name}.md")
    commands = parse(file.read_text("utf-8")).commands
    with STAGED[name](tmp_path, postgres) as one, ExitStack() as ending:
        watched = ending.enter_context(watching(one, tmp_path / "prometheus")) if name in ALERTS else None
        if watched is not None:
            wait_until(lambda: name in watched.firing(), f"{name} to fire", FIRE_SECONDS)
        for command in commands:
            command.run(tmp_path, one.environ)
        if watched is not None:
            # Not because nobody tells of it any more.
            wait_until(lambda: watched.healthy() == running(one), "Prometheus to reach all that runs")
            wait_until(lambda: name not in watched.firing(), f"the end of {name}", CLEAR_SECONDS)


def running(one: Stack) -> set[str]:
    """The jobs of Prometheus that there are now."""
    return {"arqonbus"} | ({"arqonbus-projector"} if one.projector.running else set())


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("up == 0", "up == 0"),
        ("rate(a_5m[5m]) > 2 * rate(a_5m[1h])", "rate(a_5m[3000ms]) > 2 * rate(a_5m[36000ms])"),
        ("a unless a offset 1h", "a unless a offset 36000ms"),
    ],
)
def test_only_windows_are_hurried(expression: str, expected: str) -> None:
    """Bounds and names stay."""
    assert hurried(expression) == expected
