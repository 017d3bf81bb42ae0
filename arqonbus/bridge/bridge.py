"""The bridge: connects to NATS, runs both directions, and starts again when the connection breaks.

A break discards the messages in progress: unacknowledged ones are delivered again, by NATS or from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from arqonbus.bridge.inbound import Inbound
from arqonbus.bridge.outbound import SENDER, Outbound, describe
from arqonbus.bridge.state import BridgeTotals
from arqonbus.bus.loopback import Loopback
from arqonbus.bus.node import Node
from arqonbus.config import Settings
from arqonbus.config.stores import Nats, login
from arqonbus.config.subjects import Address
from arqonbus.shield.grants import EVERYTHING, Grants, parse_grant
from arqonbus.shield.tokens import NEVER, Identity
from arqonbus.storage.client_tls import client_context

CONNECT_SECONDS = 5
PING_SECONDS = 10
RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 5.0
STOP_SECONDS = 10.0

logger = logging.getLogger(__name__)


class NatsBridge:
    """The bridge of one node."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self._settings = settings.bridge
        self._store = settings.datastores.nats
        grants = [parse_grant(text) for text in settings.bridge.grants]
        everything = settings.environment == "dev" and not grants
        self._grants = EVERYTHING if everything else Grants(tuple(grants))
        self.state = BridgeTotals()
        self._ins: Sequence[Inbound] = ()
        self._out = Outbound(node, settings.bridge, self._may_consume, self.state)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. NATS need not be there: the bridge waits for it."""
        self.state.reason = "NATS was not reached yet"
        self._task = asyncio.get_running_loop().create_task(self._run(), name="bridge")

    async def stop(self) -> None:
        """Finish what is under way, within some seconds, and disconnect."""
        self._stopping.set()
        self._out.stop()
        for inbound in self._ins:
            inbound.stopping = True
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
                await asyncio.wait([task])

    def facts(self) -> Mapping[str, Any]:
        """State of the bridge for /readyz?verbose."""
        state = self.state
        return {"connected": state.connected, "reason": state.reason, "rooms": state.rooms}

    # -- life

    async def _run(self) -> None:
        pause = RETRY_SECONDS
        while not self._stopping.is_set():
            try:
                await self._session()
                pause = RETRY_SECONDS
            except* (NatsError, OSError, TimeoutError) as failures:
                pause = RETRY_SECONDS if self.state.connected else min(pause * 2, MAX_RETRY_SECONDS)
                self._on_failure(describe(_first(failures)))
            except* Exception:
                self._on_failure("the bridge failed; the log has the reason")
                logger.exception("the bridge failed and starts again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    def _on_failure(self, reason: str) -> None:
        if self.state.connected or self.state.reason != reason:
            logger.warning("the bridge is not connected to NATS, and tries again", extra={"reason": reason})
        self.state.connected = False
        self.state.reason = reason

    async def _session(self) -> None:
        """One connection to NATS, until it breaks or the bridge stops."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client = await self._connect(gone)
        try:
            jetstream = client.jetstream(timeout=CONNECT_SECONDS)
            await self._provide_stream(jetstream)
            self._on_connected(client)
            self._ins = [
                Inbound(jetstream, self._settings, mapping, self._join, self.state)
                for mapping in self._settings.mappings
                if mapping.goes("in")
            ]
            if self._stopping.is_set():
                return
            async with asyncio.TaskGroup() as tasks:
                ways = [tasks.create_task(inbound.run(), name="bridge in") for inbound in self._ins]
                if self._out.has_routes:
                    ways.append(tasks.create_task(self._out.run(jetstream), name="bridge out"))
                breaking = tasks.create_task(_until_broken(gone))
                await asyncio.wait(ways)
                breaking.cancel()
        finally:
            gone.cancel()
            await _close(client)

    def _on_connected(self, client: Client) -> None:
        self.state.connected, self.state.reason = True, ""
        self.state.connects += 1
        self.state.max_payload = client.max_payload
        logger.info("the bridge is connected to NATS", extra={"server": str(client.connected_server_version)})

    async def _connect(self, gone: asyncio.Future[None]) -> Client:
        last: list[Exception] = []

        async def on_error(error: Exception) -> None:
            last.append(error)
            del last[:-1]

        async def on_end() -> None:
            if not gone.done():
                gone.set_exception(last[0] if last else NatsError("nats: the connection was closed"))

        async with asyncio.timeout(CONNECT_SECONDS):
            return await nats.connect(
                allow_reconnect=False,  # the whole bridge starts again instead
                name=f"{self._settings.name} {self._node.name}",
                connect_timeout=CONNECT_SECONDS,
                ping_interval=PING_SECONDS,
                max_outstanding_pings=2,
                error_cb=on_error,
                disconnected_cb=on_end,
                closed_cb=on_end,
                **_credentials(self._store),
            )

    async def _provide_stream(self, jetstream: JetStreamContext) -> None:
        try:
            await jetstream.stream_info(self._settings.stream)
        except NotFoundError:
            if not self._settings.create_stream:
                raise NatsError(
                    f"the stream {self._settings.stream} does not exist; make it, or set bridge.create_stream"
                ) from None
            subjects = [*self._settings.subjects, self._settings.dead_letters]
            await jetstream.add_stream(StreamConfig(name=self._settings.stream, subjects=subjects))
            logger.info("the bridge made the stream", extra={"stream": self._settings.stream})

    # -- who the bridge is on the bus

    def _identity(self, tenant: str) -> Identity:
        return Identity(tenant, SENDER, "service", "user", self._grants, NEVER, "")

    def _join(self, tenant: str) -> Loopback:
        return Loopback(self._node, self._identity(tenant), SENDER)

    def _may_consume(self, address: Address) -> bool:
        allowed = self._node.room_settings.of(address.room).grants
        return self._grants.allows("consume", address.room) or "consume" in allowed


def _credentials(store: Nats) -> dict[str, Any]:
    """Options of the connection: address, login and TLS. Raises OSError for unusable files."""
    host, port = store.address
    at_host = f"{store.url.netloc_host if store.url else ''}:{port}"
    options: dict[str, Any] = {"servers": [f"nats://{at_host}"]}
    user, password = login(store)
    if user and password:
        options |= {"user": user, "password": password}
    elif user or password:
        options["token"] = user or password
    if store.encrypted:
        tls: ssl.SSLContext = client_context(store.tls)
        options |= {"tls": tls, "tls_hostname": host}
        options["servers"] = [f"tls://{at_host}"]
    return options


async def _until_broken(gone: asyncio.Future[None]) -> None:
    await gone


async def _close(client: Client) -> None:
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.close()


def _first(failures: BaseExceptionGroup[Any]) -> BaseException:
    """One of them: the first is what the others follow from."""
    one: BaseException = failures
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one


__all__ = ["NatsBridge"]
