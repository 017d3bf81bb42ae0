"""The runbooks whose faults need servers, worked through from top to bottom on a small real deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runbooks.runbook import RUNBOOKS, parse
from tests.runbooks.scenes import SCENES
from tests.servers.postgres import PostgresServer, running_postgres

pytestmark = pytest.mark.servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server of a worker; each scene has a database of its own in it."""
    with running_postgres() as server:
        yield server


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(f"runbook {name}")) for name in SCENES]
)
def test_the_commands_make_the_fault_clear(name: str, tmp_path: Path, postgres: PostgresServer) -> None:
    """The fault is seen where the runbook says, and is gone where it says so."""
    (file,) = RUNBOOKS.rglob(f"{name}.md")
    with SCENES[name](tmp_path, postgres) as environ:
        for command in parse(file.read_text("utf-8")).commands:
            command.run(tmp_path, environ)
