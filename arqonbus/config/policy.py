"""Settings of the content policy: what is searched for in published messages, and the action on a match."""

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
    """A rule that searches for a pattern."""

    name: RuleName = setting(
        ..., "Name in findings, metrics and the audit.", example="card-number", reload="hot"
    )
    pattern: Annotated[str, AfterValidator(linear_pattern)] = setting(
        ..., "Regular expression in RE2 syntax.", example=r"\b4[0-9]{15}\b", reload="hot"
    )
    action: Literal["allow", "redact", "block"] = setting(
        "block",
        "Action on a match: allow (count only), redact (replace the match) or block (refuse the message).",
        example="redact",
        reload="hot",
    )
    rooms: tuple[RoomPattern, ...] = setting(
        ("*",), "Patterns of the rooms to which the rule applies.", example=["public.*"], reload="hot"
    )


class Policy(Section):
    """The content policy. Messages are inspected before they are published, never after."""

    mode: Literal["off", "monitor", "enforce"] = setting(
        "off",
        "off: no inspection; monitor: count findings and change nothing; enforce: apply the actions.",
        example="enforce",
        reload="hot",
    )
    rooms: tuple[RoomPattern, ...] = setting(
        ("*",),
        "Patterns of the rooms in which keys, paths, sizes and secrets are inspected.",
        example=["public.*"],
        reload="hot",
    )
    max_inspected_bytes: Annotated[Size, Field(ge=1024)] = setting(
        256 * 1024,
        "Largest payload that is inspected; larger ones are blocked.",
        example="256KiB",
        reload="hot",
    )
    blocked_keys: tuple[Text, ...] = setting(
        ("raw_content", "episode_body", "embedding_vector", "full_state_dump"),
        "Keys that a payload must not contain at any depth.",
        example=["raw_content"],
        reload="hot",
    )
    blocked_paths: tuple[Text, ...] = setting(
        (),
        "Paths that a payload must not contain: keys joined by dots, * for any key or index.",
        example=["customer.password", "items.*.card"],
        reload="hot",
    )
    redacted_keys: tuple[Text, ...] = setting(
        (),
        "Keys whose values are redacted before a message is published.",
        example=["password"],
        reload="hot",
    )
    max_value_bytes: Size = setting(
        65_536, "Largest single value in a payload; 0: no bound.", example="64KiB", reload="hot"
    )
    secrets: Literal["ignore", "allow", "redact", "block"] = setting(
        "ignore",
        "Action on probable secrets: API keys, tokens, private keys, passwords in URLs, and text of high "
        "entropy. allow only counts them.",
        example="block",
        reload="hot",
    )
    entropy: Annotated[float, Field(ge=0, le=8)] = setting(
        4.5,
        "Bits of entropy per character from which text of 20 characters is a probable secret; 0: never.",
        example=4.5,
        reload="hot",
    )
    rules: Annotated[tuple[PolicyRule, ...], Field(max_length=MAX_RULES)] = setting(
        (),
        "Additional rules.",
        example=[{"name": "card-number", "pattern": r"\b4[0-9]{15}\b", "action": "redact"}],
        reload="hot",
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Policy:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("has two rules with the same name; give each rule its own name")
        return self


__all__ = ["Policy", "PolicyRule"]
