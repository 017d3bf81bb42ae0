"""The owner of the connection: one task that connects, reads, and comes back, until the client is closed.

States and decisions are those of docs/reference/client-behaviour.md. Nothing that the program supplies runs
in the owner's task without a guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl
from collections.abc import Coroutine
from typing import Any, Protocol

from arqonbus.client.backoff import Backoff
from arqonbus.client.callbacks import Callbacks
from arqonbus.client.errors import ClientError, Closed, ConnectionRefused, Disconnected, NotConnected
from arqonbus.client.link import Link, WireName
from arqonbus.client.opening import Expired, TryAgain, Untrusted, open_link
from arqonbus.client.state import State, StateName
from arqonbus.client.tokens import TokenFailed, TokenSource
from arqonbus.protocol.envelope import SIGNAL, Envelope

WELCOME_SECONDS = 10.0
USEFUL_SECONDS = 5.0  # after which a link counts as a success, so that the backoff starts over
DEFAULT_PING_INTERVAL = 30.0
HANDOVER_SECONDS = 5.0  # that a replaced link has to answer what it was asked

NORMAL, INTERNAL, TOO_BIG, TOKEN_EXPIRED = 1000, 1011, 1009, 4101
PROTOCOL_ERRORS = frozenset({1002, 1003, 1007, 1008})

logger = logging.getLogger("arqonbus.client")


def is_final(close_code: int, *, renewable: bool = False) -> bool:
    """True if a close code ends the client. `renewable`: a fresh token is available."""
    if close_code == TOKEN_EXPIRED and renewable:
        return False
    return close_code in PROTOCOL_ERRORS or 4100 <= close_code <= 4199


class Listener(Protocol):
    """Receiver of the connection's events. No method may block or raise."""

    def link_opened(self, link: Link) -> None:
        """The welcome of a link came; it is used from now on."""

    def received(self, link: Link, envelope: Envelope, size: int) -> None:
        """An envelope came, the welcome included. `size`: about how many bytes it has."""

    def link_ended(self, link: Link, error: Disconnected, *, too_big: bool) -> None:
        """A link ended, after its last envelope. `too_big`: because of the size of what was sent."""

    def ended(self, error: ClientError) -> None:
        """There will be no further link."""


class _Reading:
    """A link together with the task that reads it."""

    def __init__(self, link: Link, read: Coroutine[Any, Any, None]) -> None:
        loop = asyncio.get_running_loop()
        self.link = link
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.since = 0.0
        self.goaway: asyncio.Future[float] = loop.create_future()
        self.task = loop.create_task(read)


