"""Settings of the content policy: what is looked for in what is published, and what is done about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from arqonbus.config.field import Section, setting
from arqonbus.config.globs import name_pattern
from arqonbus.config.patterns import linear_pattern
from arqonbus.config.units import Size, Text

RoomPattern = Annotated[str, AfterValidator(name_pattern)]
RuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
MAX_RULES = 256


class PolicyRule(Section):
    """One thing that is looked for by its form."""

    name: RuleName = setting(
        ..., "What findings, metrics and the audit call it.", example="card-number", reload="hot"
    )
    pattern: Annotated[str, AfterValidator(linear_pattern)] = setting(
        ..., "Regular expression in the syntax of RE2.", example=r"\b4[0-9]{15}\b", reload="hot"
    )
    action: Literal["allow", "redact", "block"] = setting(
        "block",
        "What is done with a message that holds it: allow only counts it, redact replaces it.",
        example="redact",
        reload="hot",
    )
    rooms: tuple[RoomPattern, ...] = setting(
        ("*",), "Patterns of the rooms in which it is looked for.", example=["public.*"], reload="hot"
    )


class Policy(Section):
    """What a message may hold. It is judged before it is published, never after."""

    mode: Literal["off", "monitor", "enforce"] = setting(
        "off",
        "off: nothing is inspected; monitor: findings are counted and nothing is changed; enforce.",
        example="enforce",
        reload="hot",
    )
    rooms: tuple[RoomPattern, ...] = setting(
        ("*",),
        "Patterns of the rooms in which keys, paths, sizes and secrets are judged.",
        example=["public.*"],
        reload="hot",
    )
    max_inspected_bytes: Annotated[Size, Field(ge=1024)] = setting(
        256 * 1024,
        "Largest payload that is inspected; a larger one is blocked, not passed over.",
        example="256KiB",
        reload="hot",
    )
    blocked_keys: tuple[Text, ...] = setting(
        ("raw_content", "episode_body", "embedding_vector", "full_state_dump"),
        "Keys that a payload must not hold at any depth.",
        example=["raw_content"],
        reload="hot",
    )
    blocked_paths: tuple[Text, ...] = setting(
        (),
        "Places that a payload must not have: keys joined by dots, * for any key or index.",
        example=["customer.password", "items.*.card"],
        reload="hot",
    )
    redacted_keys: tuple[Text, ...] = setting(
        (),
        "Keys whose values are replaced before a message is published.",
        example=["password"],
        reload="hot",
    )
    max_value_bytes: Size = setting(
        65_536, "Largest single value in a payload; 0: no bound.", example="64KiB", reload="hot"
    )
    secrets: Literal["ignore", "allow", "redact", "block"] = setting(
        "ignore",
        "What is done about probable secrets: keys of services, tokens, private keys, passwords in URLs, "
        "and text that is too random to be anything else. allow only counts them.",
        example="block",
        reload="hot",
    )
    entropy: Annotated[float, Field(ge=0, le=8)] = setting(
        4.5,
        "Bits per character from which text of 20 characters or more is a probable secret; 0: never.",
        example=4.5,
        reload="hot",
    )
    rules: Annotated[tuple[PolicyRule, ...], Field(max_length=MAX_RULES)] = setting(
        (),
        "What else is looked for.",
        example=[{"name": "card-number", "pattern": r"\b4[0-9]{15}\b", "action": "redact"}],
        reload="hot",
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Policy:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("has two rules of one name; findings could not be told apart")
        return self


__all__ = ["Policy", "PolicyRule"]
