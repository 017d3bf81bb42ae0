"""The root of the settings tree.

Validates types, ranges and rules that apply in every environment. Preflight checks whether a value is
acceptable in an environment. Pure and frozen; nothing is read from files or the environment here.
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
    """A clause that suggests the nearest environment, or lists the known ones."""
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
    """All settings of one deployment."""

    environment: Environment = setting(
        "dev",
        "Environment: dev, staging or prod. It determines how strict the preflight checks are.",
        example="prod",
        reload="cold",
    )
    host_overlay: FilePath | None = setting(
        None,
        "YAML file on the host that overrides the profile. It is read only if it is declared here.",
        example="/etc/arqonbus/local.yaml",
        reload="cold",
    )
    state_dir: FilePath = setting(
        Path(".state"),
        "Directory for files that the bus writes: the embedded database and, in dev, the generated key.",
        example="/var/lib/arqonbus",
        reload="cold",
    )
    server: Server = section(Server, "The listener for clients.")
    telemetry: Telemetry = section(Telemetry, "Logs, metrics, health.")
    protocol: Protocol = section(Protocol, "Wire formats and size limits.")
    storage: Storage = section(Storage, "The message log.")
    datastores: Datastores = section(Datastores, "The servers that hold data.")
    auth: Auth = section(Auth, "Authentication.")
    roles: tuple[Role, ...] = setting(
        (),
        "Grants by name, for tokens whose claim `roles` names them.",
        example=[{"name": "dispatcher", "grants": [{"room": "orders.*", "allow": ["publish", "subscribe"]}]}],
        reload="hot",
    )
    limits: Limits = section(Limits, "Limits per connection and per tenant.")
    rooms: tuple[RoomRule, ...] = setting(
        (),
        "Rules for rooms by name; only the first matching rule applies to a room.",
        example=[{"match": "orders.*", "history": {"max_age": "7d"}}],
        reload="hot",
    )
    schemas: tuple[MessageSchema, ...] = setting(
        (),
        "Message types; a room accepts those that it names.",
        example=[
            {
                "name": "order.v1",
                "content_type": "application/vnd.order.v1+json",
                "file": "schemas/order.json",
            }
        ],
        reload="hot",
    )
    policy: Policy = section(Policy, "The content policy.")
    bridge: Bridge = section(Bridge, "Exchange of messages with NATS.")
    projector: Projector = section(Projector, "Projection of Continuum's episodes.")
    backup: Backup = section(Backup, "Requirements on backups.")
    preflight: Preflight = section(Preflight, "Preflight checks at a start.")
    features: Features = section(Features, "Experimental features.")

    @model_validator(mode="after")
    def _schemas_are_told_apart(self) -> Settings:
        names = [schema.name for schema in self.schemas]
        if len(set(names)) != len(names):
            raise ValueError("has two schemas with the same name; give each schema its own name")
        unknown = sorted({name for rule in self.rooms for name in rule.schemas} - set(names))
        if unknown:
            raise ValueError(f"has a room with a schema that schemas does not name: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _bridge_has_two_ends(self) -> Settings:
        if self.bridge.mappings and self.datastores.nats.url is None:
            raise ValueError("has bridge.mappings and no datastores.nats.url; set the URL of NATS")
        return self

    def room_settings(self, room: str) -> RoomSettings:
        """Settings of a room. Cheap enough per room, not per message: cache the result."""
        return room_settings(self.rooms, self.storage, room)

    @property
    def sqlite_path(self) -> Path:
        """The file of the embedded engine."""
        return self.storage.sqlite.path or self.state_dir / "arqonbus.sqlite"


__all__ = ["Environment", "EnvironmentName", "Settings", "environment_name"]
