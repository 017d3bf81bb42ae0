"""Messages as text for a terminal and as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

from arqonbus.cli.table import Style, printable, styled

if TYPE_CHECKING:
    from arqonbus.client import Message

_ROOM_STYLES: tuple[Style, ...] = ("cyan", "green", "yellow")
MIN_PAYLOAD = 20


def as_json(message: Message) -> str:
    """The envelope as one line of JSON, in the JSON wire format."""
    from arqonbus.protocol import wire_json

    return wire_json.encode(message.envelope).decode()


def payload_text(payload: bytes, content_type: str) -> str:
    """The payload as one printable line."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return f"<{len(payload)} bytes of {content_type or 'no declared type'}>"
    return printable(" ".join(text.split("\n")) if "\n" in text else text)


def line(message: Message, width: Literal["terminal", "full"] = "terminal") -> str:
    """`12:00:00.123  orders/eu 17  order.created  {"id": 7}`, cut to the width of the terminal."""
    envelope = message.envelope
    seconds = (envelope.server_time_us or envelope.time_us) / 1_000_000
    clock = time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03d}"
    place = f"{message.room}/{message.channel}" if message.channel else message.room
    head = f"{clock}  {place} {message.sequence}"
    name = f"  {printable(message.name)}" if message.name else ""
    text = payload_text(message.payload, message.content_type)
    if width == "terminal" and sys.stdout.isatty():
        room = max(MIN_PAYLOAD, shutil.get_terminal_size().columns - len(head) - len(name) - 2)
        if len(text) > room:
            text = text[: room - 1] + "…"
    style = _ROOM_STYLES[sum(message.room.encode()) % len(_ROOM_STYLES)]
    shown = f"{styled(clock, 'dim')}  {styled(place, style)} {styled(str(message.sequence), 'dim')}"
    return f"{shown}{styled(name, 'bold')}  {text}"


def print_json(value: Any) -> None:
    """JSON for machines, indented."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


__all__ = ["as_json", "line", "payload_text", "print_json"]
