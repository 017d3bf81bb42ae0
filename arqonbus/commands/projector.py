"""op.continuum.projector: what was projected, what could not be, and what an admin does about it.

For admins of the tenant, and only ever in their tenant. How much is there follows from projector.phase of
the profile; without a store for the projection there is nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Annotated, Any, Literal

import msgspec

from arqonbus.bus.follow import unavailable
from arqonbus.commands.table import Caller, Command, NoArguments
from arqonbus.config.operations import PHASES, ProjectorPhase
from arqonbus.continuum.control import Control, format_cursor, parse_cursor
from arqonbus.continuum.reflex import Boundary
from arqonbus.continuum.view import books_view, episode_view, letter_view
from arqonbus.protocol import wire_json
from arqonbus.protocol.errors import BusError, Code, Invalid
from arqonbus.protocol.ids import is_ulid
from arqonbus.protocol.names import is_name
from arqonbus.storage.ports import StorageError
from arqonbus.storage.projection import ProjectionStore, Selection, Subject

_Handler = Callable[..., Awaitable[Any]]  # of caller, store and arguments

MAX_PAGE_BYTES = 256 * 1024
READ_AT_ONCE = 50  # rows; each may be as large as an event
Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]
Name = Annotated[str, msgspec.Meta(max_length=128)]
Id = Annotated[str, msgspec.Meta(max_length=64)]
Time = Annotated[str, msgspec.Meta(max_length=64)]
Cursor = Annotated[str, msgspec.Meta(max_length=300)]


class EpisodeArguments(msgspec.Struct, forbid_unknown_fields=True):
    """An episode of an agent."""

    agent_id: Name
    episode_id: Id


class EpisodeListArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`agent_id`: only this one's. `deleted`: with tombstones. `cursor`: the previous page's."""

    agent_id: Name | None = None
    deleted: bool = False
    limit: Limit = 100
    cursor: Cursor = ""


class EventArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`event`: as it would be published to the room of episodes."""

    event: dict[str, Any]


class LettersArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`state`: only those; null for all. `cursor`: the previous page's."""

    state: Literal["open", "replayed", "discarded"] | None = "open"
    limit: Limit = 100
    cursor: Cursor = ""


class LetterArguments(msgspec.Struct, forbid_unknown_fields=True):
    """A dead letter."""

    id: Id


class DeadLetterReplayArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`event`: what goes in instead of what arrived; it keeps the ids that are known."""

    id: Id
    event: dict[str, Any] | None = None


class DiscardArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`reason`: why the record is not needed."""

    id: Id
    reason: Annotated[str, msgspec.Meta(max_length=500)]


class BackfillArguments(msgspec.Struct, forbid_unknown_fields=True):
    """Events by the time of their source, from_ts <= t < to_ts; one step at a time, of `limit` episodes.

    `dry_run`: only tell. `cursor`: of the step before.
    """

    from_ts: Time | None = None
    to_ts: Time | None = None
    agent_id: Name | None = None
    dry_run: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 500
    cursor: Cursor = ""


def _from(phase: ProjectorPhase) -> Callable[[_Handler], Callable[[Caller, Any], Awaitable[Any]]]:
    """Let a handler run from a phase on, give it the store, and say what fails in the bus's words."""

    def of_phase(handler: _Handler) -> Callable[[Caller, Any], Awaitable[Any]]:
        @wraps(handler)
        async def run(caller: Caller, arguments: Any) -> Any:
            now = caller.node.settings.projector.phase
            if PHASES.index(now) < PHASES.index(phase):
                raise BusError(
                    Code.FEATURE_DISABLED, f"projector.phase is {now}; this is there from {phase} on"
                )
            try:
                return await handler(caller, store_of(caller), arguments)
            except StorageError as failure:
                raise unavailable(failure) from failure

        return run

    return of_phase


