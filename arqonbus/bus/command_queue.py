"""The commands of each client: run one after the other, in the order they came, answered in that order.

What waits for something is answered when it is there; the client's other commands go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from arqonbus.bus.peer import Peer
from arqonbus.bus.quotas import Quotas
from arqonbus.protocol import replies
from arqonbus.protocol.envelope import Envelope
from arqonbus.protocol.errors import BusError, Code

TURN_SECONDS = 0.002  # that the commands of one client run without a turn of the others


class Reply(NamedTuple):
    """A command's answer, and what is sent directly behind it."""

    envelope: Envelope
    then: Callable[[], None] | None = None


class Later(NamedTuple):
    """An answer that waits for something, while the client's other commands go on."""

    reply: Callable[[], Awaitable[Reply]]


class CommandQueues:
    """Runs what clients ask for. The bounds are those of the profile that holds at the time."""

    def __init__(
        self,
        run: Callable[[Peer, Envelope], Awaitable[Reply | Later]],
        *,
        most: Callable[[], int],
        quotas: Callable[[], Quotas],
        ready: Callable[[Peer], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """`most`: commands of one connection that may wait. `spawn`: a task of the node's own."""
        self._run = run
        self._most = most
        self._quotas = quotas
        self._ready = ready
        self._spawn = spawn

    def put(self, peer: Peer, command: Envelope) -> None:
        """Run it when its turn comes, or refuse it at once."""
        try:
            if len(peer.backlog or ()) >= self._most():
                raise BusError(Code.RATE_LIMITED, "too many commands wait already", retry_after_ms=100)
            self._quotas().begin_command(peer.session.accounts)
        except BusError as error:
            peer.session.rejected[error.code] += 1
            peer.answer(replies.refusal(error, command.id))
            return
        if peer.backlog is None:
            peer.backlog = deque((command,))
            self._spawn(self._work_off(peer))
        else:
            peer.backlog.append(command)

    async def _work_off(self, peer: Peer) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while peer.backlog and not peer.closing:
            if clock() - began > TURN_SECONDS:
                await asyncio.sleep(
                    0
                )  # a command need not wait for anything: the other clients have their turn
                began = clock()
            reply = await self._run(peer, peer.backlog[0])
            # No await from here to the end of `then`: a join goes live right behind its reply.
            peer.backlog.popleft()
            self._quotas().end_commands(peer.session.accounts, 1)
            if isinstance(reply, Later):
                self._answer_later(peer, reply)
            else:
                self._answer(peer, reply)
        self._quotas().end_commands(peer.session.accounts, len(peer.backlog or ()))
        peer.backlog = None

    def _answer(self, peer: Peer, reply: Reply) -> None:
        peer.answer(reply.envelope)
        if reply.then is not None:
            reply.then()
        self._ready(peer)

    def _answer_later(self, peer: Peer, later: Later) -> None:
        if peer.later is None:
            peer.later = set()
        task = self._spawn(self._wait_for(peer, later))
        peer.later.add(task)
        task.add_done_callback(peer.later.discard)

    async def _wait_for(self, peer: Peer, later: Later) -> None:
        reply = await later.reply()
        if not peer.closing:
            self._answer(peer, reply)


__all__ = ["CommandQueues", "Later", "Reply"]
