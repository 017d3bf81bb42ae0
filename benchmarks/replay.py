"""How long 4 000 messages take from the log to the bytes of the answer, in process, per backend and form.

python -m benchmarks.replay [--rounds 60]

Each round asks op.history.replay for page after page with strict_sequence until the room is read; what a page
costs on the socket is not in it. Prints p50 and p95 in milliseconds, and the CPU of a message.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from arqonbus.commands import history
from arqonbus.protocol import replies, wire_protobuf
from arqonbus.protocol.envelope import JSON_CONTENT, MESSAGE, Envelope
from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.memory.log import MemoryLog
from arqonbus.storage.ports import Batch, EventLog, Item, Retention, RoomKey
from arqonbus.storage.sqlite.log import SqliteLog

MESSAGES = 4000
ROOM = RoomKey("bench", "room")


async def fill(log: EventLog) -> None:
    stamp = wire_protobuf.sender_stamp("bench", "publisher")
    for begin in range(0, MESSAGES, 100):
        items = []
        for number in range(begin, begin + 100):
            payload = json.dumps({"n": number, "text": "x" * 200}).encode()
            envelope = Envelope(
                id=new_ulid(),
                kind=MESSAGE,
                room=ROOM.room,
                time_us=replies.now_us(),
                content_type=JSON_CONTENT,
                payload=payload,
            )
            items.append(Item(envelope.id, "", envelope.SerializeToString() + stamp))
        outcomes = log.append([Batch(ROOM, items, Retention(0, 0))])
        if isinstance(outcomes, Awaitable):
            await outcomes


async def replay(log: EventLog, form: str) -> list[bytes]:
    """Read the room page after page, as a client asks for it; the encoded replies."""
    session = SimpleNamespace(demand=lambda _action, _room: ROOM)
    caller: Any = SimpleNamespace(node=SimpleNamespace(event_log=log), peer=SimpleNamespace(session=session))
    cursor, encoded = None, []
    while True:
        arguments = history.HistoryReplayArguments(
            ROOM.room, limit=1000, cursor=cursor, form=form, strict_sequence=True
        )  # type: ignore[arg-type]
        result = await history.replay(caller, arguments)
        if isinstance(result, history.Frame):
            reply = replies.frame_reply("0", *result)
            cursor = result.facts.get("cursor")
        else:
            reply = replies.reply("0", result)
            cursor = result.get("cursor")
        encoded.append(reply.SerializeToString())
        if cursor is None:
            return encoded


def messages_in(encoded: list[bytes], form: str) -> int:
    """How many messages the replies hold, as a client finds them."""
    payloads = [Envelope.FromString(data).payload for data in encoded]
    if form == "protobuf":
        return sum(len(wire_protobuf.decode(payload)) for payload in payloads)
    return sum(len(json.loads(payload)["messages"]) for payload in payloads)


async def measure(log: EventLog, form: str, rounds: int) -> None:
    await fill(log)
    seconds = []
    cpu = time.process_time()
    for _ in range(rounds):
        began = time.perf_counter()
        encoded = await replay(log, form)
        seconds.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    assert messages_in(encoded, form) == MESSAGES
    seconds.sort()
    p50, p95 = (seconds[len(seconds) * part // 100] * 1e3 for part in (50, 95))
    each = cpu / rounds / MESSAGES * 1e6
    print(f"{log.name:8} {form:9} p50 {p50:7.1f} ms   p95 {p95:7.1f} ms   {each:5.2f} µs CPU a message")


async def run(rounds: int) -> None:
    for form in ("protobuf", "json"):
        for backend in ("memory", "sqlite"):
            with tempfile.TemporaryDirectory() as directory:
                log: Any = MemoryLog() if backend == "memory" else SqliteLog(Path(directory) / "log.sqlite")
                await log.open(None)
                await measure(log, form, rounds)
                await log.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    asyncio.run(run(parser.parse_args().rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
