"""Settings of what runs beside the bus: projector, backups, preflight, features."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from arqonbus.config.field import Section, setting
from arqonbus.config.units import Count, FilePath, Port, Seconds, Switch

ProjectorPhase = Literal["emit_only", "shadow", "read_only", "replay", "enforced"]
PHASES: tuple[ProjectorPhase, ...] = get_args(ProjectorPhase)  # in the order of a rollout


class Projector(Section):
    """The projection of Continuum's episodes into Postgres."""

    phase: ProjectorPhase = setting(
        "emit_only",
        "Stage of the rollout, from emit_only (nothing is projected) to enforced.",
        example="shadow",
    )
    batch: Annotated[Count, Field(ge=1, le=10_000)] = setting(
        1000, "Events that are projected in one transaction at most.", example=1000
    )
    telemetry_port: Port = setting(
        9102,
        "Port of the health and metrics of a projector that is a process of its own, on telemetry.host.",
        example=9102,
    )
    retention: Seconds = setting(
        0.0,
        "Age of events after which their month is dropped; 0: never. Episodes stay.",
        example="365d",
    )

    @property
    def projects(self) -> bool:
        """Whether anything is projected."""
        return self.phase != "emit_only"


class Backup(Section):
    """What is expected of backups. The backup itself is taken by the deployment."""

    directory: FilePath | None = setting(
        None, "Where backups and drill receipts are.", example="/var/backups/arqonbus"
    )
    rpo: Seconds = setting(86_400.0, "Age that the newest backup may reach.", example="24h", reload="hot")
    drill_max_age: Seconds = setting(
        30 * 86_400.0, "Age that the last restore drill may reach.", example="30d", reload="hot"
    )


class Preflight(Section):
    """How the checks before a start judge."""

    strict: Switch = setting(False, "Whether warnings of the preflight stop a start too.", example=True)


class Features(Section):
    """Switches of features that are not for everybody yet. There are none in this version."""


__all__ = ["PHASES", "Backup", "Features", "Preflight", "Projector", "ProjectorPhase"]
