"""The client: connects, publishes, subscribes, runs commands, and reconnects by itself.

async with Client("ws://127.0.0.1:9100/v1/ws", token) as client:
    async with await client.subscribe("orders") as orders:
        ack = await client.publish("orders", {"item": 1})
        async for message in orders:
            print(message.json())
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any

from arqonbus.client.callbacks import Callbacks, OnError
from arqonbus.client.calls import Calls, Signer
from arqonbus.client.connection import NORMAL, Connection
from arqonbus.client.engine import Engine
from arqonbus.client.errors import ClientError, Closed
from arqonbus.client.link import WireName
from arqonbus.client.message import Message
from arqonbus.client.opening import check_url
from arqonbus.client.state import State
from arqonbus.client.tokens import Token
from arqonbus.protocol.envelope import Envelope


class _Closing:
    """Awaitable until the client is closed, for why it was; true once it is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __await__(self) -> Generator[Any, None, ClientError]:
        return self._connection.finished().__await__()

    def __bool__(self) -> bool:
        return self._connection.end is not None


class Client(Calls):
    """A connection to a bus that outlives failures of network, bus and callbacks.

    All methods belong to one event loop. `token` is a string, or a function, also an asynchronous one, that
    gives a fresh one: then the client renews its token before it expires. `timeout` in seconds bounds each
    call, reconnects included. Callbacks may raise or be asynchronous; their errors go to `on_error(error,
    where)`, or to the log. docs/reference/client-behaviour.md states every timer and decision.

    >>> async with Client(url, token, on_state=print) as other:
    ...     await other.command("op.ping")
    connecting: connecting to ws://...
    online: connected to ws://...
    {'pong': True...}
    closed: the client was closed (1000)
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        wire: WireName = "protobuf",
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
        on_signal: Callable[[Envelope], Any] | None = None,
        on_direct: Callable[[Message], Any] | None = None,
        on_state: Callable[[State], Any] | None = None,
        on_error: OnError | None = None,
        signer: Signer | None = None,
    ) -> None:
        """`signer` signs what is published; see protocol.signatures.

        Raises ValueError for an unusable url.
        """
        self.url = check_url(url)
        callbacks = Callbacks(on_signal, on_direct, on_state, on_error)
        engine = Engine(url, token, wire=wire, timeout=timeout, tls=tls, callbacks=callbacks)
        super().__init__(engine, timeout, signer)
        self._connection = engine.connection

    def __repr__(self) -> str:
        return f"<Client {self.url} {self.state.name}>"

    # -- life

    @property
    def state(self) -> State:
        """State of the connection, with a reason.

        >>> client.state.name, str(client.state)
        ('online', 'online: connected to ws://...')
        """
        return self._connection.state

    @property
    def closed(self) -> _Closing:
        """`await client.closed` waits for the end and gives its error; `if client.closed:` does not wait.

        >>> other = Client(url, token)
        >>> await other.connect()
        >>> await other.close()
        >>> bool(client.closed), bool(other.closed), await other.closed
        (False, True, Closed('the client was closed (1000)'))
        """
        return _Closing(self._connection)

    @property
    def reconnects(self) -> int:
        """Number of times that the connection was replaced."""
        return self._connection.reconnects

    async def connect(self) -> None:
        """Connect and wait for the welcome.

        Raises ConnectionRefused or NotConnected at once for what trying again does not mend, and NotConnected
        with the last cause after the timeout.
        """
        self._connection.start()
        try:
            await self._connection.ready(asyncio.get_running_loop().time() + self._timeout)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End everything; subscriptions end their iteration, calls under way raise Closed."""
        await self._engine.close(Closed(NORMAL, "the client was closed"))

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


__all__ = ["Client", "Signer", "Token"]
