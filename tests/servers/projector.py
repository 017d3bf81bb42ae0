"""A projector in a process of its own, on a Valkey and a Postgres that the test has."""

from __future__ import annotations

from pathlib import Path

from tests.servers.arqonbus import ArqonBusProcess
from tests.servers.postgres import ROLE, PostgresServer
from tests.servers.processes import free_port
from tests.servers.valkey import ValkeyServer


class ProjectorProcess(ArqonBusProcess):
    """`arqonbus projector run`."""

    command = ("projector", "run")

    def __init__(
        self, log: Path, valkey: ValkeyServer, postgres: PostgresServer, database: str, *overrides: str
    ) -> None:
        self.port = free_port()
        super().__init__(
            log, f"projector.telemetry_port={self.port}", *stores(valkey, postgres, database), *overrides
        )

    def start(self) -> ProjectorProcess:
        """Start it, and return when it projects."""
        self.launch()
        return self


def stores(valkey: ValkeyServer, postgres: PostgresServer, database: str) -> list[str]:
    """Overrides of a profile that keeps its log in this Valkey and its projection in this database."""
    return [
        "storage.backend=valkey",
        f"datastores.valkey.url={valkey.url}",
        f"datastores.postgres.url=postgresql://127.0.0.1:{postgres.port}/{database}",
        f"datastores.postgres.user={ROLE}",
        f"datastores.postgres.password={postgres.password}",
        "datastores.postgres.sslmode=disable",
        "projector.phase=replay",
    ]


__all__ = ["ProjectorProcess", "stores"]
