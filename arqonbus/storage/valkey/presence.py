"""This process's clients in the shared presence lists, renewed while the process runs.

If the process dies, its clients expire by the engine's clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from arqonbus.storage.ports import RoomKey, RoomMember, StorageError
from arqonbus.storage.valkey.engine import ValkeyEngine, storage_error
from arqonbus.storage.valkey.keys import room_keys
from arqonbus.storage.valkey.link import Command

_MEMBERS_PER_CALL = 500  # bounds how long one call blocks the engine
_CALLS_AT_ONCE = 32

logger = logging.getLogger(__name__)


class SharedPresence:
    """Enters, renews and lists clients. `renew_seconds` must be well below `expiry_seconds`."""

    def __init__(self, engine: ValkeyEngine, *, expiry_seconds: float, renew_seconds: float) -> None:
        self._engine = engine
        self._expiry_ms = int(expiry_seconds * 1000)
        self._renew_seconds = renew_seconds
        self._own: dict[RoomKey, dict[str, RoomMember]] = {}
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start renewing."""
        self._task = asyncio.create_task(self._keep_renewing(), name="valkey presence renewal")

    async def close(self) -> None:
        """Stop renewing, and remove this process's clients if the engine is reachable."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        gone = [(room, client) for room, members in self._own.items() for client in members]
        self._own.clear()
        for begin in range(0, len(gone), _CALLS_AT_ONCE):
            leaving = [self._remove(room, client) for room, client in gone[begin : begin + _CALLS_AT_ONCE]]
            for outcome in await asyncio.gather(*leaving, return_exceptions=True):
                if isinstance(outcome, StorageError):
                    logger.warning("Clients of this node stay listed until they expire: %s", outcome)
                    return
                if isinstance(outcome, BaseException):
                    raise outcome

    def renew_soon(self) -> None:
        """Renew now, because the engine may have lost this node's clients."""
        self._due.set()

    async def enter(self, room: RoomKey, member: RoomMember) -> None:
        """List the client and keep it listed."""
        slot = room_keys(room).slot
        self._own.setdefault(room, {})[member.client] = member
        await self._engine.call(slot, *self._command(room, [member]))

    async def leave(self, room: RoomKey, client: str) -> None:
        """Remove the client from the list."""
        members = self._own.get(room)
        if members is not None:
            members.pop(client, None)
            if not members:
                del self._own[room]
        await self._remove(room, client)

    async def present(self, room: RoomKey, limit: int) -> Sequence[RoomMember]:
        """At most `limit` members on all nodes, by client id."""
        keys = room_keys(room)
        command = ("FCALL", "arqonbus_present", 3, keys.expiry, keys.names, keys.info, max(limit, 0))
        flat = await self._engine.call(keys.slot, *command)
        return [RoomMember(client.decode(), info) for client, info in zip(flat[::2], flat[1::2], strict=True)]

    async def _remove(self, room: RoomKey, client: str) -> None:
        keys = room_keys(room)
        command = ("FCALL", "arqonbus_leave", 3, keys.expiry, keys.names, keys.info, client)
        await self._engine.call(keys.slot, *command)

    def _command(self, room: RoomKey, members: Sequence[RoomMember]) -> Command:
        keys = room_keys(room)
        parts: list[str | int | bytes] = ["FCALL", "arqonbus_enter", 3, keys.expiry, keys.names, keys.info]
        parts.append(self._expiry_ms)
        for client, info in members:
            parts += (client, info)
        return tuple(parts)

    async def _keep_renewing(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._renew_seconds):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            try:
                await self._renew()
            except StorageError as error:
                logger.warning("Presence was not renewed; retrying in %g s: %s", self._renew_seconds, error)

    async def _renew(self) -> None:
        due: dict[int, list[Command]] = {}
        for room, members in self._own.items():
            everyone = list(members.values())
            for begin in range(0, len(everyone), _MEMBERS_PER_CALL):
                command = self._command(room, everyone[begin : begin + _MEMBERS_PER_CALL])
                due.setdefault(room_keys(room).slot, []).append(command)
        flights = list(due.items())
        for begin in range(0, len(flights), _CALLS_AT_ONCE):
            some = flights[begin : begin + _CALLS_AT_ONCE]
            for replies in await asyncio.gather(*(self._engine.flight(*flight) for flight in some)):
                for reply in replies:
                    if isinstance(reply, Exception):
                        raise storage_error(reply)


__all__ = ["SharedPresence"]
