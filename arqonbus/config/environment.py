"""Environment variables as a layer of a profile.

Names are `ARQONBUS_<SECTION>__<FIELD>`, plus shorter aliases that operators already use. An unknown variable
with the prefix is refused, because otherwise a misspelt setting would be ignored silently. Pure: the caller
passes the variables.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from arqonbus.config.document import parse_inline
from arqonbus.config.findings import Fault, Finding, Location, Path
from arqonbus.config.layer import Layer
from arqonbus.config.tree import Leaf, leaves

ALIASES: Mapping[str, str] = {
    "ARQONBUS_SERVER_HOST": "server.host",
    "ARQONBUS_SERVER_PORT": "server.port",
    "ARQONBUS_STORAGE_MODE": "storage.mode",
    "ARQONBUS_STORAGE_BACKEND": "storage.backend",
    "ARQONBUS_VALKEY_URL": "datastores.valkey.url",
    "ARQONBUS_REDIS_URL": "datastores.valkey.url",
    "ARQONBUS_POSTGRES_URL": "datastores.postgres.url",
    "ARQONBUS_REQUIRE_DUAL_DATA_STACK": "storage.require_dual_data_stack",
    "ARQONBUS_INFRA_PROTOCOL": "protocol.infra",
    "ARQONBUS_ALLOW_JSON_INFRA": "protocol.allow_json_infra",
    "ARQONBUS_TELEMETRY_HOST": "telemetry.host",
    "ARQONBUS_TELEMETRY_PORT": "telemetry.port",
    "ARQONBUS_PREFLIGHT_STRICT": "preflight.strict",
    "ARQONBUS_AUTH_JWT_SECRET": "auth.jwt.secret",
    "JWT_SECRET": "auth.jwt.secret",
    "JWT_SKIP_VALIDATION": "auth.jwt.skip_validation",
    "NATS_URL": "datastores.nats.url",
    "ARQON_SCHEMA_STRICT": "protocol.schema_strict",
}

# Read by the command line itself; not settings.
CONTROLS = frozenset({"ARQONBUS_PROFILE", "ARQONBUS_PROFILES_DIR", "ARQONBUS_URL", "ARQONBUS_TOKEN"})

_FOREIGN = re.compile(r".*_FOR_DYNACONF|DYNACONF_.*|PYDANTIC_SETTINGS_DEBUG")
_SERVICE_LINK = re.compile(r"ARQONBUS_(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_[0-9]+_(TCP|UDP).*)")


@cache
def variables() -> Mapping[str, Leaf]:
    """All variable names of settings, including aliases."""
    named = {f"ARQONBUS_{'__'.join(leaf.path).upper()}": leaf for leaf in leaves().values()}
    return named | {name: leaves()[tuple(key.split("."))] for name, key in ALIASES.items()}


def foreign_variables(environ: Mapping[str, str]) -> list[Finding]:
    """Variables that would configure the libraries that read profiles. Their values are not read."""
    return [
        Finding(
            Fault.FOREIGN_VARIABLE,
            f"{name} would change how profiles are read; unset it",
            Location("environment", name),
        )
        for name in sorted(environ)
        if _FOREIGN.fullmatch(name.upper())
    ]


def read_environment(environ: Mapping[str, str]) -> tuple[Layer, list[Finding]]:
    """The layer of the environment, and its faults."""
    findings: list[Finding] = []
    data: dict[str, Any] = {}
    places: dict[Path, Location] = {}
    given: dict[tuple[str, ...], tuple[str, Any]] = {}
    for name in sorted(environ):
        leaf = variables().get(name)
        place = Location("environment", name)
        if leaf is None:
            if name.upper().startswith("ARQONBUS_") and name not in CONTROLS:
                findings.append(Finding(Fault.UNKNOWN_VARIABLE, _unknown(name), place))
            continue
        try:
            value = value_of_text(leaf, environ[name])
        except ValueError as error:
            code = Fault.EMPTY_VALUE if environ[name] == "" else Fault.BAD_VALUE
            findings.append(Finding(code, f"{name} {error}", place, leaf.key))
            continue
        if leaf.path in given and given[leaf.path][1] != value:
            first = given[leaf.path][0]
            message = f"{first} and {name} both set {leaf.key}, to different values; unset one of them"
            findings.append(Finding(Fault.CONFLICTING_VARIABLES, message, place, leaf.key))
            continue
        given.setdefault(leaf.path, (name, value))
        put(data, leaf.path, value)
        places[leaf.path] = Location("environment", given[leaf.path][0])
    return Layer("environment", "the environment", data, places), findings


def value_of_text(leaf: Leaf, text: str) -> Any:
    """Convert text to the value of a setting. Raises ValueError; the message continues after the name."""
    if text == "":
        raise ValueError("is empty; give it a value, or leave it out")
    if not leaf.is_list:
        return text
    if text.startswith("["):
        value = parse_inline(text)
        if not isinstance(value, list):
            raise ValueError("is not a list; write [one, two]")
        return value
    if leaf.items is not None:
        raise ValueError("holds entries with several keys; write them as [{key: value}]")
    return [part.strip() for part in text.split(",")]


def put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set a value in nested mappings, creating missing ones."""
    for part in path[:-1]:
        data = data.setdefault(part, {})
    data[path[-1]] = value


def _unknown(name: str) -> str:
    if _SERVICE_LINK.fullmatch(name):
        return (
            f"{name} is set by the platform for a service named arqonbus and looks like a setting; "
            "disable service links (enableServiceLinks: false) or rename the service"
        )
    close = difflib.get_close_matches(name.upper(), [*variables(), *CONTROLS], 1, 0.7)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else "unset it; `arqonbus profile sources --variables` lists the names"
    )
    return f"{name} names no setting; {hint}"


__all__ = [
    "ALIASES",
    "CONTROLS",
    "foreign_variables",
    "put",
    "read_environment",
    "value_of_text",
    "variables",
]
