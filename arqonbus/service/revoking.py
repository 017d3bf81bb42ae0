"""Keeps the list of revoked tokens: the operator's file, and what admins revoke, on all nodes of an engine.

What admins revoke is kept in a room of a tenant that no token can have, so it goes wherever the log goes: to
every node of a shared engine, and over a restart where the log outlives one. Nodes look at it every second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from arqonbus.config import Settings
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.ids import new_ulid
from arqonbus.protocol.names import OWN_TENANT
from arqonbus.shield.revocations import (
    Revocation,
    Revocations,
    TenantRevocations,
    entry_of,
    read_revocations,
    revocation_of,
)
from arqonbus.storage.ports import Batch, EventLog, Item, Retention, RoomKey, StorageError

ROOM = RoomKey(OWN_TENANT, "revocations")
MAX_PER_TENANT = 10_000  # revocations in force by the admins of one tenant; one more is refused
MAX_KEPT = 1_000_000  # records in the room; more are refused, for none that is in force may be lost
PAGE = 500
LOOK_SECONDS = 1.0
REBUILD_SECONDS = 3600.0

logger = logging.getLogger(__name__)


class RevocationKeeper:
    """The revocations in force. `on_change` is called after each change."""

    def __init__(self, settings: Settings, event_log: EventLog, on_change: Callable[[], None]) -> None:
        """Reads the file. Raises ValueError when there is one and it cannot be used."""
        self._event_log = event_log
        self._on_change = on_change
        self._lifetime = settings.auth.jwt.max_lifetime
        self._path = settings.auth.revoked
        self._of_file = read_file(settings)
        self._seen_file = _look(self._path)
        self._of_admins = TenantRevocations()
        self._position = ("", 0)
        self._records = 0  # in the room
        self._unseen = False  # connections were not looked at since something was revoked
        self.revocations = Revocations()
        self._rebuild()

    def take_file(self, settings: Settings, entries: list[Revocation]) -> None:
        """Apply what `read_file` found, in the same file or another."""
        self._of_file, self._path = entries, settings.auth.revoked
        self._seen_file = _look(self._path)
        self._lifetime = settings.auth.jwt.max_lifetime
        self._rebuild()

    async def run(self) -> None:
        """Look for what is new, until cancelled."""
        away = False
        while True:
            try:
                changed = await self._read_room()
                away = False
            except StorageError as error:
                changed = False
                if not away:
                    logger.warning("revocations of admins cannot be read now", extra={"reason": str(error)})
                away = True
            if await self._read_file():
                changed = True
                self._rebuild()
            elif time.monotonic() - self._rebuilt >= REBUILD_SECONDS:
                self._rebuild()  # without those that are no longer in force
            if changed or self._unseen:
                self._unseen = False
                self._on_change()
            await asyncio.sleep(LOOK_SECONDS)

    async def revoke(self, revocation: Revocation) -> None:
        """Revoke on all nodes; here at once, on others within LOOK_SECONDS.

        Raises StorageError, and BusError (CONFLICT) where the tenant has as many in force as it may have.

        Connections are looked at within LOOK_SECONDS too, or when the caller asks for it before.
        """
        if not self._of_admins.has_room(revocation, MAX_PER_TENANT, time.time()):
            raise BusError(
                Code.CONFLICT,
                f"the tenant has {MAX_PER_TENANT} revocations in force; revoke a subject, or everybody",
            )
        if self._records >= MAX_KEPT:
            raise BusError(
                Code.CONFLICT, f"this bus has {MAX_KEPT} records of revocations; tell its operator"
            )
        bound = round(self._lifetime * 1_000_000) if self._lifetime else 0
        data = json.dumps(entry_of(revocation)).encode()
        batch = Batch(ROOM, [Item(new_ulid(), "", data)], Retention(MAX_KEPT, bound))
        outcomes = self._event_log.append([batch])
        outcome = (outcomes if isinstance(outcomes, Sequence) else await outcomes)[0]
        if isinstance(outcome, StorageError):
            raise outcome
        await self._read_room()
        self._unseen = True

    def _rebuild(self) -> None:
        now = time.time()
        self._rebuilt = time.monotonic()
        self._of_admins.prune(now)
        self.revocations = Revocations(
            each for each in (*self._of_file, *self._of_admins) if each.until > now
        )

    async def _read_file(self) -> bool:
        seen = _look(self._path)
        if self._path is None or seen == self._seen_file:
            return False
        self._seen_file = seen
        try:
            self._of_file = await asyncio.to_thread(read_revocations, self._path)
        except ValueError as error:
            logger.error("the revoked tokens are those of before", extra={"reason": str(error)})
            return False
        logger.info("revoked tokens were read", extra={"entries": len(self._of_file)})
        return True

    async def _read_room(self) -> bool:
        """Read what came behind the last that was read; whether there was anything."""
        head = await self._event_log.head(ROOM)
        epoch, after = self._position
        if head.epoch != epoch:
            after = 0  # a new log began; known revocations stay in force
        after = max(after, head.first - 1)
        self._records = head.last - head.first + 1 if head.epoch else 0
        found = False
        while head.epoch and after < head.last:
            page = await self._event_log.read(ROOM, after, head.last, PAGE)
            if not page.entries:
                break
            for entry in page.entries:
                after = entry.sequence
                found |= self._take(entry.data)
        self._position = (head.epoch, after)
        return found

    def _take(self, data: bytes) -> bool:
        try:
            revocation = revocation_of(json.loads(data))
        except ValueError as error:
            logger.error("a revocation cannot be read", extra={"reason": str(error)})
            return False
        self._of_admins.add(revocation)
        self.revocations.add(revocation)
        return True


def read_file(settings: Settings) -> list[Revocation]:
    """The operator's entries. Raises ValueError with a sentence when there is a file that cannot be used."""
    return read_revocations(settings.auth.revoked) if settings.auth.revoked else []


def _look(path: Path | None) -> tuple[int, int, int] | None:
    """The identity of a version of the file; None: there is no file."""
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None


__all__ = ["MAX_KEPT", "MAX_PER_TENANT", "ROOM", "RevocationKeeper", "read_file"]
