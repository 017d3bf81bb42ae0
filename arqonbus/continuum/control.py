"""Admin operations on the projection: end dead letters, project an event by hand, backfill, rebuild.

No transport: commands of the bus and of the command line both come here. Every action leaves a row in the
audit of its tenant, whatever came of it. Refusals are BusErrors; StorageError is let through.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from arqonbus.continuum.events import ROOM, InvalidEvent, parse_event
from arqonbus.continuum.reflex import Boundary
from arqonbus.protocol.errors import BusError, Code, Invalid
from arqonbus.protocol.ids import is_ulid
from arqonbus.protocol.names import is_name
from arqonbus.storage.projection import (
    Arrival,
    DeadLetter,
    Event,
    Origin,
    Projected,
    ProjectionStore,
    Reprojected,
    Selection,
    Subject,
    Unprojectable,
)

EVERY_TENANT = "*"  # whose audit tells of what was done to all tenants at once; no tenant has this name
STEP = 500  # episodes in one transaction
MAX_REASON = 500

T = TypeVar("T")

Outcome = Literal["projected", "duplicate", "stale", "replayed already"]


class Progress(NamedTuple):
    """Progress of a backfill. `next` is the position to continue from; None: done."""

    episodes: int = 0
    events: int = 0
    changed: int = 0
    orphans: int = 0
    next: Subject | None = Subject()

    def after(self, step: Reprojected) -> Progress:
        """With one more step."""
        return Progress(
            self.episodes + step.episodes,
            self.events + step.events,
            self.changed + step.changed,
            self.orphans + step.orphans,
            step.next,
        )


class Control:
    """The actions of one actor in one tenant, or in all of them."""

    def __init__(
        self, store: ProjectionStore, tenant: str | None, actor: str, boundary: Boundary | None = None
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._actor = actor
        self._boundary = boundary or Boundary()

    # -- single records

    async def replay(self, id: str, payload: bytes | None = None) -> Outcome:
        """Project a dead letter, as it arrived or corrected. Doing it again changes nothing.

        Raises NOT_FOUND, CONFLICT for a discarded one, and what parse_event says of a record that is still
        no event: it stays among the dead letters then.
        """
        arguments: dict[str, Any] = {"id": id}
        if payload is not None:
            arguments["payload_sha256"] = hashlib.sha256(payload).hexdigest()
        return await self._audited("dlq.replay", arguments, lambda: self._replay(id, payload))

    async def _replay(self, id: str, payload: bytes | None) -> Outcome:
        letter = await self._letter(id)
        if letter.state == "replayed":
            return "replayed already"
        event = self._parsed(letter.tenant, letter.payload if payload is None else payload)
        for name, kept, given in (
            ("event_id", letter.event, event.event),
            ("agent_id", letter.agent, event.agent),
        ):
            if kept and kept != given:
                raise Invalid(name, f"{name} is {given}, and a correction keeps that of the record, {kept}")
        resolution = "as it arrived" if payload is None else "corrected"
        ended = await self._resolved(letter, event, resolution)
        return _outcome(ended, letter.tenant) if ended else "replayed already"

    async def discard(self, id: str, reason: str) -> None:
        """Give a dead letter up. Raises NOT_FOUND, CONFLICT for one that is ended, Invalid for no reason."""
        await self._audited("dlq.discard", {"id": id, "reason": reason}, lambda: self._discard(id, reason))

    async def _discard(self, id: str, reason: str) -> Literal["discarded"]:
        if not reason.strip() or len(reason) > MAX_REASON or not reason.isprintable():
            raise Invalid("reason", f"a reason is one line of 1 to {MAX_REASON} characters")
        letter = await self._letter(id)
        if letter.state != "open":
            raise _ended(letter)
        await self._resolved(letter, None, reason)
        return "discarded"

    async def _resolved(self, letter: DeadLetter, event: Event | None, resolution: str) -> Projected | None:
        """None where another replay was faster. Raises CONFLICT where it was ended in another way."""
        try:
            ended = await self._store.resolve(letter, event, self._actor, resolution)
        except Unprojectable as error:
            raise BusError(Code.VALIDATION_ERROR, f"the store refuses it: {error}") from error
        if ended is None:
            now = await self._letter(letter.id)
            if event is None or now.state != "replayed":
                raise _ended(now)
        return ended

    async def project(self, payload: bytes) -> Outcome:
        """Project one event that did not come through the log. Raises what parse_event says of it."""
        arguments = {"payload_sha256": hashlib.sha256(payload).hexdigest()}
        return await self._audited("projector.project_event", arguments, lambda: self._project(payload))

    async def _project(self, payload: bytes) -> Outcome:
        tenant = self._own_tenant()
        event = self._parsed(tenant, payload)
        origin = Origin(ROOM, "", 0, time.time_ns() // 1000)
        try:
            return _outcome(await self._store.project([Arrival(event, origin)], ()), tenant)
        except Unprojectable as error:
            raise BusError(Code.VALIDATION_ERROR, f"the store refuses it: {error}") from error

    async def _letter(self, id: str) -> DeadLetter:
        letter = await self._store.dead_letter(self._own_tenant(), id)
        if letter is None:
            raise BusError(Code.NOT_FOUND, "there is no such dead letter in this tenant")
        if letter.state == "discarded":
            raise _ended(letter)
        return letter

    def _parsed(self, tenant: str, payload: bytes) -> Event:
        try:
            return parse_event(payload, tenant, boundary=self._boundary)
        except InvalidEvent as invalid:
            raise BusError(invalid.code, f"it is no event: {invalid}") from invalid

    def _own_tenant(self) -> str:
        if self._tenant is None:
            raise Invalid("tenant", "name the tenant")
        return self._tenant

    # -- many episodes

    async def step(
        self, selection: Selection, after: Subject, limit: int, *, rebuild: bool, dry_run: bool
    ) -> Reprojected:
        """The next episodes of a backfill or a rebuild, with a row in the audit."""
        arguments = _told(selection, dry_run) | {"cursor": format_cursor(after), "limit": limit}

        async def work() -> Reprojected:
            return await self._store.reproject(
                self._within(selection), after, limit, rebuild=rebuild, dry_run=dry_run
            )

        return await self._audited("projector.rebuild" if rebuild else "projector.backfill", arguments, work)

    async def run(
        self,
        selection: Selection,
        after: Subject,
        *,
        rebuild: bool,
        dry_run: bool,
        on_progress: Callable[[Progress], None],
        step: int = STEP,
    ) -> Progress:
        """A backfill or a rebuild to its end, with a row in the audit when it begins and when it ends.

        Each step is a transaction: after a cancellation, continue from the `next` that was returned last.
        """
        action = "projector.rebuild" if rebuild else "projector.backfill"
        arguments = _told(selection, dry_run) | {"cursor": format_cursor(after)}
        progress = Progress(next=after)

        async def work() -> Progress:
            nonlocal progress
            while progress.next is not None:
                found = await self._store.reproject(
                    self._within(selection), progress.next, step, rebuild=rebuild, dry_run=dry_run
                )
                progress = progress.after(found)
                on_progress(progress)
            return progress

        await self._record(action, arguments, "begun")
        try:
            return await self._audited(action, arguments, work)
        except asyncio.CancelledError:
            await self._record(action, arguments, f"interrupted at {format_cursor(progress.next)}")
            raise

    def _within(self, selection: Selection) -> Selection:
        """The selection, but never beyond the tenant."""
        return selection if self._tenant is None else selection._replace(tenant=self._tenant)

    # -- audit

    async def _audited(
        self, action: str, arguments: Mapping[str, Any], work: Callable[[], Awaitable[T]]
    ) -> T:
        try:
            result = await work()
        except BusError as refusal:
            await self._record(action, arguments, f"refused: {refusal.code}: {refusal.message}")
            raise
        await self._record(action, arguments, _summary(result))
        return result

    async def _record(self, action: str, arguments: Mapping[str, Any], outcome: str) -> None:
        await self._store.record(self._tenant or EVERY_TENANT, self._actor, action, arguments, outcome)


def format_cursor(place: Subject | None) -> str:
    """A place among episodes as text. Nothing for the beginning; no name holds the separator."""
    return "" if place is None or place == Subject() else ":".join(place)


def parse_cursor(text: str) -> Subject:
    """The place that `format_cursor` wrote. Raises Invalid."""
    if not text:
        return Subject()
    parts = text.split(":")
    if len(parts) != len(Subject._fields) or not all(map(is_name, parts[:2])) or not is_ulid(parts[2]):
        raise Invalid("cursor", "cursor is not one that this operation gave")
    return Subject(*parts)


def _told(selection: Selection, dry_run: bool) -> dict[str, Any]:
    since, until = selection.since, selection.until
    return {
        "agent_id": selection.agent,
        "from_ts": since.isoformat() if since else None,
        "to_ts": until.isoformat() if until else None,
        "dry_run": dry_run,
    }


def _summary(result: Any) -> str:
    if isinstance(result, (Progress, Reprojected)):
        return f"{result.changed} of {result.episodes} episodes changed, {result.orphans} have no event"
    return str(result)


def _outcome(projected: Projected, tenant: str) -> Outcome:
    tally = projected.tallies[tenant]
    return "projected" if tally.projected else "stale" if tally.stale else "duplicate"


def _ended(letter: DeadLetter) -> BusError:
    return BusError(
        Code.CONFLICT, f"the dead letter was {letter.state} by {letter.resolved_by}: {letter.resolution}"
    )


__all__ = ["EVERY_TENANT", "STEP", "Control", "Outcome", "Progress", "format_cursor", "parse_cursor"]