def store_of(caller: Caller) -> ProjectionStore:
    """The node's projection. Raises CAPABILITY_UNAVAILABLE where it has none."""
    store = caller.node.services.projection
    if store is None:
        raise BusError(
            Code.CAPABILITY_UNAVAILABLE,
            "this bus has no store for the projection; projector.phase and datastores.postgres give it one",
        )
    return store


@_from("shadow")
async def status(caller: Caller, store: ProjectionStore, arguments: NoArguments) -> dict[str, Any]:
    tenant, counters = _tenant(caller), caller.node.services.projector()
    facts: dict[str, Any] = {
        "phase": caller.node.settings.projector.phase,
        "store": store.name,
        "counts": dict(await store.counts(tenant)),
        "books": books_view(await store.books(tenant)),
    }
    if counters is not None:
        facts["projector"] = {"store_up": counters.store_up, "failures": counters.failures}
    return facts


@_from("replay")
async def project_event(caller: Caller, store: ProjectionStore, arguments: EventArguments) -> dict[str, Any]:
    return {"outcome": await _control(caller, store).project(_encoded(arguments.event))}


@_from("read_only")
async def get(caller: Caller, store: ProjectionStore, arguments: EpisodeArguments) -> dict[str, Any]:
    _check_agent(arguments.agent_id)
    if not is_ulid(arguments.episode_id):
        raise Invalid("episode_id", "episode_id is no ULID in its canonical form")
    episode = await store.episode(Subject(_tenant(caller), arguments.agent_id, arguments.episode_id))
    if episode is None:
        raise BusError(Code.NOT_FOUND, "there is no such episode in this tenant")
    return {"episode": episode_view(episode)}


@_from("read_only")
async def list_(caller: Caller, store: ProjectionStore, arguments: EpisodeListArguments) -> dict[str, Any]:
    if arguments.agent_id is not None:
        _check_agent(arguments.agent_id)
    tenant, after = _tenant(caller), parse_cursor(arguments.cursor)
    shown: list[msgspec.Raw] = []
    size = 0
    while True:
        wanted = min(READ_AT_ONCE, arguments.limit - len(shown))
        page = await store.episodes(tenant, arguments.agent_id, after, wanted, deleted=arguments.deleted)
        for episode in page:
            if len(shown) == arguments.limit or size > MAX_PAGE_BYTES:
                return {"episodes": shown, "cursor": format_cursor(after)}
            after = Subject(episode.tenant, episode.agent, episode.episode)
            shown.append(msgspec.Raw(msgspec.json.encode(episode_view(episode))))
            size += len(shown[-1])
        if len(page) < wanted:
            return {"episodes": shown}
        if len(shown) == arguments.limit or size > MAX_PAGE_BYTES:
            return {"episodes": shown, "cursor": format_cursor(after)}


@_from("shadow")
async def dlq_list(caller: Caller, store: ProjectionStore, arguments: LettersArguments) -> dict[str, Any]:
    if arguments.cursor and not is_ulid(arguments.cursor):
        raise Invalid("cursor", "cursor is not one that this operation gave")
    tenant, state, after = _tenant(caller), arguments.state, arguments.cursor
    shown: list[dict[str, Any]] = []
    while len(shown) < arguments.limit:  # each row comes with its payload: not all of a page at once
        wanted = min(READ_AT_ONCE, arguments.limit - len(shown))
        letters = await store.dead_letters(tenant, state, after, wanted)
        shown += map(letter_view, letters)
        if len(letters) < wanted:
            return {"dead_letters": shown}
        after = letters[-1].id
    if await store.dead_letters(tenant, state, after, 1):
        return {"dead_letters": shown, "cursor": after}
    return {"dead_letters": shown}


@_from("shadow")
async def dlq_show(caller: Caller, store: ProjectionStore, arguments: LetterArguments) -> dict[str, Any]:
    letter = await store.dead_letter(_tenant(caller), arguments.id)
    if letter is None:
        raise BusError(Code.NOT_FOUND, "there is no such dead letter in this tenant")
    return {"dead_letter": letter_view(letter, payload=True)}


