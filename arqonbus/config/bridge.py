"""Settings of the bridge to NATS: which subjects are which rooms, in which direction, on whose authority."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from arqonbus.config.field import Section, setting
from arqonbus.config.globs import name_pattern
from arqonbus.config.rooms import Action
from arqonbus.config.subjects import TENANT, Route, route
from arqonbus.config.units import Switch, Text

_WORD = r"^[A-Za-z0-9_-]{1,32}$"
_SUBJECT = re.compile(r"[A-Za-z0-9_-]{1,128}(\.[A-Za-z0-9_-]{1,128})*", re.ASCII)


def _grant(text: str) -> str:
    room, colon, actions = text.partition(":")
    words = {word.strip() for word in actions.split(",")}
    if not colon or not (words == {"*"} or words <= set(get_args(Action))):
        raise ValueError("is not a grant; write <room>:<action>,<action>, such as orders.*:publish,consume")
    name_pattern(room)
    return text


class Mapping(Section):
    """A subject of NATS and the room that it is on the bus, or many of each."""

    subject: Text = setting(
        ...,
        "Subject: tokens, one of which may be {tenant}, and > as the last for the rest.",
        example="shop.{tenant}.orders.>",
    )
    tenant: Text | None = setting(
        None, "Tenant, where the subject has no {tenant}; it may be one that bridge.tenants does not name.",
        example="demo",
    )  # fmt: skip
    room: Text = setting(..., "Room; a * at its end is what > is in the subject.", example="orders.*")
    direction: Literal["in", "out", "both"] = setting(
        "both", "in: from NATS to the bus; out: from the bus to NATS; or both.", example="in"
    )

    @model_validator(mode="after")
    def _stands_for_rooms(self) -> Mapping:
        route(self.subject, self.room, self.tenant)
        return self

    @property
    def route(self) -> Route:
        return route(self.subject, self.room, self.tenant)

    def goes(self, direction: Literal["in", "out"]) -> bool:
        """Whether messages go this way."""
        return self.direction in (direction, "both")


class Bridge(Section):
    """Messages that are exchanged with NATS (datastores.nats). Without mappings there is no bridge."""

    name: Annotated[str, Field(pattern=_WORD)] = setting(
        "arqonbus",
        "Name of this bus towards NATS: of its consumers, and the origin of its messages. Another deployment "
        "at the same NATS needs another name.",
        example="arqonbus-eu",
        reload="cold",
    )
    mappings: tuple[Mapping, ...] = setting(
        (),
        "Which subjects are which rooms. No two may share a subject, or a room in the same direction.",
        example=[{"subject": "shop.orders.>", "tenant": "demo", "room": "orders.*", "direction": "in"}],
    )
    tenants: tuple[Text, ...] = setting((), "Tenants that {tenant} stands for.", example=["demo"])
    stream: Annotated[str, Field(pattern=_WORD)] = setting(
        "ARQONBUS", "JetStream stream that holds the subjects of the mappings.", example="SHOP"
    )
    create_stream: Switch = setting(
        False,
        "Whether the bridge makes the stream where it is missing, with all subjects and dead_letters.",
        example=True,
    )
    dead_letters: Text = setting(
        "arqonbus.dead_letters",
        "Subject for messages of NATS that the bus refuses for good. A stream must hold it.",
        example="shop.dead",
    )
    grants: tuple[Annotated[str, AfterValidator(_grant)], ...] = setting(
        (),
        "What the bridge may do, as in tokens: publish where it brings messages in, consume where it takes "
        "them out. Without any, everything in dev and nothing elsewhere.",
        example=["orders.*:publish,consume"],
    )

    @model_validator(mode="after")
    def _is_without_collisions(self) -> Bridge:
        for mapping in self.mappings:
            if TENANT in mapping.subject and not self.tenants:
                raise ValueError(f"has a subject with {TENANT} and no tenants; name them in bridge.tenants")
        for one, two in combinations(self.mappings, 2):
            if one.route.shares_subject(two.route):
                raise ValueError(
                    f"has two mappings for one subject, {one.subject} and {two.subject}: nobody could tell "
                    "which room is meant; make one of them narrower"
                )
            same_way = any(one.goes(way) and two.goes(way) for way in ("in", "out"))
            if same_way and one.route.shares_room(two.route, self.tenants):
                raise ValueError(
                    f"has two subjects for one room, {one.subject} and {two.subject} for {one.room} and "
                    f"{two.room} in the same direction; make one of them narrower"
                )
        if not _SUBJECT.fullmatch(self.dead_letters):
            raise ValueError("has dead_letters that are not one subject; write tokens with dots between them")
        dead = route(self.dead_letters, "x", "x")
        if any(mapping.route.shares_subject(dead) for mapping in self.mappings):
            raise ValueError(
                "has dead_letters that a mapping would bring in again; give them another subject"
            )
        return self

    @property
    def subjects(self) -> tuple[str, ...]:
        """What the stream has to hold."""
        return tuple(mapping.route.filter for mapping in self.mappings)


__all__ = ["Bridge", "Mapping"]
