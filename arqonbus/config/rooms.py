"""Room settings: rules by name pattern, and the resulting settings of a room.

Pure. RoomSettings holds plain values, so that its users do not depend on the settings tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from arqonbus.config.field import Section, setting
from arqonbus.config.globs import Glob, name_pattern
from arqonbus.config.schemas import SchemaName
from arqonbus.config.stores import Storage, StorageMode
from arqonbus.config.units import Count, Seconds, Switch
from arqonbus.protocol.durability import DurabilityName

SlowConsumer = Literal["disconnect", "drop_oldest", "latest"]
Action = Literal["publish", "subscribe", "history", "presence", "consume", "manage"]


class RoomHistory(Section):
    """Retention of a room; the default of each value is in storage.history. `off` means keep: false."""

    keep: Switch = setting(True, "Keep messages of the room.", example=False, reload="hot")
    max_messages: Count | None = setting(
        None, "Messages that the room keeps; 0: no bound.", example=100_000, reload="hot"
    )
    max_age: Seconds | None = setting(
        None, "Age up to which the room keeps messages; 0: no bound.", example="7d", reload="hot"
    )

    @model_validator(mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return {"keep": False} if value is False or value == "off" else value


class RoomRule(Section):
    """Settings of the rooms whose names match. Only the first matching rule applies to a room."""

    match: Annotated[str, AfterValidator(name_pattern)] = setting(
        ..., "Pattern of room names; * matches any characters.", example="orders.*", reload="hot"
    )
    history: RoomHistory | None = setting(None, "Retention, or off.", example={"max_age": "7d"}, reload="hot")
    slow_consumer: SlowConsumer = setting(
        "disconnect",
        "Action on a slow consumer: disconnect, drop_oldest, or latest (the last message per key).",
        example="drop_oldest",
        reload="hot",
    )
    durability: DurabilityName | None = setting(
        None, "Durability level of acks; default: storage.durability.", example="durable"
    )
    mode: StorageMode | None = setting(
        None,
        "Behaviour while the engine is unreachable, see storage.mode; default: storage.mode.",
        example="degraded",
    )
    durable_history: Literal["postgres"] | None = setting(
        None,
        "Second store, written before the ack; the room is restored from it if the engine loses messages.",
        example="postgres",
    )
    grants: tuple[Action, ...] = setting(
        (),
        "Actions allowed to every token of the tenant, in addition to its own grants.",
        example=["subscribe"],
        reload="hot",
    )
    schemas: tuple[SchemaName, ...] = setting(
        (),
        "Names in schemas: accepted message types; the content type of a message selects its schema.",
        example=["order.v1"],
        reload="hot",
        alias="schema",
    )
    signature: Switch = setting(
        False, "Require a valid Ed25519 signature on messages.", example=True, reload="hot"
    )


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """Settings of one room. `history` False: nothing is kept. Bounds of 0 mean no bound.

    `in_process`: a rule sets durability memory, so each bus process holds the room separately.
    storage.durability memory does not do that: it is only a minimum, and an engine gives more.
    """

    match: str
    history: bool
    max_messages: int
    max_age_us: int
    slow_consumer: SlowConsumer
    durability: DurabilityName
    in_process: bool
    mode: StorageMode
    durable_history: bool
    grants: frozenset[Action]
    signature: bool


def room_settings(rules: tuple[RoomRule, ...], storage: Storage, room: str) -> RoomSettings:
    """The settings of a room: of the first rule that matches, else the defaults of storage."""
    rule = next((rule for rule in rules if Glob(rule.match).matches(room)), RoomRule(match="*"))
    kept = rule.history or RoomHistory()
    messages = storage.history.max_messages if kept.max_messages is None else kept.max_messages
    age = storage.history.max_age if kept.max_age is None else kept.max_age
    return RoomSettings(
        match=rule.match,
        history=kept.keep,
        max_messages=messages,
        max_age_us=round(age * 1_000_000),
        slow_consumer=rule.slow_consumer,
        durability=rule.durability or storage.durability,
        in_process=rule.durability == "memory",
        mode=rule.mode or storage.mode,
        durable_history=rule.durable_history is not None and kept.keep,
        grants=frozenset(rule.grants),
        signature=rule.signature,
    )


__all__ = ["Action", "RoomHistory", "RoomRule", "RoomSettings", "SlowConsumer", "room_settings"]
