"""Declaration of settings: description, example, reload class, secrecy, first version.

The declarations are the source of the schema, the generated reference, redaction and `profile explain`. Pure.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MASK = "********"

Reload = Literal["hot", "rolling", "cold"]
Secrecy = Literal["no", "value", "url"]


class Section(BaseModel):
    """A group of settings. Frozen; refuses unknown keys; its errors contain no values."""

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

    `reload`: hot (applied by a running bus), rolling (nodes restart one by one, clients reconnect), cold (all
    nodes must stop before the first starts with the new value). `secrecy`: no, value (the whole value is
    secret), url (a URL that may contain a password). `available` False: this version supports only the
    default; `serve` and preflight refuse other values. `constraints` are those of pydantic's Field.
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
    """Declare a group of settings, all of which have defaults."""
    return Field(default_factory=kind, description=description)


__all__ = ["MASK", "Reload", "Secrecy", "Section", "section", "setting"]
