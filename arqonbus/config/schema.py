"""The JSON Schema of a profile, for editors. Pure and deterministic: same code, same bytes."""

from __future__ import annotations

import json
from typing import Any

from arqonbus.config.settings import Settings
from arqonbus.config.tree import leaves

_REFERENCE = {
    "description": "Source of the secret.",
    "oneOf": [
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["from", key],
            "properties": {"from": {"const": origin}, key: value},
        }
        for origin, key, value in (
            ("file", "path", {"type": "string"}),
            ("credential", "name", {"type": "string"}),
            ("env", "name", {"type": "string"}),
            ("command", "argv", {"type": "array", "items": {"type": "string"}, "minItems": 1}),
        )
    ],
}


def profile_schema() -> dict[str, Any]:
    """Build the schema of a profile file."""
    schema = Settings.model_json_schema(by_alias=True, mode="validation")
    definitions = schema["$defs"]
    definitions["SecretReference"] = _REFERENCE
    for leaf in leaves().values():
        if leaf.secrecy == "value":
            _accept_reference(schema, leaf.path)
    _drop_titles(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ArqonBus profile", **schema}


def profile_schema_text() -> str:
    """Contents of the file `profiles/profile.schema.json`."""
    return json.dumps(profile_schema(), indent=2, ensure_ascii=False) + "\n"


def _accept_reference(schema: dict[str, Any], path: tuple[str, ...]) -> None:
    node = schema
    for part in path[:-1]:
        target = node["properties"][part]
        node = schema["$defs"][target["$ref"].rsplit("/", 1)[1]]
    choices = node["properties"][path[-1]]["anyOf"]
    reference = {"$ref": "#/$defs/SecretReference"}
    if reference not in choices:
        choices.insert(0, reference)


def _drop_titles(node: Any) -> None:
    """Remove Pydantic's titles, which editors show instead of the description."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _drop_titles(value)
    elif isinstance(node, list):
        for value in node:
            _drop_titles(value)


__all__ = ["profile_schema", "profile_schema_text"]
