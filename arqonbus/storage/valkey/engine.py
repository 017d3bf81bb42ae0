"""Connections to the Valkey servers by slot, with the function library loaded.

The engine is one server (or several addresses of which one is the primary), or the primaries of a cluster.
Follows redirects of a cluster; never repeats a command whose outcome is unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from arqonbus.protocol.ids import new_ulid
from arqonbus.storage.ports import StorageError
from arqonbus.storage.valkey.keys import GENERATION_KEY, SLOTS
from arqonbus.storage.valkey.line import Line
from arqonbus.storage.valkey.link import Access, Command, Endpoint, LinkLost, NotSent, ReplyError, ValkeyLink
from arqonbus.storage.witness import Incarnation

LIBRARY_VERSION = 5  # equal to VERSION in functions.lua; a test compares them

_REDIRECTS = frozenset({"MOVED", "ASK", "TRYAGAIN"})
# Errors before anything was executed, so that the outcome is known.
_REFUSED = _REDIRECTS | frozenset(
    {
        "CLUSTERDOWN",
        "LOADING",
        "READONLY",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
        "MASTERDOWN",
        "NOPERM",
        "NOAUTH",
        "BUSY",
        "NOGROUP",
        "TOOMANYGROUPS",
        "UNCHECKED",
    }
)
_REDIRECT_SECONDS = 5.0
_REFRESH_SECONDS = 5.0
_REFRESH_PAUSE = 0.2

logger = logging.getLogger(__name__)


def library() -> str:
    """Source of the function library: two files, loaded as one."""
    sources = files("arqonbus.storage.valkey")
    names = ("functions.lua", "groups.lua")
    return "\n".join(sources.joinpath(name).read_text("utf-8") for name in names)


class ValkeyEngine:
    """Lines to the servers. `on_change` is called when a line is up or slots have a new owner."""

    def __init__(
        self, endpoints: Sequence[Endpoint], access: Access, *, cluster: bool, durable: bool
    ) -> None:
        self.access = access
        self.cluster = cluster
        self.seeds = tuple(endpoints)
        self.on_change: Callable[[], None] = lambda: None
        self._durable = durable
        self._library = library()
        self.flushed_runs: set[str] = set()  # of servers that flush everything to disk before they show it
        self._lines: dict[Endpoint, Line] = {}
        self._owners: list[Endpoint] = []
        self._stale = asyncio.Event()
        self._refreshing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect. Raises StorageError if no server can be used within the connect timeout."""
        for endpoints in [self.seeds] if not self.cluster else [(seed,) for seed in self.seeds]:
            self._add_line(endpoints)
        patience = self.access.connect_timeout
        if not self.cluster:
            await self._only_line().up(patience)
            return
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(_settled(line, patience)) for line in self._lines.values()]
        if not any(wait.result() is None for wait in waits):
            raise StorageError("; ".join(str(wait.result()) for wait in waits))
        if not await self.refresh():
            raise StorageError(
                f"Valkey at {', '.join(map(str, self.seeds))} did not return a complete cluster map."
            )
        for line in list(self._lines.values()):
            await line.up(patience)
        self._watch = asyncio.create_task(self._keep_fresh(), name="valkey cluster map")

    async def close(self) -> None:
        """Close all connections after their outstanding replies."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])
        lines, self._lines = self._lines, {}
        await asyncio.gather(*(line.close() for line in lines.values()))

    def endpoint(self, slot: int) -> Endpoint:
        """The server of the slot. Raises StorageError if it is unknown."""
        if not self.cluster:
            return self.seeds[0]
        if not self._owners:
            raise StorageError("The map of the Valkey cluster is unknown yet. Nothing was written.")
        return self._owners[slot]

    def endpoints(self) -> Sequence[Endpoint]:
        """All servers that take writes."""
        return tuple(self._lines)

    def link(self, slot: int) -> ValkeyLink:
        """The connection that serves the slot. Raises StorageError (outcome known) while there is none."""
        line = (
            self._lines.get(self.endpoint(slot)) if self.cluster else next(iter(self._lines.values()), None)
        )
        if line is None:
            raise StorageError(
                "Valkey is not connected: the log is closed or its cluster is changing. Nothing was written."
            )
        return line.usable()

    async def identity(self, slot: int) -> Incarnation:
        """Ask the server of the slot for its current identity. Raises StorageError."""
        link = self.link(slot)
        try:
            await self.identify(link)
        except (LinkLost, NotSent, ReplyError) as failure:
            raise storage_error(failure) from failure
        return link.incarnation

    def links(self) -> Sequence[ValkeyLink]:
        """The connections that are up."""
        return [line.link for line in self._lines.values() if line.link is not None]

    def is_up(self, slot: int) -> bool:
        """True if a command for the slot can be sent now."""
        try:
            return not self.link(slot).lost.done()
        except StorageError:
            return False

    async def call(self, slot: int, *command: str | int | float | bytes) -> Any:
        """One command's reply. Raises StorageError."""
        return (await self.pipeline(slot, [command]))[0]

    async def pipeline(self, slot: int, commands: Sequence[Command]) -> list[Any]:
        """Replies of commands for one slot. Raises StorageError for the first that failed."""
        replies = await self.flight(slot, commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise storage_error(reply)
        return replies

    async def flight(self, slot: int, commands: Sequence[Command]) -> list[Any]:
        """Replies, with failures as values. Follows redirects until a server accepts the first command."""
        deadline = asyncio.get_running_loop().time() + _REDIRECT_SECONDS
        link, prefix = self.link(slot), 0
        while True:
            asking: list[Command] = [("ASKING",)] if prefix else []
            replies = (await link.flight([*asking, *commands]))[prefix:]
            first = replies[0]
            if not is_redirect(first) or asyncio.get_running_loop().time() > deadline:
                return replies
            prefix = 0
            if first.code == "ASK":
                endpoint = _endpoint_in(first)
                line = self._lines.get(endpoint) or self._add_line((endpoint,))
                link, prefix = await line.up(self.access.connect_timeout), 1
                continue
            await asyncio.sleep(_REFRESH_PAUSE / 4)
            await self.refresh()
            link = self.link(slot)

    def suspect(self) -> None:
        """Request a refresh of the cluster map, because something did not match it."""
        self._stale.set()

    async def refresh(self) -> bool:
        """Read the cluster map from the first server that answers. False if none returned a complete one."""
        async with self._refreshing:
            return await self._refresh()

    async def _refresh(self) -> bool:
        for line in list(self._lines.values()):
            if line.link is None:
                continue
            try:
                ranges = await line.link.call("CLUSTER", "SLOTS")
            except (LinkLost, ReplyError) as error:
                logger.debug("No cluster map from %s: %s", line, error)
                continue
            owners = _owners(ranges, line.endpoints[0])
            if owners is not None:
                await self._adopt(owners)
                return True
        return False

    async def _adopt(self, owners: list[Endpoint]) -> None:
        changed = owners != self._owners
        self._owners = owners
        primaries = set(owners)
        for endpoint in primaries - self._lines.keys():
            await self._add_line((endpoint,)).up(self.access.connect_timeout)
        leaving = [self._lines.pop(endpoint) for endpoint in set(self._lines) - primaries]
        for line in leaving:
            await line.close()
        if changed:
            self.on_change()

    async def _keep_fresh(self) -> None:
        while True:
            whole = all(line.link is not None for line in self._lines.values())
            try:
                async with asyncio.timeout(_REFRESH_SECONDS if whole else _REFRESH_PAUSE):
                    await self._stale.wait()
            except TimeoutError:
                pass
            self._stale.clear()
            try:
                await self.refresh()
            except StorageError as error:
                logger.warning("Cannot connect to the servers of the new Valkey cluster map yet: %s", error)
            await asyncio.sleep(_REFRESH_PAUSE)

    def _add_line(self, endpoints: Sequence[Endpoint]) -> Line:
        line = self._lines[endpoints[0]] = Line(
            endpoints,
            self.access,
            prepare=self.prepare,
            on_up=lambda _: self.on_change(),
            on_down=lambda _: self.suspect(),
        )
        line.start()
        return line

    def _only_line(self) -> Line:
        return next(iter(self._lines.values()))

    async def prepare(self, link: ValkeyLink) -> None:
        """Refuse an unsuitable server; load the function library. Raises like `ValkeyLink.call`."""
        role = (await link.call("ROLE"))[0]
        if role != b"master":
            if self.cluster:
                return  # usable to read the cluster map, which then replaces it
            raise StorageError(f"Valkey at {link.endpoint} is a {role.decode()}, not the primary")
        await load_library(link, self._library)
        await self.identify(link)
        if link.incarnation.promoted:
            self.flushed_runs.clear()  # flushed there does not mean flushed here
        if link.incarnation.flushes:
            self.flushed_runs.add(link.incarnation.run)
        if self._durable:
            await _require_aof(link)

    async def identify(self, link: ValkeyLink) -> None:
        """Ask the server for its identity and the generation of its data. Raises like `ValkeyLink.call`."""
        found, former = await _incarnation(link)
        if not self.cluster:  # shards of a cluster have no common key
            call = ("FCALL", "arqonbus_generation", 1, GENERATION_KEY, f"{found.run} {former}", new_ulid())
            found = found._replace(run=(await link.call(*call)).decode())
        link.incarnation = found


async def _incarnation(link: ValkeyLink) -> tuple[Incarnation, str]:
    """The server's identity, and the replication id of its former primary. Needs permission for INFO."""
    text = (await link.call("INFO", "server")) + b"\r\n" + (await link.call("INFO", "replication"))
    facts = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    try:
        settings = await link.call("CONFIG", "GET", "append*")
    except ReplyError as refusal:  # no permission: assume that nothing is flushed
        logger.warning("Valkey at %s does not show its append-only settings: %s", link.endpoint, refusal)
        settings = {}
    flushes = settings.get(b"appendonly") == b"yes" and settings.get(b"appendfsync") == b"always"
    former = facts.get(b"master_replid2", b"").strip(b"0").decode()
    return Incarnation(facts[b"run_id"].decode(), flushes, former != ""), former


async def load_library(link: ValkeyLink, source: str) -> None:
    """Load the function library unless the server has this version or a newer one.

    Raises like `ValkeyLink.call`.
    """
    try:
        version = await link.call("FCALL", "arqonbus_version", 0)
    except ReplyError as error:
        if "not found" not in str(error):
            raise
        version = 0
    if version < LIBRARY_VERSION:
        await link.call("FUNCTION", "LOAD", "REPLACE", source)


async def _require_aof(link: ValkeyLink) -> None:
    try:
        await link.call("WAITAOF", 1, 0, 1)
    except ReplyError as error:
        raise StorageError(
            f"Valkey at {link.endpoint} cannot guarantee durability ({error}). Set appendonly yes (and "
            "appendfsync always, or acks wait for the next flush), or set the durability to hot."
        ) from error


async def _settled(line: Line, patience: float) -> StorageError | None:
    try:
        await line.up(patience)
    except StorageError as error:
        return error
    return None


def _owners(ranges: Any, asked: Endpoint) -> list[Endpoint] | None:
    owners: list[Endpoint | None] = [None] * SLOTS
    for begin, end, primary, *_ in ranges:
        host = primary[0].decode() if primary[0] else asked.host  # empty: the server that answered
        owners[begin : end + 1] = [Endpoint(host, primary[1])] * (end + 1 - begin)
    whole = [owner for owner in owners if owner is not None]
    return whole if len(whole) == SLOTS else None


def _endpoint_in(redirect: ReplyError) -> Endpoint:
    host, _, port = str(redirect).split()[2].rpartition(":")
    return Endpoint(host, int(port))


def is_redirect(reply: object) -> bool:
    """True if the command was not executed here and must be sent to another server, or again."""
    return isinstance(reply, ReplyError) and reply.code in _REDIRECTS


def is_unchecked(reply: object) -> bool:
    """True if the command was not executed because the room must be checked first."""
    return isinstance(reply, ReplyError) and reply.code == "UNCHECKED"


def storage_error(failure: Exception) -> StorageError:
    """Convert a failure to StorageError, with `outcome_unknown` set correctly."""
    if isinstance(failure, StorageError):
        return failure
    if isinstance(failure, ReplyError):
        known = failure.code in _REFUSED or "unction not found" in str(failure)
        return StorageError(f"Valkey refused: {failure}", outcome_unknown=not known)
    if isinstance(failure, NotSent):
        return StorageError(f"{failure} Nothing was written.")
    return StorageError(f"{failure} Whether the write took effect is unknown.", outcome_unknown=True)


__all__ = [
    "LIBRARY_VERSION",
    "ValkeyEngine",
    "is_redirect",
    "is_unchecked",
    "library",
    "load_library",
    "storage_error",
]
