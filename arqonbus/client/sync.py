"""The client without asyncio, for scripts, Django views and worker processes. Safe to share between threads.

All synchronous clients of a process run on one event loop in one background thread.

>>> with sync.Client(url, token) as bus:
...     bus.publish("orders", {"id": 1}).sequence
1
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from arqonbus.client import client as asynchronous
from arqonbus.client import subscription as subscriptions
from arqonbus.client.message import Ack, Member, Message, Payload
from arqonbus.client.state import State
from arqonbus.client.tokens import Token
from arqonbus.protocol.clocks import Position

T = TypeVar("T")

AT_ONCE = 256  # messages that cross from the background thread together

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process: a fork does not inherit the thread


def _loop() -> asyncio.AbstractEventLoop:
    """The background loop of this process."""
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="arqonbus", daemon=True).start()
        return loop


def _call(work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run it on the background loop. Interrupted or too late, it is cancelled there."""
    loop = _loop()
    if asyncio._get_running_loop() is loop:
        work.close()
        raise RuntimeError("a callback of a synchronous client must not call it; it would wait for itself")
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result(timeout)
    except BaseException:
        future.cancel()
        raise


def _in_a_thread(token: Token) -> Token:
    """A token function that blocks must not block the loop that all clients share."""
    if isinstance(token, str) or inspect.iscoroutinefunction(token):
        return token

    async def fresh() -> str:
        given: str | Awaitable[str] = await asyncio.to_thread(token)
        return given if isinstance(given, str) else await given

    return fresh


class Client:
    """A synchronous client; arguments, errors and behaviour are those of arqonbus.client.Client.

    Callbacks run on the background thread and must not call this client.

    >>> bus = sync.Client(url, token)
    >>> bus.connect()
    >>> bus.state.name
    'online'
    >>> bus.close()
    """

    def __init__(self, url: str, token: Token, **options: Any) -> None:
        async def made() -> asynchronous.Client:
            return asynchronous.Client(url, _in_a_thread(token), **options)

        self._process = os.getpid()
        self._client = _call(made())

    def __repr__(self) -> str:
        return f"<sync.Client {self._client.url} {self.state.name}>"

    @property
    def state(self) -> State:
        """State of the connection, with a reason."""
        return self._client.state

    @property
    def welcome(self) -> dict[str, Any]:
        """The welcome of the bus."""
        return self._client.welcome

    def connect(self) -> None:
        """Connect and wait for the welcome."""
        self._run(self._client.connect())

    def close(self) -> None:
        """End everything."""
        self._run(self._client.close())

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, room: str, payload: Payload, **options: Any) -> Ack:
        """Publish and wait for the ack.

        >>> bus.publish("news", "hello").duplicate
        False
        """
        return self._run(self._client.publish(room, payload, **options))

    def publish_many(self, room: str, payloads: Sequence[Payload], **options: Any) -> list[Ack]:
        """Publish messages together.

        >>> len(bus.publish_many("news", [1, 2, 3]))
        3
        """
        return self._run(self._client.publish_many(room, payloads, **options))

    def send(self, recipient: str, payload: Payload, **options: Any) -> Ack:
        """Send to one client by its client id."""
        return self._run(self._client.send(recipient, payload, **options))

    def request(self, room: str, payload: Payload, **options: Any) -> Message:
        """Ask the service of a room and wait for its answer."""
        return self._run(self._client.request(room, payload, **options))

    def command(
        self, operation: str, arguments: Mapping[str, Any] | None = None, *, again: bool = False
    ) -> Any:
        """Run an operation and return its result.

        >>> bus.command("op.ping")["pong"]
        True
        """
        return self._run(self._client.command(operation, arguments, again=again))

    def presence(self, room: str, *, limit: int = 100) -> list[Member]:
        """The clients in a room."""
        return self._run(self._client.presence(room, limit=limit))

    def last_value(self, room: str, *, channel: str = "") -> Message | None:
        """The newest message that a room holds, or None.

        >>> bus.last_value("news").json()
        3
        """
        return self._run(self._client.last_value(room, channel=channel))

    def history(self, room: str, **options: Any) -> Iterator[Message]:
        """The messages of a room, read page after page.

        >>> [message.json() for message in bus.history("news")]
        ['hello', 1, 2, 3]
        """
        messages = self._client.history(room, **options)

        async def some() -> list[Message]:
            found: list[Message] = []
            async for message in messages:
                found.append(message)
                if len(found) == AT_ONCE:
                    break
            return found

        while batch := self._run(some()):
            yield from batch

    def subscribe(self, room: str, **options: Any) -> Subscription:
        """Subscribe to a room; iterate over the result, or `get` from it.

        >>> with bus.subscribe("news") as news:
        ...     ack = bus.publish("news", 4)
        ...     news.get(timeout=5).json()
        4
        """
        return Subscription(self, self._run(self._client.subscribe(room, **options)))

    def _run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        if os.getpid() != self._process:
            work.close()
            raise RuntimeError("the process was forked after this client was made; make one in each process")
        return _call(work, timeout)


class Subscription:
    """Messages of a room; see arqonbus.client.Subscription. Iterate over it in one thread."""

    def __init__(self, client: Client, subscription: subscriptions.Subscription) -> None:
        self.position: Position | None = subscription.position
        self._client = client
        self._subscription = subscription
        self._batch: deque[Message] = deque()

    def __repr__(self) -> str:
        return f"<sync {self._subscription!r}>"

    def get(self, timeout: float | None = None) -> Message:
        """The next message. Raises TimeoutError, MessagesLost, and StopIteration when it was closed."""
        if not self._batch:
            self._batch.extend(self._client._run(self._some(timeout)))
        if not self._batch:
            raise StopIteration
        message = self._batch.popleft()
        self.position = Position(message.epoch, message.sequence)
        return message

    async def _some(self, timeout: float | None) -> list[Message]:
        """The messages that wait, at least one of them; none when it was closed."""
        async with asyncio.timeout(timeout):
            first = await anext(self._subscription, None)
        found = [] if first is None else [first]
        while self._subscription.pending and len(found) < AT_ONCE:
            found.append(await anext(self._subscription))
        return found

    def close(self) -> None:
        """Leave the room; the iteration ends."""
        self._client._run(self._subscription.close())

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        return self.get()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["Client", "Subscription"]
