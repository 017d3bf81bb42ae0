"""The schema registry: messages of a content type that a room declares must be valid, or are refused.

Files are read when a registry is created, and nothing afterwards: no reference in a schema is ever fetched.
An error about an invalid message names the place and the rule, never the value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from arqonbus.config.globs import Glob
from arqonbus.config.regular_file import NotRegular, read_regular
from arqonbus.config.schemas import MessageSchema
from arqonbus.config.settings import Settings
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import Invalid
from arqonbus.protocol.wire_json import one_line_json
from arqonbus.shield.places import place_in_payload

MAX_FILE_BYTES = 1 << 20

Check = Callable[[bytes], None]  # raises Invalid


class SchemaRegistry:
    """The schemas of a profile, compiled. Raises ValueError with a sentence for one that cannot be used."""

    def __init__(self, settings: Settings, *, root: Path | None = None) -> None:
        """`root`: where relative files are looked for; without one, the working directory."""
        strict = settings.protocol.schema_strict
        checks = {
            schema.name: (media_type(schema.content_type), compile_schema(schema, strict=strict, root=root))
            for schema in settings.schemas
        }
        self._rules = [
            (
                Glob(rule.match),
                RoomSchemas(dict(checks[name] for name in rule.schemas), strict=strict)
                if rule.schemas
                else None,
            )
            for rule in settings.rooms
        ]

    def of(self, room: str) -> RoomSchemas | None:
        """The schema that the room declares, or None."""
        return next((schemas for pattern, schemas in self._rules if pattern.matches(room)), None)


class RoomSchemas:
    """The types of message that a room declares. `strict`: others are refused."""

    def __init__(self, checks: Mapping[str, Check], *, strict: bool) -> None:
        self._checks = checks
        self._strict = strict

    def check(self, envelope: Envelope) -> None:
        """Raises Invalid unless the payload is valid for its content type."""
        check = self._checks.get(envelope.content_type) or self._checks.get(media_type(envelope.content_type))
        if check is not None:
            check(envelope.payload)
        elif self._strict:
            known = ", ".join(sorted(self._checks))
            raise Invalid("content_type", f"content_type is none that this room declares: {known}")


def media_type(text: str) -> str:
    """A content type in one spelling: lower case but for the values of its parameters, these in order."""
    media, *parameters = (part.strip() for part in text.split(";"))
    pairs = [parameter.partition("=") for parameter in parameters]
    return "; ".join(
        [media.lower(), *sorted(f"{key.strip().lower()}={value.strip()}" for key, _, value in pairs)]
    )


def compile_schema(schema: MessageSchema, *, strict: bool = False, root: Path | None = None) -> Check:
    """The validator of a payload. Raises ValueError for an unusable file.

    `strict`: fields of a protobuf message that its descriptor does not know are refused.
    """
    name = f"schema {schema.name}"
    content = read_schema_file(schema.file if root is None else root / schema.file, name)
    if schema.message is None:
        return _json_check(read_json_schema(content, name), schema.name)
    return _protobuf_check(message_class(content, schema.message, name), schema, strict=strict)


def read_schema_file(path: Path, name: str) -> bytes:
    """The content. Raises ValueError with a sentence."""
    try:
        content = read_regular(path, MAX_FILE_BYTES, follow_links=True).raw
    except (OSError, NotRegular) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no regular file"
        raise ValueError(f"{name}: {path} cannot be read ({reason})") from error
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{name}: {path} is larger than {MAX_FILE_BYTES} bytes")
    return content


def read_json_schema(content: bytes, name: str) -> Any:
    """A JSON Schema. Raises ValueError if it is none."""
    import jsonschema_rs

    if one_line_json(content) is None:
        raise ValueError(f"{name} is not JSON in UTF-8 with every key once")
    schema = json.loads(content)
    if not isinstance(schema, (dict, bool)):
        raise ValueError(f"{name} is not a JSON Schema, which is an object")
    try:
        jsonschema_rs.meta.validate(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise ValueError(f"{name} is not a JSON Schema: {str(error).splitlines()[0]}") from error
    return schema


def _json_check(schema: Any, name: str) -> Check:
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(
            schema,
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_FILE_BYTES),
            validate_formats=True,
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise ValueError(f"schema {name} cannot be used: {str(error).splitlines()[0]}") from error

    def check(payload: bytes) -> None:
        if one_line_json(payload) is None:
            raise Invalid("payload", "payload is not JSON in UTF-8 with every key once")
        try:
            value = msgspec.json.decode(payload)
        except msgspec.DecodeError:
            raise Invalid("payload", "payload has a number that no double holds") from None
        error = next(validator.iter_errors(value), None)
        if error is not None:
            where = place_in_payload(error.instance_path)
            rule = error.schema_path[-1] if error.schema_path else "false"
            raise Invalid("payload", f"{where[:256]} is not valid for {name}: {rule}")

    return check


def message_class(content: bytes, message: str, name: str) -> Any:
    """The class of a protobuf message in a FileDescriptorSet. Raises ValueError."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError

    pool = descriptor_pool.DescriptorPool()
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(content)
        for file in files.file:
            pool.AddSerializedFile(file.SerializeToString())
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(message))
    except KeyError:
        raise ValueError(f"{name} has no message {message}; write its full name, package included") from None
    except (DecodeError, TypeError) as error:
        raise ValueError(
            f"{name} is no whole FileDescriptorSet; make one: protoc --include_imports --descriptor_set_out"
        ) from error


def _protobuf_check(kind: Any, schema: MessageSchema, *, strict: bool) -> Check:
    from google.protobuf.message import DecodeError

    def check(payload: bytes) -> None:
        try:
            message = kind.FromString(payload)
        except DecodeError:
            raise Invalid("payload", f"payload is not a {schema.message} of {schema.name}") from None
        if not message.IsInitialized():
            raise Invalid("payload", f"payload lacks a required field of {schema.message}")
        if strict and _has_unknown(message):
            raise Invalid("payload", f"payload has fields that {schema.message} does not know")

    return check


def _has_unknown(message: Any) -> bool:
    from google.protobuf.unknown_fields import UnknownFieldSet

    if len(UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner: Sequence[Any] = list(value.values()) if hasattr(value, "values") else []
        else:
            inner = value if field.is_repeated else [value]
        if any(hasattr(each, "ListFields") and _has_unknown(each) for each in inner):
            return True
    return False


__all__ = [
    "Check",
    "RoomSchemas",
    "SchemaRegistry",
    "compile_schema",
    "media_type",
    "message_class",
    "read_json_schema",
    "read_schema_file",
]
