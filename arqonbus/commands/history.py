"""op.history: read a room's log, newest first (`get`) or oldest first (`replay`), a page at a time.

A window is half-open, from <= t < to. A limit keeps the start of the reading direction and returns a
cursor; neither end of the window is ever dropped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from arqonbus.bus.follow import unavailable
from arqonbus.commands.table import Caller, Command, Frame
from arqonbus.protocol import wire_json
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code, Invalid
from arqonbus.protocol.ids import is_ulid
from arqonbus.protocol.wire_protobuf import stamped, stamped_frame
from arqonbus.storage.ports import Entry, EventLog, Head, RoomKey, StorageError

PAGE = 500
MAX_SCANNED = 20_000  # entries looked at for one page; a rare channel then goes on with the cursor
MAX_PAGE_BYTES = 256 * 1024

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Form = Literal["json", "protobuf"]


class HistoryArguments(msgspec.Struct, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Newest first. `from` and `to` are RFC 3339; `cursor` is the previous page's.

    `form`: of the messages, either JSON in the result, or a frame of envelopes, which costs a tenth.
    """

    room: str
    channel: str = ""
    from_: str | None = None
    to: str | None = None
    limit: Limit = 50
    cursor: str | None = None
    form: Form = "json"


class HistoryReplayArguments(msgspec.Struct, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Oldest first. `strict_sequence` refuses a page in which a sequence is missing or repeated."""

    room: str
    channel: str = ""
    from_: str | None = None
    to: str | None = None
    limit: Limit = 100
    cursor: str | None = None
    form: Form = "json"
    strict_sequence: bool = False


class _Window(NamedTuple):
    """Sequences first <= n <= last."""

    head: Head
    first: int
    last: int


async def get(caller: Caller, arguments: HistoryArguments) -> dict[str, Any] | Frame:
    key = caller.peer.session.demand("history", arguments.room)
    event_log = caller.node.event_log
    try:
        window = await _window(event_log, key, arguments)
        before = min(_position(arguments.cursor, window.head, window.last + 1), window.last + 1)
        found: list[Entry] = []
        size = scanned = 0
        while before > window.first and len(found) < arguments.limit and scanned < MAX_SCANNED:
            page = await event_log.read_back(key, before, min(PAGE, MAX_SCANNED - scanned))
            if not page.entries:
                before = window.first
                break
            for entry in page.entries:
                if entry.sequence < window.first:
                    before = window.first
                    break
                if len(found) == arguments.limit or size > MAX_PAGE_BYTES:
                    break
                before = entry.sequence
                scanned += 1
                if not arguments.channel or entry.channel == arguments.channel:
                    found.append(entry)
                    size += len(entry.data)
            if size > MAX_PAGE_BYTES:
                break
    except StorageError as failure:
        raise unavailable(failure) from failure
    return _result(arguments, window, found, before if before > window.first else None)


async def replay(caller: Caller, arguments: HistoryReplayArguments) -> dict[str, Any] | Frame:
    key = caller.peer.session.demand("history", arguments.room)
    event_log = caller.node.event_log
    try:
        window = await _window(event_log, key, arguments)
        after = _position(arguments.cursor, window.head, window.first - 1)
        if after + 1 < window.head.first:
            raise BusError(Code.POSITION_LOST, "the log no longer holds the messages behind the cursor")
        after = max(after, window.first - 1)
        found: list[Entry] = []
        size = scanned = 0
        while (
            after < window.last
            and len(found) < arguments.limit
            and scanned < MAX_SCANNED
            and size <= MAX_PAGE_BYTES
        ):
            page = await event_log.read(key, after, window.last, min(PAGE, MAX_SCANNED - scanned))
            if not page.entries:
                after = window.last
                break
            if arguments.strict_sequence:
                check_sequence(after, page.entries)
            for entry in page.entries:
                if len(found) == arguments.limit or size > MAX_PAGE_BYTES:
                    break
                after = entry.sequence
                scanned += 1
                if not arguments.channel or entry.channel == arguments.channel:
                    found.append(entry)
                    size += len(entry.data)
    except StorageError as failure:
        raise unavailable(failure) from failure
    return _result(arguments, window, found, after if after < window.last else None)


def check_sequence(after: int, entries: Sequence[Entry]) -> None:
    """Raise for the first number that is not the successor of the one before, with both numbers."""
    previous = after
    for entry in entries:
        if entry.sequence != previous + 1:
            details = {"previous": str(previous), "next": str(entry.sequence)}
            if entry.sequence <= previous:
                raise BusError(
                    Code.SEQUENCE_REGRESSION,
                    f"sequence {entry.sequence} follows {previous}: repeated or going back",
                    details=details,
                )
            raise BusError(
                Code.SEQUENCE_GAP,
                f"sequence {entry.sequence} follows {previous}: what lies between is missing",
                details=details,
            )
        previous = entry.sequence


async def _window(
    event_log: EventLog, key: RoomKey, arguments: HistoryArguments | HistoryReplayArguments
) -> _Window:
    head = await event_log.head(key)
    if not head.epoch:
        raise BusError(Code.NOT_FOUND, "there is no such room in this tenant")
    first, last = head.first, head.last
    if arguments.from_ is not None:
        first = await event_log.seek(key, wire_json.parse_time("from", arguments.from_))
    if arguments.to is not None:
        last = await event_log.seek(key, wire_json.parse_time("to", arguments.to)) - 1
    return _Window(head, max(first, head.first), min(last, head.last))


def _position(cursor: str | None, head: Head, default: int) -> int:
    """The sequence in a cursor. Raises POSITION_LOST when a new log has begun since."""
    if cursor is None:
        return default
    epoch, _, number = cursor.partition(":")
    if not (is_ulid(epoch) and number.isascii() and number.isdigit() and len(number) <= 20):
        raise Invalid("cursor", "cursor is not one that this operation gave")
    if epoch != head.epoch:
        raise BusError(
            Code.POSITION_LOST, "a new log has begun since this cursor was returned; start without a cursor"
        )
    return int(number)


def _result(
    arguments: HistoryArguments | HistoryReplayArguments,
    window: _Window,
    entries: Sequence[Entry],
    position: int | None,
) -> dict[str, Any] | Frame:
    epoch = window.head.epoch
    facts = {"room": arguments.room, "epoch": epoch}
    if position is not None:
        facts["cursor"] = f"{epoch}:{position}"
    if arguments.form == "protobuf":
        return Frame(stamped_frame(epoch, entries), facts)
    messages = [
        msgspec.Raw(wire_json.encode(Envelope.FromString(stamped(e.data, epoch, e.time_us, e.sequence))))
        for e in entries
    ]
    return {**facts, "messages": messages}


COMMANDS = (
    Command("op.history.get", "Read a room's messages, newest first.", HistoryArguments, get),
    Command("op.history.replay", "Read a room's messages, oldest first.", HistoryReplayArguments, replay),
)

__all__ = ["COMMANDS", "check_sequence"]