@_from("replay")
async def dlq_replay(
    caller: Caller, store: ProjectionStore, arguments: DeadLetterReplayArguments
) -> dict[str, Any]:
    payload = None if arguments.event is None else _encoded(arguments.event)
    return {"id": arguments.id, "outcome": await _control(caller, store).replay(arguments.id, payload)}


@_from("shadow")
async def dlq_discard(caller: Caller, store: ProjectionStore, arguments: DiscardArguments) -> dict[str, Any]:
    await _control(caller, store).discard(arguments.id, arguments.reason)
    return {"id": arguments.id, "outcome": "discarded"}


@_from("replay")
async def backfill(caller: Caller, store: ProjectionStore, arguments: BackfillArguments) -> dict[str, Any]:
    return await _derive(caller, store, arguments, rebuild=False)


@_from("replay")
async def rebuild(caller: Caller, store: ProjectionStore, arguments: BackfillArguments) -> dict[str, Any]:
    return await _derive(caller, store, arguments, rebuild=True)


async def _derive(
    caller: Caller, store: ProjectionStore, arguments: BackfillArguments, *, rebuild: bool
) -> dict[str, Any]:
    if arguments.agent_id is not None:
        _check_agent(arguments.agent_id)
    selection = Selection(
        _tenant(caller),
        arguments.agent_id,
        _time("from_ts", arguments.from_ts),
        _time("to_ts", arguments.to_ts),
    )
    after = parse_cursor(arguments.cursor)
    step = await _control(caller, store).step(
        selection, after, arguments.limit, rebuild=rebuild, dry_run=arguments.dry_run
    )
    result: dict[str, Any] = {
        "dry_run": arguments.dry_run,
        "episodes": step.episodes,
        "events": step.events,
        "changed": step.changed,
        "orphans": step.orphans,
    }
    if step.next is not None:
        result["cursor"] = format_cursor(step.next)
    return result


def _tenant(caller: Caller) -> str:
    return caller.peer.session.identity.tenant


def _control(caller: Caller, store: ProjectionStore) -> Control:
    identity, policy = caller.peer.session.identity, caller.node.settings.policy
    boundary = Boundary(frozenset(policy.blocked_keys), policy.max_value_bytes)
    return Control(store, identity.tenant, identity.subject, boundary)


def _encoded(event: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(event)
    except (UnicodeError, RecursionError, msgspec.EncodeError):
        raise Invalid(
            "event", "event holds what JSON cannot: half a surrogate pair, or too many levels"
        ) from None


def _check_agent(agent: str) -> None:
    if not is_name(agent):
        raise Invalid("agent_id", "agent_id is not 1-128 of A-Z a-z 0-9 . _ -")


def _time(field: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=wire_json.parse_time(field, text))


_PREFIX = "op.continuum.projector"
COMMANDS = tuple(
    Command(f"{_PREFIX}.{name}", summary, arguments, handler, who="admin")
    for name, summary, arguments, handler in (
        ("status", "Show the counts and the books of the tenant's projection.", NoArguments, status),
        ("project_event", "Project one event by hand.", EventArguments, project_event),
        ("get", "Show one episode.", EpisodeArguments, get),
        ("list", "List episodes, by agent and id.", EpisodeListArguments, list_),
        ("dlq.list", "List records that could not be projected, oldest first.", LettersArguments, dlq_list),
        ("dlq.show", "Show one dead letter, with its payload.", LetterArguments, dlq_show),
        (
            "dlq.replay",
            "Project a dead letter again, unchanged or corrected.",
            DeadLetterReplayArguments,
            dlq_replay,
        ),
        ("dlq.discard", "Discard a dead letter.", DiscardArguments, dlq_discard),
        (
            "backfill",
            "Project a window of events again; an older event never replaces a newer one.",
            BackfillArguments,
            backfill,
        ),
        ("rebuild", "Rebuild episodes from all of their events.", BackfillArguments, rebuild),
    )
)

__all__ = ["COMMANDS", "store_of"]
