"""The root of the settings tree: everything that a profile can say.

Well-formedness only: types, ranges and rules that hold everywhere. Whether a value is acceptable in an
environment is judged by preflight. Pure and frozen; nothing is read from files or the environment here.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from arqonbus.config.access import Auth, Limits, Role
from arqonbus.config.bridge import Bridge
from arqonbus.config.field import Section, section, setting
from arqonbus.config.network import Protocol, Server, Telemetry
from arqonbus.config.operations import Backup, Features, Preflight, Projector
from arqonbus.config.policy import Policy
from arqonbus.config.rooms import RoomRule, RoomSettings, room_settings
from arqonbus.config.schemas import MessageSchema
from arqonbus.config.stores import Datastores, Storage
from arqonbus.config.units import FilePath

EnvironmentName = Literal["dev", "staging", "prod"]

_ENVIRONMENTS = ("dev", "staging", "prod")
_ALIASES = {"development": "dev", "production": "prod"}


def environment_name(text: str) -> str:
    """The name without blanks around it, in lower case and without an alias. It may still be unknown."""
    name = text.strip().lower()
    return _ALIASES.get(name, name)


def _hint(name: str) -> str:
    """What an unknown name of an environment probably means, as a clause; else the known names."""
    close = difflib.get_close_matches(environment_name(name), (*_ENVIRONMENTS, *_ALIASES), 1)
    return f"did you mean {environment_name(close[0])}?" if close else "write dev, staging or prod"


def _environment(value: object) -> object:
    if not isinstance(value, str) or environment_name(value) not in _ENVIRONMENTS:
        raise ValueError(f"is not a known environment; {_hint(str(value))}")
    return environment_name(value)


Environment = Annotated[
    EnvironmentName,
    BeforeValidator(_environment),
    WithJsonSchema({"enum": ["dev", "staging", "prod", "development", "production"]}),
]


class Settings(Section):
    """One deployment, completely."""

    environment: Environment = setting(
        "dev",
        "What this deployment is: dev, staging or prod. It decides how strictly the rest is judged.",
        example="prod",
        reload="cold",
    )
    host_overlay: FilePath | None = setting(
        None,
        "YAML file of this host that goes over the profile. It is read only when it is declared here.",
        example="/etc/arqonbus/local.yaml",
        reload="cold",
    )
    state_dir: FilePath = setting(
        Path(".state"),
        "Directory for what the bus itself writes: the embedded database and, in dev, the generated key.",
        example="/var/lib/arqonbus",
        reload="cold",
    )
    server: Server = section(Server, "Where clients connect.")
    telemetry: Telemetry = section(Telemetry, "Logs, metrics, health.")
    protocol: Protocol = section(Protocol, "What may be spoken on the wire.")
    storage: Storage = section(Storage, "The message log.")
    datastores: Datastores = section(Datastores, "The servers that hold data.")
    auth: Auth = section(Auth, "Who somebody is.")
    roles: tuple[Role, ...] = setting(
        (),
        "Grants by name, for tokens whose claim `roles` names them.",
        example=[{"name": "dispatcher", "grants": [{"room": "orders.*", "allow": ["publish", "subscribe"]}]}],
        reload="hot",
    )
    limits: Limits = section(Limits, "How much one connection or tenant may ask for.")
    rooms: tuple[RoomRule, ...] = setting(
        (),
        "Rules for rooms by name; the first that matches is the room's only one.",
        example=[{"match": "orders.*", "history": {"max_age": "7d"}}],
        reload="hot",
    )
    schemas: tuple[MessageSchema, ...] = setting(
        (),
        "Types of message; a room takes those that it names.",
        example=[
            {
                "name": "order.v1",
                "content_type": "application/vnd.order.v1+json",
                "file": "schemas/order.json",
            }
        ],
        reload="hot",
    )
    policy: Policy = section(Policy, "What a message may hold.")
    bridge: Bridge = section(Bridge, "Messages that are exchanged with NATS.")
    projector: Projector = section(Projector, "The projection of Continuum's episodes.")
    backup: Backup = section(Backup, "What is expected of backups.")
    preflight: Preflight = section(Preflight, "How the checks before a start judge.")
    features: Features = section(Features, "Features that are not for everybody yet.")

    @model_validator(mode="after")
    def _schemas_are_told_apart(self) -> Settings:
        names = [schema.name for schema in self.schemas]
        if len(set(names)) != len(names):
            raise ValueError("has two schemas of one name; rooms could not tell which is meant")
        unknown = sorted({name for rule in self.rooms for name in rule.schemas} - set(names))
        if unknown:
            raise ValueError(f"has a room with a schema that schemas does not name: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _bridge_has_two_ends(self) -> Settings:
        if self.bridge.mappings and self.datastores.nats.url is None:
            raise ValueError("has bridge.mappings and no datastores.nats.url; say where NATS is")
        return self

    def room_settings(self, room: str) -> RoomSettings:
        """What holds for a room. Pure and cheap enough per room, not per message: keep the result."""
        return room_settings(self.rooms, self.storage, room)

    @property
    def sqlite_path(self) -> Path:
        """The file of the embedded engine."""
        return self.storage.sqlite.path or self.state_dir / "arqonbus.sqlite"


__all__ = ["Environment", "EnvironmentName", "Settings", "environment_name"]