class Connection:
    """Keeps one link to the bus for as long as the client lives."""

    def __init__(
        self,
        url: str,
        token: TokenSource,
        wire: WireName,
        tls: ssl.SSLContext | None,
        listener: Listener,
        callbacks: Callbacks,
    ) -> None:
        self.url = url
        self.token = token
        self.state = State("idle", "not connected yet")
        self.reconnects = 0
        self.link: Link | None = None  # the one to send on, once it was welcomed
        self.end: ClientError | None = None
        self._wire: WireName = wire
        self._tls = tls
        self._listener = listener
        self._callbacks = callbacks
        self._ready = asyncio.Event()  # there is a link, or there will not be one
        self._finished = asyncio.Event()
        self._backoff = Backoff()
        self._owner: asyncio.Task[None] | None = None
        self._readings: dict[Link, _Reading] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._was_online = False

    # -- for the client

    def start(self) -> None:
        """Begin to connect. Raises RuntimeError when that was done before."""
        if self._owner is not None or self.end is not None:
            raise RuntimeError("connect was called before; create another Client")
        self.change("connecting", f"connecting to {self.url}")
        self._owner = asyncio.get_running_loop().create_task(self._own())

    async def ready(self, deadline: float) -> Link:
        """The link to send on, waiting for it until the deadline.

        Raises the client's end, or NotConnected.
        """
        while True:
            if self.end is not None:
                raise self.end.with_traceback(None)
            if self.link is not None:
                return self.link
            if self._owner is None:
                raise RuntimeError("the client is not connected; call connect() or use `async with`")
            try:
                async with asyncio.timeout_at(deadline):
                    await self._ready.wait()
            except TimeoutError:
                raise self._not_connected() from self.state.error

    def _not_connected(self) -> NotConnected:
        return NotConnected(f"no connection to {self.url} in time: {self.state.reason}")

    async def finished(self) -> ClientError:
        """Wait for the end; why it came."""
        await self._finished.wait()
        assert self.end is not None
        return self.end

    async def close(self, error: ClientError) -> None:
        """End the connection."""
        if self.link is not None and self.end is None:
            await self.link.flush()
        self.finish(error)
        owner = self._owner
        if owner is not None and owner is not asyncio.current_task():
            owner.cancel()
            await asyncio.gather(owner, return_exceptions=True)

    def finish(self, error: ClientError) -> None:
        """End the client for good: keep the error and wake everything that waits. The first call counts."""
        if self.end is None:
            self.end = error
            self.link = None
            self._ready.set()
            self._listener.ended(error)
            self.change("closed", str(error), error)
            self._finished.set()

    def change(self, name: StateName, reason: str, error: Exception | None = None) -> None:
        """Enter a state, or update its reason."""
        state = State(name, reason, error)
        if (state.name, state.reason) == (self.state.name, self.state.reason):
            return
        level = logging.DEBUG if name in ("online", "connecting", "closed") else logging.INFO
        logger.log(level, "%s", state, extra={"url": self.url})
        self.state = state
        self._callbacks.state(state)

    # -- the owner

    async def _own(self) -> None:
        try:
            await self._stay_connected()
        except ClientError as error:
            self.finish(error)
        except asyncio.CancelledError:
            self.finish(Closed(NORMAL, "the client was cancelled"))
            raise
        except Exception as error:
            logger.exception("the client failed")
            failed = Closed(INTERNAL, f"the client failed: {type(error).__name__}: {error}")
            failed.__cause__ = error
            self.finish(failed)
        finally:
            self.link = None
            for reading in list(self._readings.values()):
                await self._drop(reading)
            for task in self._retiring:
                task.cancel()
            await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _stay_connected(self) -> None:
        """One link after the other. Raises what ends the client."""
        reading: _Reading | None = None
        while True:
            if reading is None:
                reading = await self._connected()
            self._use(reading)
            successor = await self._until_end(reading)
            if successor is None:
                self._ended(reading)
                await self._drop(reading)
                await asyncio.sleep(self._backoff.next())
            else:
                self._retire(reading)
            self.reconnects += 1
            reading = successor

    async def _connected(self) -> _Reading:
        """A link that was welcomed, however many attempts it takes. Raises what is final."""
        while True:
            after = 0.0
            try:
                return await self._attempt()
            except TokenFailed as failure:
                self._callbacks.failed(_cause_of(failure), "token")
                self._obstacle(failure)
            except Untrusted as failure:
                if not self._was_online:
                    raise NotConnected(str(failure)) from failure.__cause__
                self._obstacle(failure)
            except Expired as failure:
                if not self.token.renewable:
                    raise _cause_of(failure) from None
                self._obstacle(failure)
            except TryAgain as failure:
                after = failure.after
                self._obstacle(failure)
            await asyncio.sleep(self._backoff.next(after))

    def _obstacle(self, failure: Exception) -> None:
        """Say why there is no link yet."""
        name: StateName = "rejoining" if self._was_online else "connecting"
        self.change(name, str(failure), _cause_of(failure))

    async def _attempt(self) -> _Reading:
        """One attempt: token, upgrade, welcome."""
        token = await self.token.fresh()
        link = await open_link(self.url, token, self._wire, self._tls)
        reading = _Reading(link, self._read(link))
        self._readings[link] = reading
        try:
            await asyncio.wait(
                (reading.welcomed, reading.task),
                timeout=WELCOME_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if reading.welcomed.done():
                return reading
            if not reading.task.done():
                raise TryAgain(f"the bus did not send its welcome within {WELCOME_SECONDS:g} s")
            self._raise_if_final(link)
            raise TryAgain(f"the bus closed the connection at once: {link.close_reason} ({link.close_code})")
        finally:
            if not reading.welcomed.done():
                link.abort("no welcome came")
                await self._drop(reading)

    def _use(self, reading: _Reading) -> None:
        """Send on this link from now on."""
        reading.since = asyncio.get_running_loop().time()
        self.link = reading.link
        self._was_online = True
        if not reading.task.done():
            self._ready.set()
            self._listener.link_opened(reading.link)

    async def _until_end(self, reading: _Reading) -> _Reading | None:
        """Wait until the link ended; or, when the bus announced it in time, give a link to replace it."""
        await asyncio.wait((reading.task, reading.goaway), return_when=asyncio.FIRST_COMPLETED)
        if not reading.task.done():
            with contextlib.suppress(TryAgain, TokenFailed, ConnectionRefused, NotConnected):
                delay = random.uniform(0, reading.goaway.result() / 2)  # noqa: S311  (jitter)
                await asyncio.wait((reading.task,), timeout=delay)
                if not reading.task.done():
                    return await self._attempt()
            await asyncio.wait((reading.task,))
        return None

    def _ended(self, reading: _Reading) -> None:
        """Account for the end of the link in use. Raises what ends the client."""
        link = reading.link
        self.link = None
        link.over = True
        self._ready.clear()
        if asyncio.get_running_loop().time() - reading.since >= USEFUL_SECONDS:
            self._backoff.reset()
        reason = f"{link.close_reason} ({link.close_code})"
        lost = Disconnected(f"the connection ended before the answer came: {reason}")
        self._listener.link_ended(link, lost, too_big=link.close_code == TOO_BIG)
        self._raise_if_final(link)
        self.change("rejoining", f"the connection was lost: {reason}", lost)

    def _raise_if_final(self, link: Link) -> None:
        if is_final(link.close_code, renewable=self.token.renewable):
            raise Closed(link.close_code, link.close_reason)

    def _retire(self, reading: _Reading) -> None:
        """Let a replaced link finish what it was asked, then close it."""

        async def retire() -> None:
            await asyncio.wait((reading.task,), timeout=HANDOVER_SECONDS)
            reading.link.over = True
            lost = Disconnected("the connection was replaced before the answer came")
            self._listener.link_ended(reading.link, lost, too_big=False)
            await self._drop(reading)

        task = asyncio.get_running_loop().create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _drop(self, reading: _Reading) -> None:
        """Close a link and forget it."""
        self._readings.pop(reading.link, None)
        reading.task.cancel()
        await asyncio.gather(reading.task, return_exceptions=True)
        for future in (reading.welcomed, reading.goaway):
            future.cancel()
        await reading.link.close()

    async def _read(self, link: Link) -> None:
        """Hand on what a link brings, until it ends."""
        try:
            async for envelopes, size in link.frames():
                for envelope in envelopes:
                    if envelope.kind == SIGNAL:
                        self._signal(link, envelope)
                    self._listener.received(link, envelope, size)
        except Exception as error:
            logger.exception("an envelope could not be handled")
            link.abort(f"an envelope could not be handled: {type(error).__name__}: {error}")

    def _signal(self, link: Link, envelope: Envelope) -> None:
        """The signals that concern the connection itself."""
        reading = self._readings.get(link)
        if reading is None:
            return
        if envelope.name == "welcome" and not reading.welcomed.done():
            link.welcomed(json.loads(envelope.payload), DEFAULT_PING_INTERVAL)
            reading.welcomed.set_result(None)
        elif envelope.name == "goaway" and not reading.goaway.done():
            facts = json.loads(envelope.payload)
            reading.goaway.set_result(facts.get("reconnect_after_ms", 0) / 1000)


def _cause_of(failure: Exception) -> Exception:
    """The error for the program: the answer of the bus, or the transport's error."""
    if isinstance(failure, TryAgain) and failure.refused is not None:
        return failure.refused
    cause = failure.__cause__
    return cause if isinstance(cause, Exception) else failure


__all__ = ["Connection", "Listener", "is_final"]
