"""Settings of the NATS bridge: mappings of subjects to rooms, directions, grants."""

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
    """Mapping of a NATS subject to a room, or of a subject pattern to a room pattern."""

    subject: Text = setting(
        ...,
        "NATS subject; one token may be {tenant}, the last may be > (all remaining tokens).",
        example="shop.{tenant}.orders.>",
    )
    tenant: Text | None = setting(
        None, "Tenant, if the subject has no {tenant}; it need not be listed in bridge.tenants.",
        example="demo",
    )  # fmt: skip
    room: Text = setting(..., "Room; a * at its end corresponds to > in the subject.", example="orders.*")
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
        """True if messages are passed in this direction."""
        return self.direction in (direction, "both")


class Bridge(Section):
    """Exchange of messages with NATS (datastores.nats). Without mappings there is no bridge."""

    name: Annotated[str, Field(pattern=_WORD)] = setting(
        "arqonbus",
        "Name of this bus in NATS: of its consumers, and as origin of its messages. Must be unique among the "
        "deployments that share the NATS servers.",
        example="arqonbus-eu",
        reload="cold",
    )
    mappings: tuple[Mapping, ...] = setting(
        (),
        "Mappings of subjects to rooms. No two may share a subject, or a room in the same direction.",
        example=[{"subject": "shop.orders.>", "tenant": "demo", "room": "orders.*", "direction": "in"}],
    )
    tenants: tuple[Text, ...] = setting((), "Tenants that {tenant} may be.", example=["demo"])
    stream: Annotated[str, Field(pattern=_WORD)] = setting(
        "ARQONBUS", "JetStream stream that holds the subjects of the mappings.", example="SHOP"
    )
    create_stream: Switch = setting(
        False,
        "Create the stream if it is missing, with all subjects and dead_letters.",
        example=True,
    )
    dead_letters: Text = setting(
        "arqonbus.dead_letters",
        "Subject for NATS messages that the bus refuses permanently. A stream must contain it.",
        example="shop.dead",
    )
    grants: tuple[Annotated[str, AfterValidator(_grant)], ...] = setting(
        (),
        "Grants of the bridge, as in tokens: publish for mappings in, consume for mappings out. Without any, "
        "everything in dev and nothing elsewhere.",
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
                    f"has two mappings for one subject, {one.subject} and {two.subject}, so that "
                    "the room is ambiguous; make one of them narrower"
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
        """Subjects that the stream must contain."""
        return tuple(mapping.route.filter for mapping in self.mappings)


__all__ = ["Bridge", "Mapping"]
