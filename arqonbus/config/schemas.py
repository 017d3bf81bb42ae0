"""Settings of the schema registry: schemas of messages by content type."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from arqonbus.config.field import Section, setting
from arqonbus.config.units import FilePath, Text

SchemaName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$")]


class MessageSchema(Section):
    """A message type: its content type and schema file."""

    name: SchemaName = setting(..., "Name, to which rooms refer.", example="order.v1", reload="hot")
    content_type: Text = setting(
        ...,
        "Content type of the messages to validate.",
        example="application/vnd.order.v1+json",
        reload="hot",
    )
    file: FilePath = setting(
        ...,
        "JSON Schema file; if message is set, a protobuf FileDescriptorSet (protoc --descriptor_set_out).",
        example="schemas/order.v1.json",
        reload="hot",
    )
    message: Text | None = setting(
        None, "Full name of the protobuf message in the file.", example="shop.Order", reload="hot"
    )


__all__ = ["MessageSchema", "SchemaName"]
