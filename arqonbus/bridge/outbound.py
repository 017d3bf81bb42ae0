"""From the bus to NATS: a consumer group per mapped room, acked when JetStream has stored the message.

Nodes share the group, so a message goes out once although all of them run a bridge. What NATS cannot take for
what it is becomes a dead letter of the group; what it cannot take now is given back and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from google.protobuf.message import DecodeError
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import Error as JetStreamError

from arqonbus.bridge import messages
from arqonbus.bridge.ending import is_cancelled
from arqonbus.bridge.state import BridgeTotals
from arqonbus.bus.groups import dead_letter_room
from arqonbus.bus.node import Node
from arqonbus.config.bridge import Bridge
from arqonbus.config.subjects import Address, Route
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code
from arqonbus.protocol.names import is_name
from arqonbus.storage.ports import FROM_BEGIN, GroupJob, GroupKey, GroupRead, RoomKey, StorageError

GROUP = "arqonbus.bridge"  # clients may look at groups of this prefix, and no more
SENDER = "nats-bridge"  # how the client ids of the bridge begin
WORKERS = 4
BATCH = 256
LEASE_US = 15_000_000
ACK_SECONDS = 10.0  # for JetStream to store a batch
DISCOVER_SECONDS = 1.0
IDLE_SECONDS = 5.0  # how often a quiet room is asked for jobs that another node left behind
RETRY_US = 1_000_000
PAGE = 1000
TOO_LARGE = 10054  # the stream's own limit of a message's size

logger = logging.getLogger(__name__)


class Outbound:
    """All ways out of one node. It knows each room that a mapping names, from within a second on."""

    def __init__(
        self, node: Node, settings: Bridge, may: Callable[[Address], bool], state: BridgeTotals
    ) -> None:
        """`may`: whether the bridge may consume the room."""
        self._node = node
        self._settings = settings
        self._routes = [mapping.route for mapping in settings.mappings if mapping.goes("out")]
        self._may = may
        self._state = state
        self._subjects: dict[RoomKey, str] = {}
        self._refused: set[RoomKey] = set()
        self._awake: dict[RoomKey, None] = {}
        self._busy: set[RoomKey] = set()
        self._held: dict[RoomKey, GroupRead] = {}  # read, and not yet settled
        self._work_to_do = asyncio.Event()
        self.stopping = False

    async def run(self, jetstream: JetStreamContext) -> None:
        """Take messages out until `stop`. Raises what nats raises when the server is gone."""
        async with asyncio.TaskGroup() as tasks:
            finding = tasks.create_task(self._discover(), name="bridge rooms")
            workers = [tasks.create_task(self._work(jetstream), name="bridge out") for _ in range(WORKERS)]
            await asyncio.wait(workers)
            finding.cancel()

    @property
    def has_routes(self) -> bool:
        """True if any mapping goes out."""
        return bool(self._routes)

    def stop(self) -> None:
        """Let `run` end after the batches at hand."""
        self.stopping = True
        self._work_to_do.set()

    def wake(self, room: RoomKey) -> None:
        """Something may have been appended to the room."""
        self._awake[room] = None
        self._work_to_do.set()

    # -- which rooms

    async def _discover(self) -> None:
        loop = asyncio.get_running_loop()
        asked = -IDLE_SECONDS
        while not self.stopping:
            try:
                await self._give_back_held()
            except (StorageError, BusError) as error:
                self._state.say("held", "the bridge waits for the log", reason=str(error))
            for route in self._routes:
                for tenant, name in route.addresses(self._settings.tenants):
                    try:
                        await self._find(route, tenant, name)
                    except (StorageError, BusError) as error:  # of one tenant; the others go on
                        facts = {"tenant": tenant, "reason": str(error)}
                        self._state.say(f"rooms of {tenant}", "the bridge waits for the log", **facts)
            if loop.time() - asked >= IDLE_SECONDS:
                asked = loop.time()
                for room in self._subjects:
                    self.wake(room)
            await asyncio.sleep(DISCOVER_SECONDS)

    async def _give_back_held(self) -> None:
        """Return the jobs that a broken connection left unfinished now, before their leases end."""
        for room in [room for room in self._held if room not in self._busy]:
            given = self._held[room]
            group, groups = GroupKey(room, GROUP), self._node.groups.store
            for job in given.jobs:
                await groups.nack(group, given.epoch, self._node.name, job.entry.sequence, 0, job.reason)
            del self._held[room]
            self.wake(room)

    async def _find(self, route: Route, tenant: str, name: str) -> None:
        """Add the room of that name, or for an open route all that begin with it."""
        if not route.open:
            await self._add(route, RoomKey(tenant, name))
            return
        after = _just_before(name)
        while True:
            page = await self._node.event_log.rooms(tenant, after, PAGE)
            rooms = [room for room in page.rooms if room.startswith(name)]
            for room in rooms:
                await self._add(route, RoomKey(tenant, room))
            if not page.more or len(rooms) < len(page.rooms):
                break
            after = page.rooms[-1]

    async def _add(self, route: Route, room: RoomKey) -> None:
        if room in self._subjects or room in self._refused or room.room.endswith(f".dlq.{GROUP}"):
            return
        subject = route.subject(Address(*room))
        group = GroupKey(room, GROUP)
        if subject is None:
            return
        problem = ""
        if not self._may(Address(*room)):
            problem = "bridge.grants does not let the bridge consume it"
        elif not is_name(dead_letter_room(group)):
            problem = "its name is too long for the name of its dead letters"
        elif self._node.room_settings.of(room.room).in_process:
            problem = "it is kept in memory, where there are no consumer groups"
        if problem:
            self._refused.add(room)
            logger.error(
                "a room is not taken to NATS: %s", problem, extra={"tenant": room.tenant, "room": room.room}
            )
            return
        await self._node.groups.store.ensure(group, FROM_BEGIN, 0)
        await self._node.follower.watch(room, partial(self.wake, room))
        self._subjects[room] = subject
        self._state.rooms = len(self._subjects)
        self.wake(room)

    # -- work

    async def _work(self, jetstream: JetStreamContext) -> None:
        while not (self.stopping or is_cancelled()):
            room = next((room for room in self._awake if room not in self._busy), None)
            if room is None:
                self._work_to_do.clear()
                await self._work_to_do.wait()
                continue
            del self._awake[room]
            self._busy.add(room)  # one worker per room keeps its order
            try:
                await self._empty(jetstream, room)
            except (StorageError, BusError) as error:
                self._state.say("log", "the bridge waits for the log", reason=str(error))
                self._wake_later(room, RETRY_US)
            finally:
                self._busy.discard(room)
                self._work_to_do.set()

    async def _empty(self, jetstream: JetStreamContext, room: RoomKey) -> None:
        group = GroupKey(room, GROUP)
        given = await self._node.groups.read(group, self._node.name, BATCH, LEASE_US)
        if given.missed:
            self._state.messages["out", "missed"] += given.missed
            logger.error(
                "messages were dropped by the room's retention before the bridge had read them",
                extra={"tenant": room.tenant, "room": room.room, "missed": given.missed},
            )
        if given.jobs:
            self._awake[room] = None  # behind the others
            self._held[room] = given
            await self._pass_on(jetstream, group, given)
            del self._held[room]
        elif given.due_in_us:
            self._wake_later(room, given.due_in_us)

    async def _pass_on(self, jetstream: JetStreamContext, group: GroupKey, given: GroupRead) -> None:
        done: list[int] = []
        waiting: list[tuple[GroupJob, asyncio.Future[PubAck]]] = []
        failure: NatsError | None = None
        for job in given.jobs:
            envelope = _read(job)
            if envelope is None or envelope.sender.startswith(SENDER):
                done.append(job.entry.sequence)  # it came from NATS
                self._state.count("out", "own")
                continue
            headers = messages.to_headers(envelope, self._settings.name, given.epoch, job.entry.sequence)
            size = messages.size_of(headers, envelope.payload)
            if size > self._state.max_payload:
                await self._bury(
                    group, given.epoch, job, f"NATS takes {self._state.max_payload} bytes and it has {size}"
                )
                continue
            try:
                future = await jetstream.publish_async(
                    self._subjects[group.room], envelope.payload, headers=headers
                )
            except NatsError as error:
                failure = error
                await self._give_back(group, given.epoch, job, error)
            else:
                waiting.append((job, future))
        if waiting:
            await asyncio.wait([future for _, future in waiting], timeout=ACK_SECONDS)
        for job, future in waiting:
            refused = _error_of(future)
            if refused is None:
                done.append(job.entry.sequence)
                self._state.count("out", "OK")
            elif getattr(refused, "err_code", None) == TOO_LARGE:
                await self._bury(group, given.epoch, job, "it is larger than the stream of NATS takes")
            else:
                failure = refused
                await self._give_back(group, given.epoch, job, refused)
        if done:
            await self._node.groups.store.ack(group, given.epoch, done)
        if failure is not None and not isinstance(failure, JetStreamError):
            raise failure

    async def _bury(self, group: GroupKey, epoch: str, job: GroupJob, reason: str) -> None:
        await self._node.groups.give_up(group, epoch, job, reason)
        self._state.count("out", Code.TOO_LARGE)
        self._state.say(
            "out TOO_LARGE", "a message is too large for NATS and is in the dead letters of its group",
            tenant=group.room.tenant, room=group.room.room, sequence=job.entry.sequence,
        )  # fmt: skip

    async def _give_back(self, group: GroupKey, epoch: str, job: GroupJob, error: NatsError) -> None:
        self._state.count("out", Code.STORAGE_UNAVAILABLE)
        self._state.say("out", "NATS did not take a message; it is tried again", reason=describe(error))
        groups = self._node.groups.store
        await groups.nack(group, epoch, self._node.name, job.entry.sequence, RETRY_US, describe(error))
        self._wake_later(group.room, RETRY_US)

    def _wake_later(self, room: RoomKey, delay_us: int) -> None:
        asyncio.get_running_loop().call_later(delay_us / 1_000_000, self.wake, room)


def describe(error: BaseException) -> str:
    """The error in one line; some errors of nats have no text."""
    return messages.one_line(str(error) or type(error).__name__)


def _read(job: GroupJob) -> Envelope | None:
    try:
        return Envelope.FromString(job.entry.data)
    except DecodeError:
        return None


def _error_of(future: asyncio.Future[PubAck]) -> NatsError | None:
    if not future.done():
        future.cancel()
        return NatsError("nats: JetStream did not answer in time")
    error = future.exception()
    return error if error is None or isinstance(error, NatsError) else NatsError(str(error))


def _just_before(prefix: str) -> str:
    """A text that comes before every name with this beginning, and after no other by much."""
    return prefix[:-1] + chr(ord(prefix[-1]) - 1) + "~" if prefix else ""


__all__ = ["GROUP", "SENDER", "Outbound", "describe"]
