"""Settings of rooms: rules by pattern of name, and what a room gets from them.

Pure. RoomSettings are plain values, so that what uses it need not know the settings tree.
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
    """How much a room keeps; what is left out is as in storage.history. `off` is short for keep: false."""

    keep: Switch = setting(True, "Whether the room keeps anything.", example=False, reload="hot")
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
    """What holds for the rooms whose names match. The first rule that matches a room is its only one."""

    match: Annotated[str, AfterValidator(name_pattern)] = setting(
        ..., "Pattern of room names; * stands for any run of characters.", example="orders.*", reload="hot"
    )
    history: RoomHistory | None = setting(
        None, "How much is kept, or off.", example={"max_age": "7d"}, reload="hot"
    )
    slow_consumer: SlowConsumer = setting(
        "disconnect",
        "What happens to a client that reads too slowly: disconnect, drop_oldest, or latest per key.",
        example="drop_oldest",
        reload="hot",
    )
    durability: DurabilityName | None = setting(
        None, "Level that an ack promises here; without one, storage.durability.", example="durable"
    )
    mode: StorageMode | None = setting(
        None,
        "Whether the room goes on in memory while the engine is away; without one, storage.mode.",
        example="degraded",
    )
    durable_history: Literal["postgres"] | None = setting(
        None,
        "Where messages stand beside the engine before their ack, so that the room comes back from there.",
        example="postgres",
    )
    grants: tuple[Action, ...] = setting(
        (),
        "What every token of the tenant may do here, beside its own grants.",
        example=["subscribe"],
        reload="hot",
    )
    schemas: tuple[SchemaName, ...] = setting(
        (),
        "Names in schemas: the types of message that the room takes, each judged by its content type.",
        example=["order.v1"],
        reload="hot",
        alias="schema",
    )
    signature: Switch = setting(
        False, "Whether messages must carry a valid Ed25519 signature.", example=True, reload="hot"
    )


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """What holds for one room. `history` False: nothing is kept. Bounds of 0 mean no bound.

    `in_process`: a rule asks for durability memory, so the room is held by each bus process for itself. That
    storage.durability is memory takes no room out of the engine: it is a promise, and an engine gives more.
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
    """The settings of a room by the first rule whose pattern matches it, else the defaults of storage."""
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
