"""Export of an outbox to the bus: in order, each event until it is acknowledged, across restarts of both.

The cursor moves only behind what the bus has acked, so that a kill between any two steps repeats events and
loses none; the bus and the projector recognise a repetition by its id. An event that the bus refuses for good
is set aside in a file with the reason and does not block others.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from arqonbus.client import Client, ClientError, Rejected
from arqonbus.continuum.events import ROOM
from arqonbus.continuum.outbox import Cursor, Outbox, Place, Record
from arqonbus.protocol.envelope import JSON_CONTENT
from arqonbus.protocol.errors import Code

BATCH = 256  # published at once; the cursor is written once for all of them
POLL_SECONDS = 0.1
MAX_PAUSE_SECONDS = 10.0
# Refusals of this one event, which no repetition changes.
FINAL = {
    Code.POLICY_BLOCKED,
    Code.TENANT_MISMATCH,
    Code.TOO_LARGE,
    Code.VALIDATION_ERROR,
    Code.DECODE_ERROR,
}

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Exported:
    """Counters of an exporter since its start. `connected`: the bus accepts events now."""

    position: int = 0
    published: int = 0
    repeated: int = 0
    set_aside: int = 0
    failures: int = 0
    connected: bool = False


class Exporter:
    """Follows one outbox. `connect` gives a new client; `refused` is the file of what was set aside."""

    def __init__(
        self,
        outbox: Outbox,
        cursor: Cursor,
        connect: Callable[[], Client],
        refused: Path,
        on_progress: Callable[[Exported], None] = lambda _: None,
    ) -> None:
        self._outbox = outbox
        self._cursor = cursor
        self._connect = connect
        self._refused = refused
        self._on_progress = on_progress
        self.done = Exported()

    async def run(self, *, follow: bool = True) -> Exported:
        """Export what is there, and, if `follow`, what comes, until cancelled.

        Raises OutboxError for an outbox or a cursor that cannot be gone on from. The bus may be away.
        """
        place = self._cursor.read()
        self._outbox.check(place)
        self.done.position = place.position
        pause = POLL_SECONDS
        while True:
            try:
                async with self._connected() as client:
                    pause = POLL_SECONDS
                    await self._follow(client, follow=follow)
                    return self.done
            except ClientError as error:
                self.done.failures += 1
                logger.warning("the bus does not take events; trying again in %.1f s: %s", pause, error)
                self._on_progress(self.done)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_SECONDS)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        async with self._connect() as client:
            self.done.connected = True
            try:
                yield client
            finally:
                self.done.connected = False

    async def _follow(self, client: Client, *, follow: bool) -> None:
        while True:
            records = self._outbox.after(self.done.position, BATCH)
            if records:
                await self._publish(client, records)
                self._cursor.write(Place(records[-1].position, records[-1].id))
                self.done.position = records[-1].position
                self._on_progress(self.done)
            elif not follow:
                return
            else:
                await asyncio.sleep(POLL_SECONDS)

    async def _publish(self, client: Client, records: Sequence[Record]) -> None:
        """Publish them all, and return when each is acked or set aside. Raises ClientError."""
        sending = [asyncio.create_task(self._publish_one(client, record)) for record in _told_apart(records)]
        try:
            await asyncio.gather(*sending)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _publish_one(self, client: Client, record: Record) -> None:
        try:
            ack = await client.publish(
                ROOM, record.event, content_type=JSON_CONTENT, message_id=record.id, name="continuum.episode"
            )
        except Rejected as error:
            if error.error.code not in FINAL:
                raise
            self._set_aside(record, error)
            return
        self.done.published += 1
        self.done.repeated += ack.duplicate

    def _set_aside(self, record: Record, error: Rejected) -> None:
        """Keep what was refused. A line may stand there twice after a kill, and is never missing."""
        self.done.set_aside += 1
        logger.error("the bus refuses the event at position %d: %s", record.position, error)
        line = {
            "position": record.position,
            "at": datetime.now(UTC).isoformat(),
            "code": error.error.code,
            "reason": error.error.message,
            "event": record.event.decode("utf-8", "replace"),
        }
        with self._refused.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _told_apart(records: Sequence[Record]) -> Iterator[Record]:
    """The records, each id once, because acks are matched by id."""
    seen: set[str] = set()
    for record in records:
        yield record._replace(id="") if record.id in seen else record
        seen.add(record.id)


__all__ = ["Exported", "Exporter"]
