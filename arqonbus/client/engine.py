"""The working parts of a client, put together: what the connection brings goes to where it is waited for."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple

from arqonbus.client.backoff import Backoff
from arqonbus.client.callbacks import Callbacks
from arqonbus.client.connection import NORMAL, Connection
from arqonbus.client.errors import ClientError, Closed, Disconnected, Rejected
from arqonbus.client.link import Link, WireName
from arqonbus.client.membership import Memberships
from arqonbus.client.message import Message, command_envelope, error_of
from arqonbus.client.requests import Requests
from arqonbus.client.tokens import Token, TokenFailed, TokenSource
from arqonbus.protocol.envelope import MESSAGE, REPLY, SIGNAL, Envelope

REFRESH_BACKOFF = 0.5  # seconds; bound of the first wait after a refresh that failed


class AwaitedAnswer(NamedTuple):
    """Return address of a request, and the link that the answer arrives on."""

    link: Link
    future: asyncio.Future[Message]


class Engine:
    """A connection with its requests and rooms. Implements connection.Listener."""

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        wire: WireName,
        timeout: float,
        tls: ssl.SSLContext | None,
        callbacks: Callbacks,
    ) -> None:
        self.welcome: dict[str, Any] = {}
        self.answers: dict[str, AwaitedAnswer] = {}  # of services, by the id of the request
        self._token = TokenSource(token)
        self.callbacks = callbacks
        self.connection = Connection(url, self._token, wire, tls, self, callbacks)
        self.requests = Requests(self.connection, timeout)
        self.memberships = Memberships(self.connection, self.requests, callbacks)
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self, error: ClientError) -> None:
        """End the connection and everything that runs."""
        await self.connection.close(error)
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.callbacks.close()

    # -- what the connection says

    def link_opened(self, link: Link) -> None:
        self.welcome = link.welcome
        rejoining = self.memberships.rejoin(link)
        if rejoining:
            self.connection.change("rejoining", f"joining {len(rejoining)} rooms again")
            self._spawn(self._online_after(link, rejoining))
        else:
            self._online()

    async def _online_after(self, link: Link, rejoining: Sequence[asyncio.Task[None]]) -> None:
        await asyncio.wait(rejoining)
        if self.connection.link is link:
            self._online()

    def _online(self) -> None:
        self.connection.change("online", f"connected to {self.connection.url}")

    def received(self, link: Link, envelope: Envelope, size: int) -> None:
        kind = envelope.kind
        if kind == MESSAGE:
            if envelope.recipient:
                self._direct(Message(envelope))
            else:
                self.memberships.deliver(envelope, size)
        elif kind == REPLY:
            self.requests.answered(link, envelope)
        elif kind == SIGNAL:
            self._signal(link, envelope)

    def link_ended(self, link: Link, error: Disconnected, *, too_big: bool) -> None:
        self.memberships.link_ended(link)
        self.requests.link_ended(link, error, too_big=too_big)
        for answer in self.answers.values():
            if answer.link is link and not answer.future.done():
                answer.future.set_exception(Disconnected(str(error)))

    def ended(self, error: ClientError) -> None:
        self.requests.ended(error)
        self.memberships.end(error, failed=not (isinstance(error, Closed) and error.code == NORMAL))
        for answer in self.answers.values():
            if not answer.future.done():
                answer.future.set_exception(error)

    def _direct(self, message: Message) -> None:
        answer = self.answers.get(message.cause) if message.cause else None
        if answer is not None and not answer.future.done():
            answer.future.set_result(message)
        elif message.headers.get("rpc") not in ("reply", "error"):  # an answer that came too late or twice
            self.callbacks.direct(message)

    def _signal(self, link: Link, envelope: Envelope) -> None:
        name = envelope.name
        if name in ("gap", "epoch"):
            facts = json.loads(envelope.payload)
            reason = facts.get("reason") or f"sequences {facts['first']} to {facts['last']} are gone"
            self.memberships.lost(envelope.room, reason)
        elif name == "left":
            self.memberships.left(envelope.room)
        elif name == "token.expiring" and self._token.renewable:
            self._spawn(self._renew_token(link))
        elif name == "error":
            self.callbacks.failed(Rejected(error_of(envelope, envelope)), "bus")
        self.callbacks.signal(envelope)

    async def _renew_token(self, link: Link) -> None:
        """Refresh the token on this link; try again until that worked or the link ended."""
        backoff = Backoff(REFRESH_BACKOFF)
        try:
            await self.connection.ready(asyncio.get_running_loop().time() + self.requests.timeout)
            while self.connection.link is link:
                try:
                    token = await self._token.fresh()
                    refresh = command_envelope("op.auth.refresh", {"token": token})
                    await self.requests.ask(refresh, again=False)
                except TokenFailed as failure:
                    cause = failure.__cause__
                    self.callbacks.failed(cause if isinstance(cause, Exception) else failure, "token")
                except Rejected as refusal:
                    self.callbacks.failed(refusal, "token")
                else:
                    return
                await asyncio.sleep(backoff.next())
        except ClientError:
            return  # the link is gone; the next one begins with a fresh token

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


__all__ = ["AwaitedAnswer", "Engine"]
