"""Settings of the schema registry: what messages of a content type must look like."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from arqonbus.config.field import Section, setting
from arqonbus.config.units import FilePath, Text

SchemaName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$")]


class MessageSchema(Section):
    """One type of message: its content type, and the file that says what is valid."""

    name: SchemaName = setting(..., "What rooms call it.", example="order.v1", reload="hot")
    content_type: Text = setting(
        ...,
        "Content type of the messages that it is for.",
        example="application/vnd.order.v1+json",
        reload="hot",
    )
    file: FilePath = setting(
        ...,
        "A JSON Schema; with message, a FileDescriptorSet of protobuf (protoc --descriptor_set_out).",
        example="schemas/order.v1.json",
        reload="hot",
    )
    message: Text | None = setting(
        None, "Full name of the protobuf message in the file.", example="shop.Order", reload="hot"
    )


__all__ = ["MessageSchema", "SchemaName"]
