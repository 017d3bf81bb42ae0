"""What one setting declares about itself: meaning, example, reload class, secrecy, first version.

The declaration is the source of the schema, of the generated reference, of redaction and of
`profile explain`. Pure: nothing is read here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MASK = "********"

Reload = Literal["hot", "rolling", "cold"]
Secrecy = Literal["no", "value", "url"]


class Section(BaseModel):
    """A group of settings. Frozen, refuses keys that it does not know, keeps values out of its errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True, allow_inf_nan=False
    )


def setting(
    default: Any,
    description: str,
    *,
    example: Any,
    reload: Reload = "rolling",
    secrecy: Secrecy = "no",
    since: str = "0.1",
    available: bool = True,
    **constraints: Any,
) -> Any:
    """Declare one setting.

    `reload`: hot (a running bus takes it over), rolling (nodes restart one by one, clients reconnect),
    cold (every node must stop before any starts with the new value). `secrecy`: no, value (the whole
    value is secret), url (a password may stand inside). `available` False: this version has the default only,
    and neither serves nor passes preflight with another value. `constraints` are those of pydantic's Field.
    """
    return Field(
        default,
        description=description,
        examples=[example],
        json_schema_extra={
            "reload": reload,
            "secret": secrecy,
            "since": since,
            **({} if available else {"available": False}),
        },
        **constraints,
    )


def section(kind: type[Section], description: str) -> Any:
    """Declare a group of settings that is complete by its own defaults."""
    return Field(default_factory=kind, description=description)


__all__ = ["MASK", "Reload", "Secrecy", "Section", "section", "setting"]
