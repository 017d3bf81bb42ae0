"""Settings of operations: projector, backups, preflight, features."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from arqonbus.config.field import Section, setting
from arqonbus.config.units import Count, FilePath, Port, Seconds, Switch

ProjectorPhase = Literal["emit_only", "shadow", "read_only", "replay", "enforced"]
PHASES: tuple[ProjectorPhase, ...] = get_args(ProjectorPhase)  # in the order of a rollout


class Projector(Section):
    """Projection of Continuum's episodes into the projection store."""

    phase: ProjectorPhase = setting(
        "emit_only",
        "Rollout phase, from emit_only (no projection) to enforced.",
        example="shadow",
    )
    batch: Annotated[Count, Field(ge=1, le=10_000)] = setting(
        1000, "Maximum number of events per transaction.", example=1000
    )
    telemetry_port: Port = setting(
        9102,
        "Port of health and metrics of a projector in a separate process, on telemetry.host.",
        example=9102,
    )
    retention: Seconds = setting(
        0.0,
        "Age at which a month of events is dropped; 0: never. Episodes are kept.",
        example="365d",
    )

    @property
    def projects(self) -> bool:
        """True if the phase includes projection."""
        return self.phase != "emit_only"


class Backup(Section):
    """Requirements on backups. The deployment takes the backups."""

    directory: FilePath | None = setting(
        None, "Directory of backups and drill receipts.", example="/var/backups/arqonbus"
    )
    rpo: Seconds = setting(86_400.0, "Maximum age of the newest backup.", example="24h", reload="hot")
    drill_max_age: Seconds = setting(
        30 * 86_400.0, "Maximum age of the last restore drill.", example="30d", reload="hot"
    )


class Preflight(Section):
    """Preflight checks at a start."""

    strict: Switch = setting(False, "Let preflight warnings prevent a start too.", example=True)


class Features(Section):
    """Switches of experimental features. This version has none."""


__all__ = ["PHASES", "Backup", "Features", "Preflight", "Projector", "ProjectorPhase"]
